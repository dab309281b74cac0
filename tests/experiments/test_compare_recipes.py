"""Two recipes by cross-validation: its folds, its plan, what it makes of scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from experiments.ablation.plan import find_data
from experiments.recipes import compare
from ppcls_lite.cli import guarded


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for name, numbers in (("train", range(14)), ("test", range(14, 20))):
        (folder / f"{name}_list.txt").write_text("".join(f"{i}.png {i % 2}\n" for i in numbers))
    (folder / "labels.txt").write_text("0 even\n1 odd\n")
    return folder


def test_folds_are_even_by_class() -> None:
    labels = np.random.default_rng(1).integers(0, 5, 103)
    folds = compare.folds_of(labels, 3, seed=2)
    sizes = np.bincount(folds)
    assert sizes.max() - sizes.min() <= 1
    for label in range(5):
        counts = np.bincount(folds[labels == label], minlength=3)
        assert counts.max() - counts.min() <= 1
    assert (folds != compare.folds_of(labels, 3, seed=3)).any()


def test_every_image_is_scored_once_and_trains_the_other_folds(tmp_path: Path, data: Path) -> None:
    args = compare._parser().parse_args(["--seeds", "1", "2", "--folds", "2"])
    jobs = compare.plan(find_data(str(data)), tmp_path / "out", args)
    assert len(jobs) == 2 * 2 * 2 * 2 and [job.seed for job in jobs] == [1] * 8 + [2] * 8
    lists = tmp_path / "out" / "lists"
    for seed in (1, 2):
        read = {k: (lists / f"{k}_{seed}_0.txt").read_text() for k in ("train", "scored")}
        assert read["train"] == (lists / f"scored_{seed}_1.txt").read_text()
        every = sorted(read["train"].splitlines() + read["scored"].splitlines())
        assert len(every) == 20 and every == sorted(f"{data}/{i}.png {i % 2}" for i in range(20))
    first, other = jobs[0].settings(), jobs[1].settings()
    assert first["Optimizer.name"] == "Momentum" and other["Optimizer.name"] == "AdamW"
    for key in ("Arch.name", "Global.epochs", "Global.seed"):
        assert first[key] == other[key]
    place = "DataLoader.Train.sampler.batch_size"
    assert first[place] == other[place]


def test_the_score_is_that_of_all_images() -> None:
    """Of seeds whose folds are all scored; the error is that of the paired differences."""
    args = compare._parser().parse_args(["--networks", "N", "--seeds", "1", "2", "3"])
    sizes = {(seed, fold): (3, 1)[fold] for seed in (1, 2, 3) for fold in (0, 1)}
    scores = {}
    for seed, gain in ((1, 2.0), (2, 4.0), (3, 0.0)):
        for fold, base in ((0, 40.0), (1, 80.0)):
            scores[compare.name_of("N", "paper", seed, fold)] = base
            if (seed, fold) != (3, 1):  # not finished yet
                scores[compare.name_of("N", "ra4", seed, fold)] = base + gain
    assert compare.whole(scores, sizes, "N", "paper") == {1: 50.0, 2: 50.0, 3: 50.0}
    assert compare.whole(scores, sizes, "N", "ra4") == {1: 52.0, 2: 54.0}
    text = compare.report(scores, sizes, args, "the command")
    assert "| N | 50.00 | 53.00 | +3.00 | 1.00 | 2 |" in text
    assert "| N | - | - | - | - | 0 |" in compare.report({}, sizes, args, "the command")


def test_one_fold_is_refused(data: Path, tmp_path: Path, capsys) -> None:
    command = ["--data", str(data), "--output", str(tmp_path / "o"), "--folds", "1"]
    assert guarded(compare.run, command) == 1
    assert "--folds: expected at least 2" in capsys.readouterr().err
