from __future__ import annotations

import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import nn

from ppcls_lite.engine import checkpoint
from ppcls_lite.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def train_a_little(model, optimizer, steps=2):
    for step in range(steps):
        paddle.seed(step)
        model(paddle.rand([4, 3, 8, 8])).square().sum().backward()
        optimizer.step()
        optimizer.clear_grad()


def momentum(model):
    return paddle.optimizer.Momentum(0.01, parameters=model.parameters(), weight_decay=1e-3)


def test_weights_load_with_paddle_itself(tiny, tmp_path):
    model = tiny.Net()
    checkpoint.save(tmp_path / "latest", {"model": checkpoint.arrays(model), "step": 3})
    other = tiny.Net()
    other.set_state_dict(paddle.load(str(tmp_path / "latest.pdparams")))
    for name, tensor in model.state_dict().items():
        assert (tensor == other.state_dict()[name]).all()
    assert checkpoint.load(tmp_path / "latest")["step"] == 3
    assert {p.name for p in tmp_path.iterdir()} == {
        *("latest.pdparams", "latest.pdstate", "latest.manifest.json")
    }


def test_prefix_with_a_dot_keeps_its_name(tiny, tmp_path):
    checkpoint.save(tmp_path / "v1.5", {"model": {}})
    assert (tmp_path / "v1.5.pdstate").exists()
    assert checkpoint.load(tmp_path / "v1.5")["model"] == {}
    assert checkpoint.load(tmp_path / "v1.5.pdparams")["model"] == {}


@pytest.mark.parametrize(
    "content",
    [b"", b"no pickle at all", b"PK\x03\x04", pickle.dumps({"model": {}})[:-3]],
    ids=["empty", "text", "zip", "truncated"],
)
def test_damaged_file(tmp_path, content):
    (tmp_path / "latest.pdstate").write_bytes(content)
    with pytest.raises(UserError, match=r"latest\.pdstate"):
        checkpoint.load(tmp_path / "latest")


def test_what_a_state_holds(tiny, tmp_path):
    """The entries are the format: a later version resumes from them."""
    tiny.build(tmp_path, epochs=1).fit()
    state = checkpoint.load(tmp_path / "latest")
    assert list(state) == [
        *("format", "model", "ema", "companions", "optimizer", "precision", "schedule"),
        *("epoch", "step_in_epoch", "steps_per_epoch", "best", "history", "lines"),
        *("origin", "ranks"),
    ]
    assert list(state["origin"]) == ["recipe", "data", "teachers", "batch"]
    assert set(state["best"]) == {"epoch", "scores", "metrics"}
    assert set(state["history"][0]) == {"epoch", "lr", "train", "eval"}
    assert set(state["ranks"][0]) == {"meters", "metrics", "rng"}


def test_an_older_state_whose_best_has_a_matrix_instead_of_metrics_resumes(tiny, tmp_path):
    tiny.build(tmp_path, epochs=1).fit()
    state = checkpoint.load(tmp_path / "latest")
    del state["best"]["metrics"]
    state["best"]["confusion"] = np.eye(3, dtype=np.int64)
    state["best"]["scores"] = {"top1": 2.0}  # is not beaten
    checkpoint.save(tmp_path / "older", state)
    resumed = tiny.build(tmp_path, epochs=2, pictures=True)
    resumed.resume(tmp_path / "older")
    assert resumed.fit().best == {"top1": 2.0, "epoch": 1}
    assert not (tmp_path / "trace.txt").exists() and (tmp_path / "curves.png").exists()


def test_truncated_state_of_a_real_run(tiny, tmp_path):
    tiny.build(tmp_path, epochs=1).fit()
    path = tmp_path / "latest.pdstate"
    whole = path.read_bytes()
    for share in (0.1, 0.5, 0.99):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(UserError, match=r"latest\.pdstate"):
            tiny.build(tmp_path).resume(tmp_path / "latest")


def test_code_in_a_file_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return print, ("this must not be printed",)

    (tmp_path / "latest.pdstate").write_bytes(pickle.dumps({"format": 1, "model": Evil()}))
    with pytest.raises(UserError, match="print"):
        checkpoint.load(tmp_path / "latest")


def test_foreign_and_other_format(tmp_path):
    for content, message in (
        ({"epoch": 3}, "not a training state of this toolkit"),
        ([1, 2], "not a training state of this toolkit"),
        ({"format": 99, "model": {}}, "format 99, this version reads format 1"),
    ):
        (tmp_path / "latest.pdstate").write_bytes(pickle.dumps(content))
        with pytest.raises(UserError, match=message):
            checkpoint.load(tmp_path / "latest")


def test_missing_file_says_what_is_there(tmp_path):
    with pytest.raises(UserError, match="that folder has no checkpoint"):
        checkpoint.load(tmp_path / "latest")
    checkpoint.save(tmp_path / "epoch_7", {"model": {}})
    with pytest.raises(UserError, match="that folder has: epoch_7"):
        checkpoint.load(tmp_path / "latest")
    (tmp_path / "official.pdparams").write_bytes(b"")
    with pytest.raises(UserError, match=r"weights only.*Global\.pretrained_model"):
        checkpoint.load(tmp_path / "official")


def test_other_network_changes_nothing(tiny):
    narrow, wide = tiny.Net(4), tiny.Net(6)
    before = checkpoint.arrays(wide)
    with pytest.raises(UserError, match=r"fc\.weight is \[4, 3\] there and \[6, 3\] here|conv"):
        checkpoint.load_arrays(wide, checkpoint.arrays(narrow), "run/latest")
    for name, array in checkpoint.arrays(wide).items():
        np.testing.assert_array_equal(array, before[name])
    saved = checkpoint.arrays(narrow)
    saved["extra"] = saved.pop("fc.bias")
    with pytest.raises(UserError, match=r"it lacks fc\.bias; it has unknown extra"):
        checkpoint.load_arrays(narrow, saved, "run/latest")


@pytest.mark.parametrize("kind", ["Momentum", "Adam", "AdamW", "RMSProp", "Adagrad", "SGD"])
def test_optimizer_state_is_restored_exactly(tiny, kind):
    def make():
        nn.Conv2D(3, 3, 1)  # so that Paddle numbers the layers of each network differently
        model = tiny.Net()
        options = {"parameters": model.parameters(), "weight_decay": 1e-3}
        return model, getattr(paddle.optimizer, kind)(learning_rate=0.01, **options)

    model, optimizer = make()
    train_a_little(model, optimizer)
    saved = checkpoint.optimizer_arrays(optimizer, model)
    trained = {name for name, p in model.named_parameters() if not p.stop_gradient}
    assert all(set(values) == trained for values in saved["slots"].values())

    other, fresh = make()
    checkpoint.load_arrays(other, checkpoint.arrays(model), "x")
    checkpoint.load_optimizer_arrays(fresh, other, saved, "x")
    again = checkpoint.optimizer_arrays(fresh, other)
    assert saved["slots"].keys() == again["slots"].keys()
    assert fresh.get_lr() == 0.01
    train_a_little(model, optimizer)
    train_a_little(other, fresh)
    for name, array in checkpoint.arrays(model).items():
        np.testing.assert_array_equal(array, checkpoint.arrays(other)[name])


def test_frozen_parameters_have_no_state(tiny):
    model = tiny.Net()
    model.conv.weight.stop_gradient = True
    optimizer = momentum(model)
    train_a_little(model, optimizer)
    saved = checkpoint.optimizer_arrays(optimizer, model)
    assert "conv.weight" not in saved["slots"]["velocity"]
    other = tiny.Net()
    with pytest.raises(UserError, match=r"velocity of conv\.weight is missing"):
        fresh = momentum(other)
        train_a_little(other, fresh)
        checkpoint.load_optimizer_arrays(fresh, other, saved, "run/latest")


def test_other_optimizer_is_refused(tiny):
    model = tiny.Net()
    saved = checkpoint.optimizer_arrays(momentum(model), model)
    adam = paddle.optimizer.Adam(0.1, parameters=model.parameters())
    with pytest.raises(UserError, match="written with the optimizer Momentum, this run has Adam"):
        checkpoint.load_optimizer_arrays(adam, model, saved, "run/latest")


def test_failed_write_keeps_the_old_file(tiny, tmp_path, monkeypatch):
    checkpoint.save(tmp_path / "latest", {"model": {}, "epoch": 1})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match=r"latest\.pdstate could not be written: No space"):
        checkpoint.save(tmp_path / "latest", {"model": {}, "epoch": 2})
    assert checkpoint.load(tmp_path / "latest")["epoch"] == 1
    assert len(list(tmp_path.iterdir())) == 3


def test_resume_in_a_new_process_with_other_layer_numbers(tiny, tmp_path):
    """Paddle's parameter names differ there; the weights after one more update do not."""
    model = nn.Sequential(nn.Conv2D(3, 4, 3), nn.Flatten(), nn.Linear(144, 2))
    optimizer = momentum(model)
    train_a_little(model, optimizer)
    state = {
        "model": checkpoint.arrays(model),
        "optimizer": checkpoint.optimizer_arrays(optimizer, model),
    }
    checkpoint.save(tmp_path / "latest", state)
    script = f"""
        import sys, paddle
        from paddle import nn
        from ppcls_lite.engine import checkpoint
        nn.Sequential(nn.Linear(2, 2), nn.Conv2D(3, 3, 1), nn.Conv2D(3, 3, 1))
        model = nn.Sequential(nn.Conv2D(3, 4, 3), nn.Flatten(), nn.Linear(144, 2))
        optimizer = paddle.optimizer.Momentum(
            0.01, parameters=model.parameters(), weight_decay=1e-3)
        state = checkpoint.load(r"{tmp_path / "latest"}")
        checkpoint.load_arrays(model, state["model"], "latest")
        checkpoint.load_optimizer_arrays(optimizer, model, state["optimizer"], "latest")
        paddle.seed(0)
        model(paddle.rand([4, 3, 8, 8])).square().sum().backward()
        optimizer.step()
        checkpoint.save(r"{tmp_path / "next"}", {{"model": checkpoint.arrays(model)}})
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, cwd=ROOT)
    train_a_little(model, optimizer, steps=1)
    for name, array in checkpoint.load(tmp_path / "next")["model"].items():
        np.testing.assert_array_equal(array, model.state_dict()[name].numpy())
