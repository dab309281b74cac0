"""The proof that distillation helps: its plan, a whole tiny call, going on, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from experiments.ablation.plan import find_data
from experiments.ssld import prove as prove_ssld
from experiments.ssld.jobs import split_labels
from ppcls_lite.cli import guarded
from ppcls_lite.errors import UserError


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of 32x32 pixels in two classes, bright and dark, prepared."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    lists: dict[str, list[str]] = {"train": [], "test": []}
    for i in range(40):
        image = rng.integers(0, 100, (32, 32, 3)) + 150 * (i % 2)
        cv2.imwrite(str(folder / f"{i}.png"), image.astype(np.uint8))
        lists["train" if i < 30 else "test"].append(f"{i}.png {i % 2}\n")
    for name, lines in lists.items():
        (folder / f"{name}_list.txt").write_text("".join(lines), encoding="utf-8")
    (folder / "labels.txt").write_text("0 dark\n1 bright\n", encoding="utf-8")
    return folder


def call(data: Path, output: Path, *more: str) -> int:
    arguments = ["--data", str(data), "--output", str(output), "--processes", "2", *more]
    return guarded(prove_ssld.run, arguments)


def test_a_tiny_proof_runs_every_training_once_and_goes_on(tmp_path, data, capsys):
    output = tmp_path / "an output"
    assert call(data, output, "--quick") == 0, capsys.readouterr()
    found = json.loads((output / "proof.json").read_text(encoding="utf-8"))
    rows = ("alone_all", "distilled_all", "alone_few", "distilled_few")
    assert set(found["scores"]) == {f"{r}_1" for r in rows} | {"teacher_all_0", "teacher_few_0"}
    assert all(0 <= top1 <= 100 for top1 in found["scores"].values())
    assert found["images"] == {
        "all_list": 16,
        "labeled_list": 4,
        "unlabeled_list": 12,
        "eval_list": 10,
    }
    table = (output / "proof.md").read_text(encoding="utf-8")
    assert "`distilled_few` - `alone_few`" in table and "--quick" in table

    # the students made equally many updates, whatever they learnt from
    steps = {}
    for row in rows:
        (path,) = output.glob(f"{row}_1/*/metrics.jsonl")
        steps[row] = json.loads(path.read_text().splitlines()[-1])["step"]
    assert set(steps.values()) == {4}

    # a finished training is not repeated; a missing one is
    (output / "distilled_all_1" / "row.json").unlink()
    kept = (output / "alone_all_1" / "output.txt").stat().st_mtime
    capsys.readouterr()
    assert call(data, output, "--quick") == 0
    printed = capsys.readouterr().out
    assert "6 trainings, 5 finished earlier" in printed and "[6/6] distilled_all_1" in printed
    assert (output / "alone_all_1" / "output.txt").stat().st_mtime == kept

    # another budget in the same folder is refused, before anything is trained
    assert call(data, output, "--quick", "--seeds", "1", "--labeled", "4") == 0
    assert call(data, output, "--epochs", "2", "--labeled", "4", "--seeds", "1") == 1
    assert "Global.epochs" in capsys.readouterr().err


def test_labels_are_taken_evenly_and_the_rest_has_none(tmp_path, data):
    lists = split_labels(find_data(str(data)), 10, None, tmp_path)
    lines = {name: path.read_text().splitlines() for name, path in lists.items()}
    assert [line.split()[1] for line in sorted(lines["labeled"])].count("0") == 5
    assert len(lines["labeled"]) == 10 and len(lines["unlabeled"]) == 20
    assert all(len(line.split()) == 1 for line in lines["unlabeled"])
    paths = {line.split()[0] for line in lines["labeled"]} | set(lines["unlabeled"])
    assert paths == {line.split()[0] for line in lines["all"]}


@pytest.mark.parametrize("count", [1, 30])
def test_a_number_of_labels_that_makes_no_sense_is_refused(tmp_path, data, count):
    with pytest.raises(UserError, match=f"--labeled {count}: expected at least one label"):
        split_labels(find_data(str(data)), count, None, tmp_path)


def test_missing_data_is_named(tmp_path, capsys):
    assert call(tmp_path / "nowhere", tmp_path / "out") == 1
    message = capsys.readouterr().err
    assert "nowhere: there is no such folder" in message and "prepare_data.py" in message


def test_differences_of_rows_and_their_error():
    row = {"mean": 50.0, "sd": 3.0, "top1": [47.0, 50.0, 53.0]}
    base = {"mean": 40.0, "sd": 4.0, "top1": [36.0, 40.0, 44.0]}
    difference, error = prove_ssld._difference(row, base)
    assert difference == 10.0 and error == pytest.approx((25 / 3) ** 0.5)
    assert prove_ssld._difference(row, {"mean": None, "sd": None, "top1": []}) == (None, None)
