"""Does the order of PP-LCNet's table 4 hold on other data? Trunks of a detector at equal budgets.

    python tools/prepare_data.py voc dataset/bccd
    python -m experiments.detection.trunks --epochs 12 --seeds 0 1 2

Every training is an ordinary one of `configs/detection/bccd.yaml`, from random weights, with the
trunk exchanged, in `<output>/<trunk>_<seed>`. A finished one is not trained again, an interrupted
one begins again. The score is that of the last epoch, so that no image of the evaluation decides
about anything; weights are not averaged, which takes longer than these runs. docs/detection.md has
the results.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.ablation import record
from experiments.ablation.table import Score
from ppcls_lite.cli import guarded
from ppcls_lite.config.check import check
from ppcls_lite.config.file import load_config
from ppcls_lite.errors import UserError
from ppcls_lite.inference.cli.options import positive
from ppcls_lite.models.create import cost
from ppcls_lite.system.files import write_text
from ppcls_lite.system.outputs import output_folder

RECIPE = "configs/detection/bccd.yaml"
TRUNKS = ("PPLCNet_x0_5", "MobileNetV3_large_x0_35")  # the table's first pair; it has x0_75 too
NO_DECAY = "MobileNetV3"  # trunks of that name train without weight decay, as table 4's recipes do
SCORE = "AP"
Found = Mapping[tuple[str, int], Score]


def tree_of(options: argparse.Namespace, trunk: str, seed: int, folder: Path) -> dict[str, Any]:
    """The recipe of one training."""
    values = {
        "Arch.name": f"picodet_legacy_{trunk}",
        "EMA": None,
        "Global.epochs": options.epochs,
        "Global.seed": seed,
        "Global.save_interval": options.epochs,
        "Global.eval_interval": options.epochs,
        "Global.output_dir": folder,
    }
    if trunk.startswith(NO_DECAY):
        values["Optimizer.no_weight_decay_name"] = "backbone."
    overrides = [f"{key}={'null' if v is None else v}" for key, v in values.items()]
    return load_config(options.config, [*overrides, *options.override])


def run(argv: Sequence[str]) -> int:
    """Train what is missing and print the table; the exit status.

    Raises UserError for a wrong recipe, missing data, or folders of other settings.
    """
    from ppcls_lite.recipe.train import train

    options = _parser().parse_args(argv)
    output = options.output
    names = [(trunk, seed) for seed in options.seeds for trunk in options.trunks]
    trees = {n: tree_of(options, *n, output / f"{n[0]}_{n[1]}") for n in names}
    costs = {}
    for (trunk, _), tree in trees.items():
        if trunk not in costs:
            settings = check(tree)
            costs[trunk] = cost(settings.Arch.build(), (3, options.cost_size, options.cost_size))
    scores: dict[tuple[str, int], Score] = {}
    for name, tree in trees.items():
        folder, settings_now = output / f"{name[0]}_{name[1]}", record.settings_of(tree)
        earlier = record.read(folder)
        if earlier and (changed := record.differences(earlier.settings, settings_now)):
            lines = "\n  ".join(changed)
            raise UserError(
                f"{folder} was trained with other settings (earlier -> now):\n  {lines}\nrestore "
                "them, choose another --output, or remove the folder"
            )
        if earlier and earlier.score:
            scores[name] = earlier.score
    for name, tree in trees.items():
        if name in scores:
            continue
        folder = output / f"{name[0]}_{name[1]}"
        record.write(folder, record.settings_of(tree), None)
        result = train(tree)
        if result.exit_code:
            return result.exit_code
        score = 100 * result.last[SCORE]
        scores[name] = Score(name[1], score, options.epochs, score, SCORE)
        record.write(folder, record.settings_of(tree), scores[name])
        write_text(output / "trunks.md", table(scores, costs))
    print(f"\n{table(scores, costs)}\nin {output}: trunks.md")
    return 0


def table(scores: Found, costs: Mapping[str, Any]) -> str:
    """A row for each trunk: its detector's size, the scores of the seeds, their mean and spread."""
    lines = ["| trunk | parameters (M) | MFLOPs | AP of the seeds | mean | s.d. |"]
    lines.append("|---|---:|---:|---|---:|---:|")
    for trunk, its in costs.items():
        found = [score.last for (name, _), score in sorted(scores.items()) if name == trunk]
        if not found:
            continue
        spread = f"{statistics.stdev(found):.1f}" if len(found) > 1 else "-"
        each = ", ".join(f"{score:.1f}" for score in found)
        size = f"{its.params / 1e6:.2f} | {its.flops / 1e6:.0f}"
        lines.append(f"| {trunk} | {size} | {each} | {statistics.fmean(found):.1f} | {spread} |")
    return "\n".join(lines) + "\n"


def _parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        prog="python -m experiments.detection.trunks", description=(__doc__ or "").split("\n")[0]
    )
    add = options.add_argument
    add("-c", "--config", default=RECIPE, metavar="FILE", help=f"default: {RECIPE}")
    add("--trunks", nargs="+", default=list(TRUNKS), metavar="NAME", help="of the zoo")
    add("--epochs", type=positive, default=12, metavar="N", help="of each training")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="default: 0 1 2")
    add("--cost-size", type=positive, default=320, metavar="S", help="pixels, of the FLOPs")
    add(
        "--output",
        type=output_folder,
        default="./output/trunks",
        metavar="DIR",
        help="default: ./output/trunks",
    )
    add("-o", "--override", action="append", default=[], metavar="key=value", help="repeatable")
    return options


if __name__ == "__main__":
    sys.exit(guarded(run, sys.argv[1:]))
