"""The command behind tools/ablate.py: train rows under one budget, print them beside the paper's.

Every row is an ordinary `recipe.train` in `<output>/<row>/seed_<seed>/<network>`, one after the
other in this process. A finished row is not trained again, an interrupted one goes on from its
`latest`; both only under the same settings. `<output>/ablation.md` and `ablation.json` hold what
is known so far, after every run. Read next: plan.py (recipes and budget), report.py, table.py.
"""

from __future__ import annotations

import argparse
import copy
import shlex
import sys
from collections.abc import Sequence

from experiments.ablation import record
from experiments.ablation.plan import Options, Run, find_data, find_rows, plan
from experiments.ablation.report import Report
from experiments.ablation.table import TABLES, Row, Score
from ppcls_lite.cli import INTERRUPTED
from ppcls_lite.config.check import check
from ppcls_lite.errors import UserError
from ppcls_lite.system.outputs import output_folder

Found = dict[tuple[str, int], Score]  # by row and seed


def run(argv: Sequence[str]) -> int:
    """The command line; returns the exit status: 130 after Ctrl-C.

    Raises UserError for everything that can be known to be wrong before the first step.
    """
    args = _parser().parse_args(argv)
    tables = list(TABLES) if "all" in args.table else list(dict.fromkeys(args.table))
    rows = find_rows(args.config, tables)
    options = Options(
        output=args.output,
        epochs=args.epochs,
        image_size=args.image_size,
        batch_size=args.batch_size,
        seeds=list(dict.fromkeys(args.seeds)),
        overrides=args.override,
    )
    runs = plan(rows, find_data(args.data), options)
    scores = finished(runs)
    report = Report(
        runs,
        networks(runs),
        tables,
        [name for name in rows if not any(name in TABLES[number].rows for number in tables)],
        args.output,
        shlex.join(["python", "tools/ablate.py", *argv]),
    )
    try:
        status = train_missing(runs, scores, report)
    except KeyboardInterrupt:
        status = INTERRUPTED
    report.write(scores)
    print(f"\n{report.markdown(scores)}\n\nin {report.folder}: ablation.md, ablation.json")
    if status:
        print(
            f"\nstopped, {len(scores)} of {len(runs)} runs are finished; give the same command "
            "again, without Global.checkpoints, and it goes on where it stopped",
            file=sys.stderr,
        )
    return status


def finished(runs: Sequence[Run]) -> Found:
    """The scores that are already there.

    Raises UserError naming every setting that differs from those of an earlier training.
    """
    scores, problems = {}, []
    for item in runs:
        earlier = record.read(item.folder)
        if earlier is None:
            continue
        changed = record.differences(earlier.settings, item.settings)
        if changed:
            done = "trained" if earlier.score else "begun"
            problems.append("\n    ".join([f"{item.folder} was {done} with", *changed]))
        elif earlier.score:
            scores[item.row, item.seed] = earlier.score
    if problems:
        raise UserError(
            "earlier runs had other settings (earlier -> now), and a table must not mix them:\n  "
            + "\n  ".join(problems)
            + "\nrestore the settings, choose another --output, or remove those folders"
        )
    return scores


def networks(runs: Sequence[Run]) -> dict[str, Row]:
    """Each row's network as it is trained, with its cost and no score yet."""
    from ppcls_lite.models.create import cost

    rows: dict[str, Row] = {}
    for item in runs:
        if item.row not in rows:
            settings = check(item.tree)
            found = cost(settings.Arch.build(), tuple(settings.Global.image_shape))
            rows[item.row] = Row(item.row, found.params, found.flops)
    return rows


def train_missing(runs: Sequence[Run], scores: Found, report: Report) -> int:
    """Train what has no score yet and add it to `scores`; a signal stops it. Exit status."""
    from ppcls_lite.recipe.train import train

    for number, item in enumerate(runs, 1):
        title = f"[{number}/{len(runs)}] {item.row}, seed {item.seed}"
        if (item.row, item.seed) in scores:
            print(f"{title}: finished earlier, not trained again", flush=True)
            continue
        tree = copy.deepcopy(item.tree)
        interrupted = record.read(item.folder) is not None
        if interrupted and (item.run_dir / "latest.pdstate").exists():
            tree["Global"]["checkpoints"] = str(item.run_dir / "latest")
        print(f"{title}: {'goes on' if 'checkpoints' in tree['Global'] else 'starts'}", flush=True)
        record.write(item.folder, item.settings, None)
        try:
            result = train(tree)
        except UserError as error:
            raise UserError(f"{title}: {error}") from error
        if result.exit_code:
            return result.exit_code
        main = next(iter(result.best))
        best, last = (100 * scored[main] for scored in (result.best, result.last))
        score = Score(item.seed, best, int(result.best["epoch"]), last, main)
        record.write(item.folder, item.settings, score)
        scores[item.row, item.seed] = score
        report.write(scores)
    return 0


def _parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        prog="ablate.py",
        description="Train rows of the PP-LCNet paper's ablations on one data set under equal "
        "budgets, and print them beside the paper's numbers. The same command goes on where it "
        "was stopped.",
    )
    add = options.add_argument
    add("-c", "--config", nargs="+", default=[], metavar="FILE", help="recipes, one a row")
    add(
        "--table",
        nargs="+",
        default=[],
        choices=[*TABLES, "all"],
        help="all rows of the paper's tables of these numbers",
    )
    add("--data", required=True, metavar="DIR", help="a folder as prepare_data.py leaves it")
    add(
        "--output",
        type=output_folder,
        default="./output/ablation",
        metavar="DIR",
        help="default: ./output/ablation",
    )
    add("--epochs", type=_positive, metavar="N", help="default: the recipe's, 360")
    add(
        "--image-size",
        type=_positive,
        metavar="S",
        help="default: the recipe's, 224; below 128 pixels the network's first strides become 1",
    )
    add(
        "--batch-size",
        type=_positive,
        metavar="B",
        help="default: the recipe's, 512; the learning rate follows in proportion",
    )
    add(
        "--seeds",
        type=_seed,
        nargs="+",
        default=[42],
        metavar="N",
        help="a run for each; default: 42",
    )
    add(
        "-o",
        "--override",
        action="append",
        default=[],
        metavar="key=value",
        help="for all rows, as in tools/train.py; repeatable",
    )
    return options


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, found {text!r}")
    return int(text)


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number from 0, found {text!r}")
    return int(text)
