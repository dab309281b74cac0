"""The pictures of docs/guide_*.md: what rate, number of images, imbalance, labels and size do.

    python -m experiments.guide            # all of them, an hour of processor time at most
    python -m experiments.guide rate size  # some

Each question is a few trainings of the digits of the quick start that differ in one thing. What
they reached is in OUTPUT/QUESTION.json; runs that are there are not repeated.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ppcls_lite.system.outputs import output_folder

RECIPE = "configs/quickstart/digits.yaml"
Lines = list[str]
Record = dict[str, Any]


class Case(NamedTuple):
    """A training: what is set in the recipe, and which lines of the list it sees."""

    overrides: Sequence[str] = ()
    lines: Callable[[Lines], Lines] = list


def first(count: int) -> Callable[[Lines], Lines]:
    """Only so many images, by chance."""
    return lambda lines: shuffled(lines)[:count]


def rare(lines: Lines) -> Lines:
    """The digits from 5 on keep one image in ten."""
    seen = [0] * 10
    kept = []
    for line in lines:
        digit = int(line.split()[1])
        seen[digit] += 1
        if digit < 5 or seen[digit] % 10 == 1:
            kept.append(line)
    return kept


def mislabelled(share: float) -> Callable[[Lines], Lines]:
    """That share of the images gets another digit by chance."""

    def change(lines: Lines) -> Lines:
        rng = np.random.default_rng(0)
        changed = []
        for line in lines:
            path, digit = line.split()
            other = (int(digit) + int(rng.integers(1, 10))) % 10
            changed.append(f"{path} {other if rng.random() < share else digit}")
        return changed

    return change


def shuffled(lines: Lines) -> Lines:
    """The same lines in an order of chance that is always the same."""
    return [lines[i] for i in np.random.default_rng(0).permutation(len(lines))]


def rate(value: float) -> Case:
    return Case([f"Optimizer.lr.learning_rate={value}"])


def few(count: int, epochs: int) -> Case:
    return Case([f"Global.epochs={epochs}"], first(count))


_PLAIN = "DataLoader.Train.dataset.transform_ops.1={ResizeImage: {size: 32}}"
QUESTIONS: dict[str, dict[str, Case]] = {
    "rate": {f"{value:g}": rate(value) for value in (0.001, 0.01, 0.1, 1.0)},
    "epochs": {
        **{f"1438 images, {n} epochs": Case([f"Global.epochs={n}"]) for n in (4, 8, 16)},
        **{f"200 images, {n} epochs": few(200, n) for n in (8, 32)},
    },
    "overfitting": {
        "100 images, as they are": Case(["Global.epochs=60", _PLAIN], first(100)),
        "100 images, cropped by chance": few(100, 60),
    },
    "imbalance": {
        "as it is": Case((), rare),
        "ClassBalancedSampler": Case(["DataLoader.Train.sampler.name=ClassBalancedSampler"], rare),
        "class_weight: auto": Case(["Loss.Train.0.CELoss.class_weight=auto"], rare),
    },
    "labels": {f"{share:.0%} wrong": Case((), mislabelled(share)) for share in (0, 0.05, 0.2)},
    "size": {f"{edge} px": Case([f"Global.image_size={edge}"]) for edge in (16, 32, 48)},
}
EPOCHS = 16


def run(question: str, name: str, case: Case, output: Path) -> Record:
    """Train, score the best network, and say what was reached."""
    from ppcls_lite import evaluate, load_config, train

    place = output / question / name.replace(" ", "_").replace("%", "")
    place.mkdir(parents=True, exist_ok=True)
    source = Path("dataset/digits/train_list.txt").read_text().splitlines()
    (place / "list.txt").write_text("\n".join(case.lines(source)))
    base = [
        f"Global.epochs={EPOCHS}",
        f"Global.output_dir={place}",
        "Global.use_visualdl=false",
        f"DataLoader.Train.dataset.cls_label_path={place / 'list.txt'}",
        "DataLoader.Train.loader.num_workers=0",
        "DataLoader.Eval.loader.num_workers=0",
    ]
    config = load_config(RECIPE, [*base, *case.overrides])
    result = train(config)
    config["Global"]["pretrained_model"] = str(result.run_dir / "best_model")
    scores = evaluate(config)
    lines = (result.run_dir / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    curves = {
        kind: [[r["epoch"], r["loss"], r["top1"]] for r in records if r["kind"] == kind]
        for kind in ("train", "eval")
    }
    recall = [
        float(line.split()[-3])
        for line in (result.run_dir / "per_class.txt").read_text().splitlines()[1:]
    ]
    return {"top1": scores["top1"], "recall": recall, **curves}


def collect(question: str, output: Path) -> dict[str, Record]:
    """What the cases of a question reached; those that are in the file are not run again."""
    file = output / f"{question}.json"
    found = json.loads(file.read_text()) if file.is_file() else {}
    for name, case in QUESTIONS[question].items():
        if name not in found:
            found[name] = run(question, name, case, output)
            file.write_text(json.dumps(found, indent=1))
    return found


def main(argv: Sequence[str]) -> int:
    """Answer the questions; the pictures go to docs/images."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("questions", nargs="*", default=list(QUESTIONS), metavar="QUESTION")
    parser.add_argument("--output", type=output_folder, default="output/guide", metavar="DIR")
    args = parser.parse_args(argv)
    from experiments.guide_pictures import PICTURES

    for question in args.questions:
        found = collect(question, args.output)
        for name, record in found.items():
            print(f"{question}: {name}: top-1 {record['top1']:.2%}")
        if question in PICTURES:
            PICTURES[question](found, Path("docs/images") / f"guide_{question}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
