"""The list of runs: what status.json and the lock say, best first."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from ppcls_lite.engine import run_folder
from ppcls_lite.engine.callbacks import Callback
from ppcls_lite.engine.run_list import find_runs, is_owned, read_status, table
from ppcls_lite.engine.run_status import RunStatus
from ppcls_lite.engine.trainer import Trainer
from ppcls_lite.errors import UserError


def watched(trainer, *callbacks):
    status = RunStatus()
    given = trainer.state, trainer.loader, trainer.plan, trainer.writer, trainer.evaluator
    return Trainer(*given, [status, *callbacks]), status


class StopAfter(Callback):
    def __init__(self, epoch):
        self.epoch = epoch

    def on_epoch(self, run, done):
        if done["epoch"] == self.epoch:
            run.stop("a rung")


def test_a_stopped_run_and_the_same_resumed(tiny, tmp_path):
    folder = tmp_path / "a" / "Tiny"
    watched(tiny.build(folder), StopAfter(1))[0].fit()
    (run,) = find_runs(tmp_path)
    assert (run.folder, run.status, run.why) == ("a/Tiny", "stopped", "a rung")
    assert (run.epoch, run.epochs, run.main, run.higher_is_better) == (1, 3, "top1", True)
    before = run.seconds

    trainer, _ = watched(tiny.build(folder))
    trainer.resume("auto")
    result = trainer.fit()
    (run,) = find_runs(tmp_path)
    assert (run.status, run.why, run.epoch) == ("done", "", 3)
    assert (run.score, run.best_epoch) == (result.best["top1"], result.best["epoch"])
    assert run.seconds >= before and result.complete


def test_a_failed_run_says_why(tiny, tmp_path):
    class Broken(Callback):
        def on_epoch(self, run, done):
            raise ValueError("on purpose")

    trainer, status = watched(tiny.build(tmp_path / "Tiny"), Broken())
    with pytest.raises(UserError), status.failing():
        trainer.fit()
    (run,) = find_runs(tmp_path)
    assert run.status == "failed" and "on purpose" in run.why and run.epoch == 1


def test_running_and_killed_are_told_apart_by_the_lock(tmp_path):
    run_dir = tmp_path / "Tiny"
    run_dir.mkdir()
    (run_dir / "status.json").write_text('{"status": "running", "epoch": 2, "epochs": 9}')
    code = (
        "import sys, pathlib; from ppcls_lite.engine import run_folder\n"
        f"with run_folder.owned(pathlib.Path({str(run_dir)!r})):\n"
        "    print('ready', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "ready\n"
        assert [run.status for run in find_runs(tmp_path)] == ["running"]
        other.kill()
    (run,) = find_runs(tmp_path)
    assert (run.status, run.why) == ("stopped", "killed")


def test_looking_does_not_give_up_ones_own_lock(tmp_path):
    run_dir = tmp_path / "Tiny"
    run_dir.mkdir()
    code = (
        "import pathlib, sys; from ppcls_lite.engine.run_list import is_owned\n"
        f"print(is_owned(pathlib.Path({str(run_dir)!r})))"
    )
    with run_folder.owned(run_dir):
        assert is_owned(run_dir)
        seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert seen.stdout == "True\n", seen.stderr
    assert not is_owned(run_dir)


def status(folder, **values):
    folder.mkdir(parents=True)
    known = {"status": "done", "epoch": 5, "epochs": 5, "main": "top1", "best_epoch": 4}
    (folder / "status.json").write_text(json.dumps(known | values))


def test_the_best_comes_first_whichever_way_the_score_goes(tmp_path):
    status(tmp_path / "a", best=0.5)
    status(tmp_path / "b", best=0.9)
    status(tmp_path / "c", main="loss", best=0.3, higher_is_better=False)
    status(tmp_path / "d", main="loss", best=0.1, higher_is_better=False)
    status(tmp_path / "e", main=None, best=None, best_epoch=None)
    assert [run.folder for run in find_runs(tmp_path)] == ["d", "c", "b", "a", "e"]


def test_runs_of_earlier_versions_are_read_from_their_records(tmp_path):
    (tmp_path / "old").mkdir()
    lines = [
        {"kind": "train", "epoch": 1, "step": 4, "loss": 2.0},
        {"kind": "eval", "epoch": 1, "step": 4, "top1": 0.4},
        {"kind": "eval", "epoch": 2, "step": 8, "top1": 0.6},
        {"kind": "train", "epoch": 3, "step": 12, "loss": 1.0},
        {"kind": "eval", "epoch": 3, "step": 12, "top1": 0.5},
    ]
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    (tmp_path / "old" / "metrics.jsonl").write_text(f"{text}{{broken")
    (run,) = find_runs(tmp_path)
    assert (run.status, run.epoch, run.score, run.best_epoch) == ("stopped", 3, 0.6, 2)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"status": 3, "best": "x", "began": 7}'])
def test_a_damaged_file_is_no_traceback(tmp_path, text):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "status.json").write_text(text)
    (run,) = find_runs(tmp_path)
    assert run.score is None and table([run], 80)
    assert isinstance(read_status(tmp_path / "a"), dict)


@pytest.mark.parametrize("columns", [60, 80, 120, 220])
def test_the_table_fits_the_terminal(tmp_path, columns):
    status(tmp_path / ("long" * 30) / "PPLCNet_x0_25", best=0.5, seconds=4000, began="2026-01-01")
    text = table(find_runs(tmp_path), columns)
    assert max(map(len, text.splitlines())) <= columns
    assert "PPLCNet_x0_25" in text and "top1 0.5" in text
    assert ("1:06:40" in text) == (columns > 60)


def test_on_a_narrow_terminal_names_are_told_apart(tmp_path):
    for number in (1, 2):
        place = tmp_path / "tune" / f"trial_{number:03}" / "PPLCNet_x0_25"
        status(place, best=0.077994, status="stopped", why="tune, at epoch 1")
    lines = table(find_runs(tmp_path), 60).splitlines()
    assert max(map(len, lines)) <= 60 and len({line[:25] for line in lines}) == 3
    assert "tune, at epoch 1" in table(find_runs(tmp_path), 120)


def test_no_such_folder(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        find_runs(tmp_path / "none")
