"""What differs between a checkpoint and the run that resumes it."""

from __future__ import annotations

import dataclasses
import logging

import pytest

from ppcls_lite.engine import checkpoint
from ppcls_lite.engine.origin import Origin, flat_recipe
from ppcls_lite.errors import UserError

TREE = {
    "Global": {"epochs": 2, "output_dir": "here", "checkpoints": "auto", "plugins": []},
    "Optimizer": {"name": "Momentum", "lr": {"learning_rate": 0.1}},
    "Metric": {"Eval": [{"TopkAcc": {"topk": [1, 5]}}, "ConfusionMatrix"]},
}
ORIGIN = Origin(
    flat_recipe(TREE),
    {"labels of DataLoader.Train": "1a", "images of DataLoader.Eval": "2b"},
    {"weights of Teacher": "3c"},
    batch=16,
)


def test_a_recipe_is_flat_and_says_nothing_of_places():
    assert flat_recipe(TREE) == {
        "Global.epochs": 2,
        "Global.plugins": "[]",
        "Optimizer.name": "Momentum",
        "Optimizer.lr.learning_rate": 0.1,
        "Metric.Eval[0].TopkAcc.topk[0]": 1,
        "Metric.Eval[0].TopkAcc.topk[1]": 5,
        "Metric.Eval[1]": "ConfusionMatrix",
    }


def test_each_difference_is_a_line():
    other = {
        "Global": {"epochs": 4, "output_dir": "there", "plugins": []},
        "Optimizer": {"name": "Momentum", "lr": {"learning_rate": 0.1, "warmup_epoch": 1}},
        "Metric": {"Eval": [{"TopkAcc": {"topk": [1]}}, "Confusion" * 20]},
    }
    now = dataclasses.replace(
        ORIGIN, recipe=flat_recipe(other), teachers={"weights of Teacher": "4d"}, batch=32
    )
    found = now.differences(ORIGIN.state(), "latest", within_epoch=False)
    assert sorted(found)[:2] == [
        "Global.epochs: 2 -> 4",
        "Metric.Eval[0].TopkAcc.topk[1]: 5 -> not stated",
    ]
    assert "Optimizer.lr.warmup_epoch: not stated -> 1" in found and len(found) == 5
    assert "weights of Teacher" in found and max(map(len, found)) < 120
    assert ORIGIN.differences(ORIGIN.state(), "latest", within_epoch=True) == []


def test_other_data_is_refused_unless_it_is_wanted():
    other = {"labels of DataLoader.Train": "1a", "images of DataLoader.Eval": "5e"}
    now = dataclasses.replace(ORIGIN, data=other)
    with pytest.raises(UserError, match=r"names: images of DataLoader\.Eval\. .*changed_data=true"):
        now.differences(ORIGIN.state(), "latest", within_epoch=False)
    wanted = dataclasses.replace(now, changed_data=True)
    assert wanted.differences(ORIGIN.state(), "latest", within_epoch=False) == [
        "images of DataLoader.Eval"
    ]


def test_another_batch_within_an_epoch_is_refused():
    now = dataclasses.replace(ORIGIN, batch=15)  # as many steps, if the last one is smaller
    with pytest.raises(UserError, match=r"in the middle of an epoch of 16 images an update"):
        now.differences(ORIGIN.state(), "latest", within_epoch=True)


def with_origin(tiny, run_dir, origin, **options):
    trainer = tiny.build(run_dir, **options)
    trainer.state.origin = origin
    return trainer


def test_a_resume_says_what_differs(tiny, tmp_path, caplog):
    caplog.set_level(logging.INFO, "ppcls_lite")
    with_origin(tiny, tmp_path, ORIGIN, epochs=1).fit()
    tree = {**TREE, "Global": {**TREE["Global"], "epochs": 3}}
    now = dataclasses.replace(ORIGIN, recipe=flat_recipe(tree))
    resumed = with_origin(tiny, tmp_path, now, epochs=3)
    assert resumed.resume("auto") == tmp_path / "latest"
    assert "what differs:\n- Global.epochs: 2 -> 3" in caplog.text
    resumed.fit()
    caplog.clear()
    again = with_origin(tiny, tmp_path, now, epochs=2)
    again.resume("auto")
    assert "what differs" not in caplog.text  # the last start's recipe is what counts
    assert "after epoch 3 of 2" in caplog.text and "There is nothing to do" in caplog.text
    assert again.fit().exit_code == 0 and again.state.epoch == 4


def test_a_state_of_an_older_version_is_not_compared(tiny, tmp_path, caplog):
    caplog.set_level(logging.INFO, "ppcls_lite")
    tiny.build(tmp_path, epochs=1).fit()
    state = checkpoint.load(tmp_path / "latest")
    del state["origin"]
    checkpoint.save(tmp_path / "older", state)
    with_origin(tiny, tmp_path, ORIGIN).resume(tmp_path / "older")
    assert "not compared" in caplog.text
