"""Checkpoints beside training, damaged ones, full disks, signals, time limits, long runs."""

from __future__ import annotations

import errno
import gc
import json
import logging
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from ppcls_lite.engine import checkpoint
from ppcls_lite.engine.checkpoint_manager import CheckpointManager
from ppcls_lite.engine.record import VARYING, Recorder
from ppcls_lite.errors import UserError
from ppcls_lite.loggers.visualdl_logger import VisualDL
from ppcls_lite.system import manifest


@pytest.fixture(autouse=True)
def lines(caplog):
    caplog.set_level(logging.INFO, "ppcls_lite")
    return caplog


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB; only root may make one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if os.name != "posix" or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def after_update(trainer, update, act):
    """Call `act()` when the given update (from 1) is done."""
    step = trainer.step

    def acting(batches):
        step(batches)
        if trainer.state.updates == update:
            act()

    trainer.step = acting
    return trainer


def names(run_dir):
    return {path.stem for path in run_dir.glob("*.pdstate")}


def records(run_dir):
    found = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in record.items() if k not in VARYING} for record in found]


class Killed(BaseException):
    """Stands for the end of the process."""


def die():
    raise Killed


def flip_a_byte(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


# When is saved what


def test_saved_every_few_updates(tiny, tmp_path):
    trainer = tiny.build(tmp_path, save_steps=4)
    with pytest.raises(Killed):
        after_update(trainer, 11, die).fit()
    state, before = (checkpoint.load(tmp_path / name) for name in ("latest", "previous"))
    assert (state["epoch"], state["step_in_epoch"]) == (2, 2)  # update 8
    assert (before["epoch"], before["step_in_epoch"]) == (2, 0)
    resumed = tiny.build(tmp_path)
    resumed.resume("auto")
    assert resumed.state.updates == 8


def test_saved_by_the_clock_that_nobody_sets(tiny, tmp_path, monkeypatch):
    manager = CheckpointManager(tmp_path, save_minutes=5)
    now = time.monotonic()
    monkeypatch.setattr(time, "time", lambda: 0.0)  # 1970
    assert not manager.is_due(1)
    monkeypatch.setattr(time, "monotonic", lambda: now + 301)
    assert manager.is_due(2)
    manager.save({"model": {}}, ["latest"])
    manager.wait()
    assert not manager.is_due(3)


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({}, {1, 2, 3, 4, 5, 6}),
        ({"save_interval": 2}, {2, 4, 6}),
        ({"keep_last": 2}, {5, 6}),
        ({"keep_last": 1, "keep_best": 2}, {2, 4, 6}),
        ({"save_interval": 3, "keep_best": 1}, {3, 4, 6}),
        ({"save_interval": 100, "keep_best": 3}, {1, 2, 4}),
    ],
)
def test_what_stays(tiny, tmp_path, options, left):
    trainer = tiny.build(tmp_path, epochs=6, **options)
    scores = iter([0.5, 0.7, float("nan"), 0.8, 0.2, 0.3])
    trainer.evaluator.run = lambda **_: {"top1": next(scores)}
    trainer.fit()
    assert names(tmp_path) == {"latest", "previous", "best_model", *(f"epoch_{n}" for n in left)}
    assert all(manifest.problem(tmp_path / name) is None for name in names(tmp_path))
    assert {p.stem for p in tmp_path.glob("*.pdparams")} == names(tmp_path)
    assert checkpoint.load(tmp_path / "best_model")["best"]["epoch"] == 4


# Writing beside training


def test_training_does_not_wait_for_the_disk(tmp_path, monkeypatch):
    allowed, save = threading.Event(), checkpoint.save

    def slow(*args):
        allowed.wait(10)
        save(*args)

    monkeypatch.setattr(checkpoint, "save", slow)
    manager, history = CheckpointManager(tmp_path), [1]
    manager.save({"model": {"w": np.ones(3)}, "history": history}, ["latest"])
    history.append(2)  # training goes on meanwhile
    assert not list(tmp_path.iterdir())
    allowed.set()
    manager.wait()
    assert checkpoint.load(tmp_path / "latest")["history"] == [1]


def test_what_is_written_is_the_state_of_that_moment(tiny, tmp_path, monkeypatch):
    """The writing thread is held back until training has gone on."""
    save, written = checkpoint.save, []

    def late(prefix, state, *rest):
        time.sleep(0.2)
        written.append((state["step_in_epoch"], state["model"]["fc.weight"].copy()))
        save(prefix, state, *rest)

    monkeypatch.setattr(checkpoint, "save", late)
    trainer, seen = tiny.build(tmp_path, epochs=1, save_steps=3), []
    after_update(trainer, 3, lambda: seen.append(trainer.state.task.model.fc.weight.numpy()))
    trainer.fit()
    assert written[0][0] == 3
    np.testing.assert_array_equal(written[0][1], seen[0])


def test_an_error_of_the_writing_stops_at_the_next_step(tiny, tmp_path, monkeypatch):
    def full(*_):
        raise UserError("latest.pdstate could not be written: No space left on device")

    trainer = tiny.build(tmp_path, save_steps=2, epochs=9)
    monkeypatch.setattr(checkpoint, "save", full)
    with pytest.raises(UserError, match="No space left"):
        trainer.fit()
    assert trainer.state.updates <= 4


def test_a_full_disk_leaves_the_old_checkpoints_whole(tiny, small_disk):
    trainer = tiny.build(small_disk, epochs=2, save_interval=9)
    trainer.fit()
    before = {name: checkpoint.load(small_disk / name) for name in names(small_disk)}
    filler = small_disk / "filler"
    with pytest.raises(OSError), filler.open("wb") as file:
        while True:
            file.write(b"0" * 4096)
            file.flush()
    with filler.open("r+b") as file:
        file.truncate(filler.stat().st_size - 8192)  # not enough for a state
    resumed = tiny.build(small_disk, epochs=4, save_steps=2, save_interval=9)
    resumed.resume("auto")
    with pytest.raises(UserError, match=r"could not be written|cannot be written"):
        resumed.fit()
    filler.unlink()
    assert names(small_disk) == set(before)
    for name, state in before.items():
        assert checkpoint.load(small_disk / name)["epoch"] == state["epoch"]
    again = tiny.build(small_disk, epochs=4, save_interval=9)
    again.resume("auto")
    again.fit()
    assert checkpoint.load(small_disk / "latest")["epoch"] == 5


@pytest.mark.parametrize("full_at", range(1, 8))
def test_no_space_at_any_point_of_a_write(tiny, tmp_path, monkeypatch, full_at):
    """Whatever call fails first: both checkpoints stay whole, and no half file stays."""
    tiny.build(tmp_path, epochs=2, ema=0.9).fit()
    before = {name: checkpoint.load(tmp_path / name)["epoch"] for name in ("latest", "previous")}
    fsync, calls = os.fsync, []

    def full(number):
        calls.append(number)
        if len(calls) == full_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(number)

    state = checkpoint.load(tmp_path / "latest") | {"epoch": 77}
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        checkpoint.save(tmp_path / "latest", state, tmp_path / "previous")
    assert not list(tmp_path.glob(".*"))
    _, newest = checkpoint.load_newest(tmp_path)
    assert newest["epoch"] in (77, before["latest"])
    assert checkpoint.load(tmp_path / "previous")["epoch"] in before.values()


def test_a_crash_before_any_rename_leaves_a_whole_checkpoint(tiny, tmp_path, monkeypatch):
    tiny.build(tmp_path, epochs=2, ema=0.9, save_interval=9).fit()
    (tmp_path / "best_model.pdstate").unlink()
    rename, calls, outcomes = Path.replace, [], []

    def crashing(path, target):
        calls.append(path)
        if len(calls) == crash_at:
            raise Killed
        return rename(path, target)

    monkeypatch.setattr(Path, "replace", crashing)
    for crash_at in range(1, 99):
        prefix, state = checkpoint.load_newest(tmp_path)
        calls.clear()
        try:
            saved = state | {"epoch": state["epoch"] + 1}
            checkpoint.save(tmp_path / "latest", saved, tmp_path / "previous")
        except Killed:
            prefix, found = checkpoint.load_newest(tmp_path)
            outcomes.append((prefix.name, found["epoch"] - state["epoch"]))
        else:
            break
        finally:
            crash_at = 0
            checkpoint.save(tmp_path / "latest", state, tmp_path / "previous")
    # 4 renames keep the previous, 4 put the new one in place: state, manifest, two of weights
    assert outcomes == [("latest", 0)] * 5 + [("previous", 0)] + [("latest", 1)] * 2


def test_unfinished_files_are_removed(tiny, tmp_path):
    (tmp_path / ".latest.pdstate.tmp").write_bytes(b"half")
    tiny.build(tmp_path, epochs=1).fit()
    assert not list(tmp_path.glob(".*"))


# Finding the newest whole one


def test_auto_without_a_checkpoint_is_a_new_run(tiny, tmp_path, lines):
    trainer = tiny.build(tmp_path)
    trainer.resume("auto")
    assert trainer.state.updates == 0 and "No checkpoint in" in lines.text


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "manifest"])
def test_a_damaged_checkpoint_is_named_and_the_previous_used(tiny, tmp_path, lines, damage):
    tiny.build(tmp_path / "whole", save_steps=4).fit()
    with pytest.raises(Killed):
        after_update(tiny.build(tmp_path / "parts", save_steps=4), 11, die).fit()
    path = tmp_path / "parts" / "latest.pdstate"
    if damage == "truncate":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "flip":
        flip_a_byte(path)
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        path.with_name("latest.manifest.json").write_text("{")
    with pytest.raises(UserError, match=r"Global\.checkpoints=auto"):
        tiny.build(tmp_path / "parts").resume(tmp_path / "parts" / "latest")
    resumed = tiny.build(tmp_path / "parts", save_steps=4)
    resumed.resume("auto")
    assert resumed.state.updates == 6
    assert "The checkpoint latest is passed over: " in lines.text
    resumed.fit()
    assert records(tmp_path / "whole") == records(tmp_path / "parts")


def test_the_order_of_the_search(tiny, tmp_path):
    tiny.build(tmp_path).fit()
    expected = ["latest", "previous", "epoch_3", "epoch_2", "epoch_1"]
    os.utime(tmp_path / "latest.pdstate", (1, 1))  # the clock does not decide about these two
    (tmp_path / "best_model.pdstate").unlink()
    for name in expected:
        prefix, _ = checkpoint.load_newest(tmp_path)
        assert prefix.name == name
        flip_a_byte(tmp_path / f"{name}.pdstate")
    with pytest.raises(UserError, match=r"no checkpoint in .* is whole"):
        checkpoint.load_newest(tmp_path)


def test_a_state_without_a_manifest_is_read(tiny, tmp_path):
    tiny.build(tmp_path, epochs=1).fit()
    (tmp_path / "latest.manifest.json").unlink()
    assert checkpoint.load_newest(tmp_path)[0].name == "latest"


def test_the_manifest_is_true(tiny, tmp_path):
    tiny.build(tmp_path, epochs=1, ema=0.5).fit()
    content = json.loads((tmp_path / "best_model.manifest.json").read_text())
    assert set(content["files"]) == {".pdstate", ".pdparams", "_raw.pdparams"}
    assert (content["epoch"], content["step_in_epoch"]) == (2, 0)
    for suffix, entry in content["files"].items():
        assert Path(f"{tmp_path}/best_model{suffix}").stat().st_size == entry["bytes"]
        assert manifest.problem(tmp_path / "best_model", suffix) is None
    flip_a_byte(tmp_path / "best_model.pdparams")
    assert "checksum" in manifest.problem(tmp_path / "best_model", ".pdparams")


# Ends


@pytest.mark.parametrize(("kind", "status"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGUSR1", 75)])
def test_signals_save_and_say_so(tiny, tmp_path, kind, status):
    number = getattr(signal, kind)
    trainer = after_update(tiny.build(tmp_path), 9, lambda: os.kill(os.getpid(), number))
    result = trainer.fit()
    assert (result.exit_code, result.stopped_by) == (status, number)
    assert checkpoint.load(tmp_path / "latest")["step_in_epoch"] == 3


def test_the_time_limit_saves_and_asks_to_be_resumed(tiny, tmp_path, lines, monkeypatch):
    tiny.build(tmp_path / "whole").fit()
    trainer = tiny.build(tmp_path / "parts", max_minutes=30)
    now = time.monotonic()
    after_update(trainer, 8, lambda: monkeypatch.setattr(time, "monotonic", lambda: now + 1801))
    result = trainer.fit()
    assert (result.exit_code, result.stopped_by) == (75, None)
    assert "Stopped by Global.max_minutes (30) in epoch 2, after step 2 of 6" in lines.text
    monkeypatch.undo()
    resumed = tiny.build(tmp_path / "parts", max_minutes=30)
    resumed.resume("auto")
    assert resumed.fit().exit_code == 0
    assert records(tmp_path / "whole") == records(tmp_path / "parts")


def test_early_stop_is_an_end(tiny, tmp_path, lines):
    def build():
        trainer = tiny.build(tmp_path, epochs=20, early_stop=3)
        trainer.evaluator.run = lambda **_: {"top1": next(scores)}
        return trainer

    scores = iter([0.1, 0.5, 0.2, 0.5, 0.6, 0.3, float("nan"), 0.6, 0.9])
    result = build().fit()
    assert result.exit_code == 0 and result.best["epoch"] == 8  # of equal ones
    assert records(tmp_path)[-1]["epoch"] == 8
    assert "no better score in 3 evaluations" in lines.text
    again = build()
    again.resume("auto")
    assert again.fit().exit_code == 0 and next(scores) == 0.9  # it trains no further


# Long runs


def resident():
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_memory_and_open_files_are_flat_over_thirty_epochs(tiny, tmp_path, monkeypatch):
    options = {"ema": 0.9, "save_steps": 5, "keep_last": 1, "save_interval": 20}
    trainer = tiny.build(tmp_path, "Momentum", epochs=30, **options)
    seen = []
    finish = trainer._finish_epoch
    monkeypatch.setattr(os, "fsync", lambda number: None)  # 300 of them take a while

    def measured():
        done = finish()
        trainer.writer.wait()
        gc.collect()
        threads = threading.active_count()
        seen.append((resident(), len(list(Path("/proc/self/fd").iterdir())), threads))
        return done

    trainer._finish_epoch = measured
    trainer.fit()
    memory, files, threads = zip(*seen)
    assert max(memory[10:]) - memory[9] < 8, memory
    assert max(files) <= files[1] and max(threads) <= threads[1]
    assert len(names(tmp_path)) <= 6
    assert (tmp_path / "metrics.jsonl").stat().st_size < 30 * 4 * 400


def test_a_full_disk_under_visualdl_does_not_stop_training(tiny, tmp_path, small_disk, lines):
    (small_disk / "filler").write_bytes(b"0" * (240 * 1024))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "vdl").symlink_to(small_disk)
    recorder = Recorder(tmp_path / "run", loggers=[VisualDL()])
    recorder.open()
    for step in range(3000):
        recorder.write("step", 1, step, {"loss": 1.0, "top1": 0.5, "lr": 0.1})
    recorder.close()
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 3000
