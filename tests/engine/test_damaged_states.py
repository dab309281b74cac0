"""Checkpoints and records of odd content: a message, or a run that goes on."""

from __future__ import annotations

import copy
import json
import logging

import numpy as np
import pytest

from ppcls_lite.engine import checkpoint
from ppcls_lite.errors import UserError

ODD = (None, -1, 10**30, "x", 1.5, float("nan"), [], [1], {}, {"a": 1}, (), b"x", np.zeros(3))


@pytest.fixture(autouse=True)
def lines(caplog):
    caplog.set_level(logging.INFO, "ppcls_lite")
    return caplog


def places(value, depth=3, path=()):
    """The ways to every entry down to some depth."""
    inside = value.items() if isinstance(value, dict) else ()
    inside = enumerate(value) if isinstance(value, list) else inside
    for key, item in list(inside)[:3] if path else list(inside):
        yield (*path, key)
        if len(path) + 1 < depth:
            yield from places(item, depth, (*path, key))


def changed(state, path, value):
    state = copy.deepcopy(state)
    place = state
    for key in path[:-1]:
        place = place[key]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return state


def test_a_state_of_odd_content_is_a_message(tiny, tmp_path, monkeypatch):
    tiny.build(tmp_path, epochs=2, ema=0.9, save_steps=4).fit()
    state = checkpoint.load(tmp_path / "previous")
    monkeypatch.setattr("os.fsync", lambda number: None)
    trainer = tiny.build(tmp_path / "other", epochs=2, ema=0.9)
    tried = refused = 0
    for path in places(state):
        if path == ("format",):
            continue
        for value in (*ODD[tried % 3 :: 3], ...):
            tried += 1
            try:
                trainer.state.restore(changed(state, path, value), "latest")
            except UserError as error:
                assert "latest" in str(error) and len(str(error)) < 2000, (path, value)
                refused += 1
    assert tried > 250 and refused > tried / 2
    trainer.state.restore(state, "latest")  # still goes
    trainer.fit()


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": "2"},
        {"epoch": 0},
        {"step_in_epoch": 99},
        {"lines": -1},
        {"history": [{"epoch": 1, "lr": 0.1, "train": {}, "eval": {}}]},
        {"history": {"epoch": 1}},
        {"best": {"epoch": 1, "scores": {"top1": "good"}}},
        {"best": {"epoch": 1, "scores": {"top1": 0.5}, "metrics": {"Trace": {"right": 3}}}},
    ],
    ids=str,
)
def test_what_is_used_later_is_looked_at_first(tiny, tmp_path, change):
    tiny.build(tmp_path, epochs=1).fit()
    trainer = tiny.build(tmp_path, epochs=2)
    with pytest.raises(UserError, match="latest is no whole training state"):
        trainer.state.restore(checkpoint.load(tmp_path / "latest") | change, "latest")


def test_a_dangling_link_is_named_and_passed_over(tiny, tmp_path, lines):
    tiny.build(tmp_path, epochs=2).fit()
    (tmp_path / "latest.pdstate").unlink()
    (tmp_path / "latest.pdstate").symlink_to(tmp_path / "gone.pdstate")
    with pytest.raises(UserError, match=r"latest\.pdstate is a link to .*gone\.pdstate, which"):
        checkpoint.load(tmp_path / "latest")
    assert checkpoint.load_newest(tmp_path)[0].name == "previous"
    assert "The checkpoint latest is passed over: " in lines.text


def test_a_state_that_is_a_folder_is_named(tiny, tmp_path):
    (tmp_path / "latest.pdstate").mkdir()
    with pytest.raises(UserError, match=r"latest\.pdstate could not be read: Is a directory"):
        checkpoint.load(tmp_path / "latest")


@pytest.mark.parametrize("line", [b"\xff\xfe\x00", b"{", b"3", b'{"kind": "step"}', b"[" * 99999])
def test_damaged_records_are_kept_beside(tiny, tmp_path, lines, line):
    tiny.build(tmp_path, epochs=1).fit()
    path = tmp_path / "metrics.jsonl"
    whole = path.read_bytes().split(b"\n")
    damaged = b"\n".join([whole[0], line, *whole[2:]])
    path.write_bytes(damaged)
    resumed = tiny.build(tmp_path, epochs=2)
    resumed.resume("auto")
    resumed.fit()
    assert "has 1 good records, but 6 belong to the checkpoint" in lines.text
    assert path.with_name("metrics.jsonl.damaged").read_bytes() == damaged
    epochs = [json.loads(line)["epoch"] for line in path.read_text().splitlines()]
    assert epochs == [1, 2, 2, 2, 2, 2]


def test_records_that_are_a_folder_are_a_message(tiny, tmp_path):
    tiny.build(tmp_path, epochs=1).fit()
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "metrics.jsonl").mkdir()
    resumed = tiny.build(tmp_path, epochs=2)
    resumed.resume("auto")
    with pytest.raises(UserError, match=r"metrics\.jsonl cannot be read: Is a directory"):
        resumed.fit()
