"""The proof of `suspects`: 3 % of CIFAR-10's labels are made wrong, and are to be found again.

    python -m experiments.first_network.wrong_labels --data CIFAR --seeds 3

CIFAR is a folder of `train_list.txt` and `test_list.txt`, whose images are taken together. Says for
each seed which share of the first 100 suspects are planted errors, for the judge that `suspects`
has and for the neighbours that it was chosen over.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ppcls_lite.data.image_list import read_image_list
from ppcls_lite.data.label_suspects import neighbours, out_of_fold, suspects
from ppcls_lite.data.patch_features import patch_features, small_picture
from ppcls_lite.data.transforms.image_file import decode_rgb, read_file
from ppcls_lite.errors import UserError

FIRST = 100


def planted(truth: np.ndarray, share: float, classes: int, seed: int) -> np.ndarray:
    """The labels, of which `share` are another class by chance."""
    rng = np.random.default_rng(seed)
    wrong = rng.choice(len(truth), round(share * len(truth)), replace=False)
    labels = truth.copy()
    labels[wrong] = (truth[wrong] + rng.integers(1, classes, len(wrong))) % classes
    return labels


def run(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, type=Path, help="CIFAR-10 as lists and images")
    parser.add_argument("--seeds", type=int, default=3, help="of the planted errors (3)")
    parser.add_argument("--share", type=float, default=0.03, help="of wrong labels (0.03)")
    args = parser.parse_args(argv)
    files = [args.data / name for name in ("train_list.txt", "test_list.txt")]
    listed = [read_image_list(str(file), str(args.data)) for file in files if file.is_file()]
    if not listed:
        raise UserError(f"--data {args.data}: found no train_list.txt")
    paths = [path for part in listed for path in part.paths]
    truth = np.array([label for part in listed for label in part.labels], np.int64)
    classes = int(truth.max()) + 1
    print(f"{len(paths):,} images of {classes} classes, {args.share:.1%} of the labels wrong")
    pictures = np.stack([small_picture(decode_rgb(read_file(p), p)) for p in paths])
    features = patch_features(pictures)
    shares: dict[str, list[float]] = {"out of fold": [], "neighbours": []}
    for seed in range(args.seeds):
        labels = planted(truth, args.share, classes, seed)
        for name, judge in (("out of fold", out_of_fold), ("neighbours", neighbours)):
            answers = judge(features, labels, classes)
            found = suspects(answers, labels)
            hits = labels[found.places] != truth[found.places]
            shares[name].append(float(hits[:FIRST].mean()))
            right = (answers.argmax(axis=1) == truth).mean()
            among = ", ".join(f"{n}: {hits[:n].mean():.2f}" for n in (50, FIRST, 200))
            print(
                f"seed {seed}, {name}: judge right for {right:.3f}; planted among the first {among}"
            )
    for name, values in shares.items():
        print(f"{name}: precision at {FIRST} {statistics.mean(values):.3f} ({values})")
    return 0


if __name__ == "__main__":
    raise SystemExit(run())
