"""Do two checkouts give the same results, bit by bit? For changes that must not change any.

    python experiments/refactoring/compare.py BEFORE AFTER --work DIR [--only NAME ...]

Each checkout is run through its commands only (`tools/`, `deploy/`, `ppcls_lite.cli.main`), in a
folder of its own below DIR, on the CPU, with one thread. What came out is compared: one line for
each item that is the same, one for each file of an item that is not; logs without times. The
status is 0 if all is the same, 1 if not, 2 if BEFORE itself fails. Logs of the commands:
DIR/*/logs. The results of BEFORE are kept for the next call with the same DIR, if it is a commit
without edits: use another DIR after the machine or its packages changed. It costs two minutes a
checkout on one core, and needs the packages of requirements.txt and of `.[serve]`, scikit-learn
and a C++ compiler. cases.py has the recipes.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import http.client
import itertools
import json
import os
import pickle
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from cases import BROKEN, CALLS, DIGITS, RECIPES

# What is different on purpose: an item or a pattern of its files (`messages/typo_*.txt`): why.
ON_PURPOSE: dict[str, str] = {
    "components/*.yaml.txt": "image_shape and Infer.transforms follow what is stated elsewhere",
    "*/config.yaml": "image_shape and Infer.transforms follow what is stated elsewhere",
    "*/inference.yml": "PaddleX's words where it gives the same answers",
    "components/*--help.txt": "new commands and options",
    "components/list.txt": "depths and widths of PPLCNet; finite ranges; new options",
    "messages/many.txt": "depths and widths of PPLCNet",
    "*/*.pdstate": "best.metrics instead of best.confusion; what the recipe and the lists were",
    "*/files.txt": "the metrics' reports are written when a training ends",
    "*/per_class.txt": "the metrics' reports are written when a training ends",
    "digits/log.txt": "the line that names the metrics' reports",
    "digits/eval_output.txt": "the line that names the metrics' reports",
    "*/log.txt": "warnings about class names and data; what a resume says",
    "*/previous*.pdparams": "latest is also written before an evaluation",
    "tiny/best_model.pdparams": "of equal scores the later epoch is the best",
    "distillation/best_model.pdparams": "of equal scores the later epoch is the best",
    "multilabel/best_model.pdparams": "of equal scores the later epoch is the best",
    "messages/range*.txt": "ranges have two finite ends",
    "messages/type_*.txt": "ranges have two finite ends",
    "messages/refused.txt": "use_dali is ignored with a note",
    "messages/no_data.txt": "messages name commands that an installed package has",
    "*/data.txt": "messages name commands that an installed package has",
    "*/prepare.txt": "messages name commands that an installed package has",
    "zoo/table.txt": "ResNet18, 34, 101 and 152",
}

# --- what is run; kept results of BEFORE hold as long as nothing below this line is edited ---
BEST = "Global.pretrained_model=output/digits/PPLCNet_x0_25/best_model"
_VARYING = r"(batch_cost|reader_cost|ips|eta|peak_rss_mb|peak_gpu_mb)"


class Failed(Exception):
    """A command of a checkout did not end as it has to."""


@dataclass
class Side:
    """One checkout, the folder that its commands work in, and that of BEFORE."""

    checkout: Path
    folder: Path
    first: Path
    log: Path = Path()

    def kept(self, item: str) -> Path:
        return self.folder / "kept" / item

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Start Python on a script of the checkout (`tools/...`, `deploy/...`) or on `-c CODE`."""
        count = len(list((self.folder / "logs").iterdir()))
        self.log = self.folder / "logs" / f"{count:03}_{Path(command[0]).stem}.txt"
        home = str(self.folder.parent / "home")
        own = {"PYTHONPATH": str(self.checkout), "HOME": home, "PPCLS_LITE_HOME": home}
        own |= {"OMP_NUM_THREADS": "1", "COLUMNS": "100", "PYTHONPYCACHEPREFIX": home + "/pyc"}
        script = str(self.checkout / command[0]) if "/" in command[0] else command[0]
        with self.log.open("w", encoding="utf-8") as errors:
            return subprocess.Popen(
                [sys.executable, script, *command[1:]],
                cwd=self.folder,
                env=os.environ | own,
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )

    def run(self, *command: str, given: str | None = None) -> str:
        """Run it to its end; returns its standard output, without times."""
        process = self.start(*command)
        output, _ = process.communicate(given)
        errors = self.log.read_text(encoding="utf-8").strip().splitlines()
        self.log.write_text("\n".join([*errors, output]), encoding="utf-8")
        if process.returncode:
            last = errors[-1] if errors else ""
            raise Failed(f"{command[0]} ended with {process.returncode}: {last} (see {self.log})")
        return self.timeless(output)

    def calls(self, argvs: Sequence[Sequence[str]]) -> list[tuple[Any, str, str]]:
        """Status, output and errors of many `ppcls-lite` commands, in one process."""
        results = self.folder / "calls.json"
        self.run("-c", CALLS, str(results), given=json.dumps(argvs))
        found = json.loads(results.read_text(encoding="utf-8"))
        return [(code, self.timeless(out), self.timeless(err)) for code, out, err in found]

    def timeless(self, text: str) -> str:
        """A log or a table without times and places, `Saved` lines (of a thread) at the end."""
        text = text.replace(str(self.folder), "WORK").replace(str(self.checkout), "CHECKOUT")
        text = re.sub(r"^\[\d{4}/\d\d/\d\d [\d:]+\] ", "", text, flags=re.M)
        text = re.sub(_VARYING + r": [^,\n]+", r"\1: *", text)
        text = re.sub(r"^(  (pre-processing|inference|all together) ).*", r"\1*", text, flags=re.M)
        once = ("compiling with", "generated new fontManager")  # said once per machine
        lines = [line for line in text.splitlines() if not any(word in line for word in once)]
        return "\n".join(sorted(lines, key=lambda line: ": Saved " in line)) + "\n"

    def train(self, recipe: str, *overrides: str) -> Path:
        """Train from nothing; returns the run folder."""
        options = [word for override in overrides for word in ("-o", override)]
        shutil.rmtree(self.folder / "output" / Path(recipe).stem, ignore_errors=True)
        self.run("tools/train.py", "-c", recipe, *options)
        (run_dir,) = (self.folder / "output" / Path(recipe).stem).glob("[!.]*")
        return run_dir

    def keep_run(self, run_dir: Path, kept: Path, resumed: bool = False) -> None:
        """Keep what a run left behind, except for times, versions and where it was resumed."""
        kinds = [".pdparams", ".pdstate", ".txt"]
        for path in run_dir.iterdir():
            whole = path.suffix == ".yaml" or path.name == "first_batch.png"
            if path.suffix in kinds or (whole and not resumed):
                shutil.copy(path, kept)
        records = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
        same = [{k: v for k, v in r.items() if not re.fullmatch(_VARYING, k)} for r in records]
        (kept / "metrics.jsonl").write_text("".join(f"{json.dumps(r)}\n" for r in same))
        names = sorted(path.name for path in run_dir.iterdir())
        (kept / "files.txt").write_text("".join(f"{name}\n" for name in names))
        if not resumed:
            (kept / "log.txt").write_text(self.timeless((run_dir / "train.log").read_text()))


def digits(side: Side, kept: Path) -> None:
    """The quick start's first half: data, training, evaluation, predictions without export."""
    said = side.run("tools/prepare_data.py", "digits", "--output", "dataset/digits")
    run_dir = side.train(DIGITS, "Global.epochs=3")
    weights = ("-c", DIGITS, "-o", BEST)
    (kept / "eval_output.txt").write_text(side.run("tools/eval.py", *weights))
    inferred = side.run("tools/infer.py", *weights, "-o", "Infer.save_dir=inferred")
    (kept / "infer_output.txt").write_text(inferred)
    shutil.copy(side.folder / "inferred" / "infer.jsonl", kept)
    shutil.copy(run_dir / "eval.json", kept)
    side.keep_run(run_dir, kept)
    data = side.folder / "dataset" / "digits"
    for path in data.glob("*.txt"):
        shutil.copy(path, kept)
    sums = [f"{p.name} {hashlib.sha256(p.read_bytes()).hexdigest()}" for p in data.rglob("*.png")]
    (kept / "data.txt").write_text(said + "\n".join(sorted(sums)) + "\n")


def export(side: Side, kept: Path) -> None:
    """The exported folder, byte by byte."""
    said = side.run("deploy/export.py", "-c", DIGITS, "-o", BEST)
    (kept / "output.txt").write_text(said)
    for path in (side.folder / "inference" / "digits").iterdir():
        shutil.copy(path, kept)


def predict(side: Side, kept: Path) -> None:
    """The predictions of the exported digits as JSON lines, as CSV and on the terminal."""
    some = sorted((side.folder / "dataset" / "digits" / "val").glob("*.png"))[:30]
    names = [path.relative_to(side.folder).as_posix() for path in some]
    for name, given in (("all.jsonl", ["dataset/digits/val"]), ("some.csv", names)):
        options = ("--model", "inference/digits", "--threads", "1", "--batch-size", "8")
        said = side.run("deploy/predict.py", *options, "--output", name, "--input", *given)
        (kept / f"{name}_table.txt").write_text(said)
        shutil.copy(side.folder / name, kept)


def server(side: Side, kept: Path) -> None:
    """The service's answers to images sent in both ways, and to what is no image."""
    options = ("--model", "inference/digits", "--threads", "1", "--port", "0")
    process = side.start("deploy/server.py", *options)
    try:
        assert process.stdout is not None
        said, _, port = process.stdout.readline().strip().rpartition(":")
        answers = [said]
        for _ in range(100):  # it prints its address a moment before it listens there
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", int(port))).close()
                break
            time.sleep(0.1)
        images = sorted((side.folder / "dataset" / "digits" / "val").glob("*.png"))[:5]
        bodies = [path.read_bytes() for path in images]
        head = b'--limit\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
        forms = [head + body + b"\r\n--limit--\r\n" for body in (*bodies, b"")]
        requests = [("GET", "/healthz", None, {})]
        requests += [("POST", "/predict", b, {}) for b in (*bodies, b"", b"text", bodies[0][:90])]
        kind = {"Content-Type": "multipart/form-data; boundary=limit"}
        requests += [("POST", "/predict", form, kind) for form in forms]
        answers += [_asked(int(port), *request) for request in requests]
        process.terminate()
        ending, _ = process.communicate(timeout=60)
        answers.append(f"{ending.strip()}, status {process.returncode}")
    finally:
        process.kill()
    (kept / "answers.txt").write_text("\n".join(answers) + "\n")


def _asked(port: int, method: str, place: str, body: bytes | None, head: dict[str, str]) -> str:
    """An answer as a line."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        connection.request(method, place, body, head)
        answer = connection.getresponse()
        return f"{method} {answer.status} {answer.read().decode()}"


def tiny(side: Side, kept: Path) -> None:
    """120 pictures of two brightnesses, their lists, and an ordinary run that makes a teacher."""
    rng = np.random.default_rng(0)
    shutil.rmtree(side.folder / "tiny", ignore_errors=True)
    for i in range(120):
        path = side.folder / "tiny" / ("dark", "light")[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = rng.integers(0, 150, (40, 36, 3), np.uint8) + np.uint8(60 * (i % 2))
        path.write_bytes(cv2.imencode(".png", noise)[1].tobytes())
    said = side.run("tools/prepare_data.py", "folder", "tiny")
    (kept / "prepare.txt").write_text(said)
    for path in (side.folder / "tiny").glob("*.txt"):
        shutil.copy(path, kept)
    lines = [line.rsplit(" ", 1) for line in (kept / "train_list.txt").read_text().splitlines()]
    several = [f"{path}\t{c},{i % 2},{int(i % 5 == 0)}\n" for i, (path, c) in enumerate(lines)]
    (side.folder / "tiny" / "several.txt").write_text("".join(several[::2]))
    side.keep_run(side.train("teacher.yaml"), kept)


def trained(side: Side, kept: Path) -> None:
    """A run of the recipe that has the item's name."""
    side.keep_run(side.train(f"{kept.name}.yaml"), kept)


def resume(side: Side, kept: Path) -> None:
    """The run `ema` again, stopped by SIGINT within its second epoch; it has to end like `ema`."""
    output = side.folder / "output" / "resume"
    run_dir = output / "PPLCNet_x0_25"
    command = ("tools/train.py", "-c", "ema.yaml", "-o", "Global.output_dir=output/resume")
    for _ in range(5):  # until a step of the epoch is left after the signal
        shutil.rmtree(output, ignore_errors=True)
        process = side.start(*command)
        while process.poll() is None and '"step", "epoch": 2' not in _text(run_dir):
            time.sleep(0.002)
        process.send_signal(signal.SIGINT)
        process.communicate()
        if process.returncode == 130 and '"train", "epoch": 2' not in _text(run_dir):
            break
    else:
        raise Failed(f"tools/train.py ended with {process.returncode}, not within its epoch")
    shutil.rmtree(side.folder / "stopped", ignore_errors=True)
    shutil.copytree(run_dir, side.folder / "stopped")
    _finish(side, kept, run_dir, [*command, "-o", "Global.checkpoints=auto"])


def carried(side: Side, kept: Path) -> None:
    """What BEFORE stopped, resumed by this checkout."""
    run_dir = side.folder / "output" / "carried" / "PPLCNet_x0_25"
    shutil.rmtree(run_dir, ignore_errors=True)
    shutil.copytree(side.first / "stopped", run_dir)
    place = ("-o", "Global.output_dir=output/carried", "-o", f"Global.checkpoints={run_dir}/latest")
    _finish(side, kept, run_dir, ["tools/train.py", "-c", "ema.yaml", *place])


def _finish(side: Side, kept: Path, run_dir: Path, command: Sequence[str]) -> None:
    said = side.run(*command)
    if "[Epoch 1/" in said or "[Epoch 3/" not in said:
        raise Failed("tools/train.py did not go on from the checkpoint")
    side.keep_run(run_dir, kept, resumed=True)
    for name in ("latest.pdparams", "latest_raw.pdparams", "latest.pdstate", "metrics.jsonl"):
        what = difference(side.kept("ema") / name, kept / name)
        if what:
            raise Failed(f"{name} of the resumed run is not that of the uninterrupted one: {what}")


def _text(run_dir: Path) -> str:
    path = run_dir / "metrics.jsonl"
    return path.read_text(encoding="utf-8") if path.exists() else ""


def components(side: Side, kept: Path) -> None:
    """The list of components, the help texts, and every recipe resolved."""
    (kept / "list.txt").write_text(side.run("tools/show_config.py", "--list"))
    ((_, overview, _),) = side.calls([["--help"]])
    commands = re.findall(r"^  (\w+) ", overview, flags=re.M)
    recipes = sorted(p.relative_to(side.folder) for p in (side.folder / "configs").rglob("*.yaml"))
    recipes = [path for path in recipes if "_base_" not in path.parts]
    argvs = [["--help"], ["--version"], *([name, "--help"] for name in commands)]
    argvs += [["config", "-c", str(path)] for path in recipes]
    for argv, result in zip(argvs, side.calls(argvs), strict=True):
        name = " ".join(argv).removeprefix("config -c configs/").replace("/", "_")
        (kept / f"{name}.txt").write_text("\n".join(map(str, result)))


def messages(side: Side, kept: Path) -> None:
    """What the commands say to broken recipes, and their exit status."""
    argvs = []
    for name, (recipe, *overrides) in BROKEN.items():
        if "\n" in recipe:
            (side.folder / f"{name}.yaml").write_text(recipe)
            recipe = f"{name}.yaml"
        argvs.append(["train", "-c", recipe, *(w for text in overrides for w in ("-o", text))])
    for name, (status, _, said) in zip(BROKEN, side.calls(argvs), strict=True):
        if status == 0:
            raise Failed(f"the broken recipe {name} was trained")
        (kept / f"{name}.txt").write_text(f"status {status}\n{said}")


def zoo(side: Side, kept: Path) -> None:
    """The networks' costs beside the published ones."""
    (kept / "table.txt").write_text(side.run("tools/zoo.py", "--check"))


# Each item with those that have to be run before it.
ITEMS: dict[str, tuple[Callable[[Side, Path], None], tuple[str, ...]]] = {
    "components": (components, ()),
    "messages": (messages, ("tiny",)),
    "digits": (digits, ()),
    "export": (export, ("digits",)),
    "predict": (predict, ("export",)),
    "server": (server, ("export",)),
    "tiny": (tiny, ()),
    "distillation": (trained, ("tiny",)),
    "multilabel": (trained, ("tiny",)),
    "ema": (trained, ("tiny",)),
    "resume": (resume, ("ema",)),
    "carried": (carried, ("resume",)),
    "zoo": (zoo, ()),
}


def produce(side: Side, item: str, failures: dict[str, str]) -> None:
    """Run `item`, and before it what it needs, unless that was done; failures are collected."""
    if item in failures or side.kept(item).exists():
        return
    run, needed = ITEMS[item]
    for other in needed:
        produce(side, other, failures)
        if other in failures:
            failures[item] = f"needs {other}, which failed"
            return
    begun = time.monotonic()
    unfinished = side.folder / "unfinished" / item  # `trained` reads its name
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        run(side, unfinished)
        unfinished.rename(side.kept(item))
    except Exception as error:  # whatever it is, the checkout does not do what BEFORE does
        failures[item] = f"{type(error).__name__}: {error}"
    name = side.folder.name.partition("-")[0]
    print(f"{name}: {item} {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)


def difference(one: Path, other: Path) -> str:
    """How two files differ, in a few words; empty if they do not."""
    if not (one.exists() and other.exists()):
        return "" if one.exists() == other.exists() else f"only in {(one, other)[other.exists()]}"
    first, second = one.read_bytes(), other.read_bytes()
    if one.suffix in (".pdparams", ".pdstate"):  # written by these very runs: safe to load
        places = sorted(unequal(pickle.loads(first), pickle.loads(second)))
        return f"{len(places)} values, first {places[0]}" if places else ""
    if first == second:
        return ""
    if b"\0" in first + second:
        return f"{len(first)} bytes, now {len(second)}"
    lines = [data.decode().splitlines(keepends=True) for data in (first, second)]
    pairs = [(a, b) for a, b in itertools.zip_longest(*lines, fillvalue="") if a != b]
    place = next((i for i, (a, b) in enumerate(zip(*pairs[0])) if a != b), 0)
    old, new = (line[max(0, place - 60) : place + 100] for line in pairs[0])
    return f"{len(pairs)} lines, first {old!r} became {new!r}"


def unequal(one: Any, other: Any, place: str = "") -> list[str]:
    """The places where two trees of plain containers and arrays differ."""
    if type(one) is not type(other):
        return [f"{place} (type)"]
    if isinstance(one, list | tuple):
        one, other = (dict(enumerate(items)) for items in (one, other))
    if isinstance(one, dict):
        keys = one.keys() | other.keys()
        found = (unequal(one.get(key), other.get(key), f"{place}/{key}") for key in keys)
        return list(itertools.chain.from_iterable(found))
    if isinstance(one, np.ndarray):
        one, other = ((a.dtype, a.shape, a.tobytes()) for a in (one, other))
    return [] if one == other or (one != one and other != other) else [place]


def compare(item: str, before: Path, after: Path) -> bool:
    """Print the lines of `item`; returns whether there is a difference that is not on purpose."""
    names = sorted({path.name for folder in (before, after) for path in folder.iterdir()})
    found = {name: difference(before / name, after / name) for name in names}
    found = {f"{item}/{name}": what for name, what in found.items() if what}
    if not found:
        print(f"{item}: same ({len(names)} files)", flush=True)
    for place, what in found.items():
        reason = reason_for(place) or reason_for(item)
        verdict = f"changed on purpose ({reason})" if reason else f"DIFFERENT ({what})"
        print(f"{place}: {verdict}", flush=True)
    return not all(reason_for(place) or reason_for(item) for place in found)


def reason_for(place: str) -> str | None:
    """Why an item or a file of it differs on purpose, if it does."""
    return next((why for name, why in ON_PURPOSE.items() if fnmatchcase(place, name)), None)


def prepared(checkout: Path, folder: Path, first: Path | None = None) -> Side:
    """The side of a checkout, with its recipes in its folder; keeps what is there already."""
    if not (checkout / "ppcls_lite").is_dir():
        raise SystemExit(f"{checkout} is no checkout of this project")
    for name in ("kept", "logs"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    shutil.copytree(checkout / "configs", folder / "configs", dirs_exist_ok=True)
    for name, text in RECIPES.items():
        (folder / name).write_text(text, encoding="utf-8")
    return Side(checkout, folder, first or folder)


def key(checkout: Path) -> str | None:
    """A name for the commit of a checkout and this file; None if it has none or was edited."""
    git = [
        subprocess.run(["git", "-C", checkout, *words], capture_output=True, text=True, check=False)
        for words in (["rev-parse", "HEAD"], ["status", "--porcelain"])
    ]
    if any(done.returncode for done in git) or git[1].stdout.strip():
        return None
    here = Path(__file__)
    run = here.read_text(encoding="utf-8").partition("\n# --- what is run")[2]
    run += (here.parent / "cases.py").read_text(encoding="utf-8")
    return f"{git[0].stdout[:12]}-{hashlib.sha256(run.encode()).hexdigest()[:8]}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare the results of two checkouts.")
    parser.add_argument("before", type=Path, metavar="BEFORE")
    parser.add_argument("after", type=Path, metavar="AFTER")
    parser.add_argument(
        "--work", type=Path, required=True, metavar="DIR", help="all results; DIR/after is replaced"
    )
    parser.add_argument("--only", nargs="+", choices=ITEMS, default=list(ITEMS), metavar="NAME")
    args = parser.parse_args()
    work, commit = args.work.resolve(), key(args.before)
    kept, fresh = work / f"before-{commit or 'edited'}", work / "after"
    for folder in [fresh] if commit else [fresh, kept]:
        shutil.rmtree(folder, ignore_errors=True)
    before = prepared(args.before.resolve(), kept)
    after = prepared(args.after.resolve(), fresh, kept)
    different = False
    for item in args.only:
        failures: dict[str, str] = {}
        produce(before, item, failures)
        if failures:
            print(f"BEFORE fails: {failures}", file=sys.stderr)
            return 2
    failures = {}
    for item in args.only:
        produce(after, item, failures)
        if item in failures:
            print(f"{item}: DIFFERENT ({failures[item]})", flush=True)
            different = True
        else:
            different |= compare(item, before.kept(item), after.kept(item))
    return int(different)


if __name__ == "__main__":
    sys.exit(main())
