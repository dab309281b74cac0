"""Whole runs with the kernels on: resumed ones, averages, accumulation, export."""

from __future__ import annotations

import copy
import ctypes
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import paddle
import pytest

from ppcls_lite.cli import main
from ppcls_lite.engine import checkpoint
from ppcls_lite.engine.evaluate import Evaluator
from ppcls_lite.engine.trainer import Trainer
from ppcls_lite.inference.export import export_model
from ppcls_lite.kernels import convert
from ppcls_lite.models.create import create_model

ROOT = Path(__file__).resolve().parents[2]
RECIPE = """
_base_: {base}
Global: {{epochs: 2, device: cpu, image_shape: [3, 32, 32], use_visualdl: false, cpu_kernels: on,
         print_batch_step: 1, eval_interval: 2, save_interval: 2, total_batch_size: 8}}
Arch: {{name: PPLCNet_x0_25, class_num: 2, stride_list: [2, 1, 2, 2, 1], dropout_prob: 0.2}}
Optimizer: {{lr: {{learning_rate: 0.02, warmup_epoch: 0}}}}
DataLoader:
  Train:
    dataset: &data
      image_root: {home}
      cls_label_path: {home}/list.txt
      transform_ops:
        [DecodeImage, {{RandCropImage: {{size: 32}}}}, {{NormalizeImage: {{order: ''}}}}]
    sampler: {{batch_size: 8, drop_last: true}}
    loader: {{num_workers: 0}}
  Eval:
    dataset:
      image_root: {home}
      cls_label_path: {home}/list.txt
      transform_ops: [DecodeImage, {{ResizeImage: {{size: 32}}}}, {{NormalizeImage: {{order: ''}}}}]
    sampler: {{batch_size: 16}}
    loader: {{num_workers: 0}}
"""
AVERAGED = ("EMA.decay=0.8", "Global.update_freq=2")
Run = Callable[..., tuple[dict, list[dict]]]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe for 48 small images of two classes: six batches an epoch."""
    home = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    lines = []
    for i in range(48):
        image = rng.integers(0, 100, (40, 40, 3)) + 120 * (i % 2)
        cv2.imwrite(str(home / f"{i}.png"), image.astype(np.uint8))
        lines.append(f"{i}.png {i % 2}")
    (home / "list.txt").write_text("\n".join(lines), encoding="utf-8")
    path = home / "recipe.yaml"
    base = ROOT / "configs" / "_base_" / "pplcnet.yaml"
    path.write_text(RECIPE.format(base=base, home=home), encoding="utf-8")
    return path


@pytest.fixture
def run(recipe: Path, kernels_home: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`run(output, *overrides, stop_at=0, status=0)`: the last state and the records of a run."""
    monkeypatch.setenv("PPCLS_LITE_HOME", str(kernels_home))
    step = Trainer.step

    def start(
        output: Path, *overrides: str, stop_at: int = 0, status: int = 0
    ) -> tuple[dict, list[dict]]:
        def stopping(trainer: Trainer, batches: list) -> None:
            step(trainer, batches)
            if trainer.state.updates == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)

        monkeypatch.setattr(Trainer, "step", stopping)
        options = [i for o in (f"Global.output_dir={output}", *overrides) for i in ("-o", o)]
        assert main(["train", "-c", str(recipe), *options]) == status
        folder = output / "PPLCNet_x0_25"
        records = [json.loads(line) for line in (folder / "metrics.jsonl").open(encoding="utf-8")]
        return checkpoint.load(folder / "latest"), records

    return start


def require_same(one: object, other: object, place: str = "state") -> None:
    """Bit by bit."""
    if isinstance(one, dict):
        assert list(one) == list(other), place
        for key in one:
            require_same(one[key], other[key], f"{place}.{key}")
    elif isinstance(one, np.ndarray):
        assert one.tobytes() == other.tobytes(), place
    else:
        assert one == other, place


@pytest.mark.parametrize("options", [(), AVERAGED], ids=["plain", "averaged"])
def test_a_run_stopped_in_an_epoch_and_resumed_is_the_same_with_any_workers(
    options: tuple[str, ...], run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole, _ = run(tmp_path / "whole", *options)
    assert re.search(r"CPU kernels: native in \d\d layers", capfd.readouterr().out)
    for first, second in ((0, 2), (2, 0)) if not options else ((1, 0),):
        output, key = tmp_path / f"{first}", "DataLoader.Train.loader.num_workers"
        run(output, *options, f"{key}={first}", stop_at=4, status=143)
        resume = f"Global.checkpoints={output}/PPLCNet_x0_25/latest"
        parts, _ = run(output, *options, f"{key}={second}", resume)
        for part in ("model", "optimizer", "ema"):
            require_same(whole.get(part), parts.get(part), part)


def test_averages_and_accumulated_batches_are_those_of_stock_paddle(
    run: Run, tmp_path: Path
) -> None:
    options = (*AVERAGED, "Arch.dropout_prob=0.0", "Global.epochs=1", "Global.eval_interval=1")
    own, lines = run(tmp_path / "own", *options)
    stock, expected = run(tmp_path / "stock", *options, "Global.cpu_kernels=off")
    losses = [[r["loss"] for r in records if r["kind"] == "step"] for records in (lines, expected)]
    assert len(losses[0]) == 3 and np.allclose(*losses, rtol=1e-3)
    for name, value in stock["ema"]["weights"].items():
        found, moved = own["ema"]["weights"][name], stock["model"][name]
        assert np.abs(found - value).max() <= 0.02 * max(np.abs(value).max(), 1e-2), name
        assert found.shape == moved.shape
    assert any((own["ema"]["weights"][k] != own["model"][k]).any() for k in own["model"])


def operators(folder: Path) -> list[str]:
    """The kinds of operators in an exported program."""
    text = (folder / "inference.json").read_text(encoding="utf-8")
    return sorted(set(re.findall(r'"#":"([\w.]+)"', text)))


def test_the_exported_program_is_stock_before_and_after_training(
    native: ctypes.CDLL, tmp_path: Path
) -> None:
    paddle.seed(1)
    stock = create_model("PPLCNet_x0_25", class_num=5, dropout_prob=0.0)
    own = copy.deepcopy(stock)
    convert(own, native)
    normal = [{"NormalizeImage": {"order": ""}}]
    pictures = list(np.random.default_rng(0).integers(0, 255, (4, 64, 64, 3)).astype(np.uint8))
    for part in ("before", "after"):
        stock.set_state_dict(own.state_dict())
        programs = {}
        for name, model in (("own", own), ("stock", stock)):
            folder = tmp_path / part / name
            report = export_model(model, folder, (3, 64, 64), normal, sample_images=pictures)
            assert report.changed == 0
            programs[name] = operators(report.folder)
        assert programs["own"] == programs["stock"]
        assert any("depthwise_conv2d" in name for name in programs["own"])
        assert not any("py" in name.lower() for name in programs["own"])
        weights = [
            (tmp_path / part / name / "inference.pdiparams").read_bytes() for name in programs
        ]
        assert weights[0] == weights[1]
        own.train()
        optimizer = paddle.optimizer.SGD(0.01, own.parameters())
        own(paddle.randn([4, 3, 64, 64])).square().sum().backward()  # after an export, as well
        assert all(p.grad is not None for p in own.parameters() if not p.stop_gradient)
        optimizer.step()
        optimizer.clear_grad()


def test_to_static_of_a_network_with_kernels_runs_stock_operators(native: ctypes.CDLL) -> None:
    paddle.seed(1)
    stock = create_model("PPLCNet_x0_25", class_num=5, dropout_prob=0.0)
    own = copy.deepcopy(stock)
    convert(own, native)
    images = paddle.randn([2, 3, 64, 64])
    own.train()
    before = own(images)
    stock.set_state_dict(own.state_dict())
    for model in (own, stock):
        model.eval()
    spec = [paddle.static.InputSpec([None, 3, 64, 64], "float32")]
    static = paddle.jit.to_static(copy.deepcopy(own), input_spec=spec, full_graph=True)
    assert np.allclose(static(images).numpy(), stock(images).numpy(), atol=1e-5)
    assert before.shape == [2, 5]


PAGE_FAULTS = """
import ctypes, os, resource, sys
import paddle

if not ctypes.CDLL(sys.argv[1]).keep_memory():
    sys.exit(77)

def pages():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def step():
    tensors = [paddle.full([16 << 20], float(i)) for i in range(3)]  # 64 MiB each
    assert tensors[2][0] == 2

# Aligned blocks fit into the gaps of others only after some steps, and small ones of other threads
# may take a piece of such a gap at any time: memory is kept if there is a step without new pages.
# Without keep_memory each of them gets all of its pages anew.
fewest = whole = 3 * (64 << 20) // os.sysconf("SC_PAGE_SIZE")
for _ in range(30):
    before = pages()
    step()
    fewest = min(fewest, pages() - before)
    if fewest < whole // 10:
        break
print(fewest, whole)
assert fewest < whole // 10
"""


def test_memory_is_kept_from_step_to_step(native: ctypes.CDLL) -> None:
    # in a process of its own, whose page faults are nobody else's
    status = subprocess.run([sys.executable, "-c", PAGE_FAULTS, native._name]).returncode
    if status == 77:
        pytest.skip("this C library has no mallopt")
    assert status == 0


def test_kernels_that_must_be_on_are_a_mistake_where_they_cannot_be(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PPCLS_LITE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CXX", "/bin/false")
    with pytest.raises(FileNotFoundError):  # no step was made
        run(tmp_path, status=1)
    printed = capfd.readouterr()
    assert "Global.cpu_kernels: on, but there are none" in printed.err + printed.out
    assert "Traceback" not in printed.err
    state, _ = run(tmp_path / "auto", "Global.cpu_kernels=auto", "Global.epochs=1")
    assert state["model"]


def test_an_evaluation_takes_kernels_that_are_there_and_compiles_none(
    run: Run, built_kernels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, records = run(tmp_path / "run", "Global.epochs=1")
    trained = [record for record in records if record["kind"] == "eval"][-1]
    folder = tmp_path / "run" / "PPLCNet_x0_25"
    kinds: list[set[str]] = []
    scored = Evaluator.run

    def watching(self: Evaluator, *rest: object, **more: object) -> object:
        kinds.append({type(layer).__name__ for layer in self.task.model.sublayers()})
        return scored(self, *rest, **more)

    monkeypatch.setattr(Evaluator, "run", watching)
    there, elsewhere = built_kernels.parents[2], tmp_path / "elsewhere"
    for home, mode in ((there, "auto"), (elsewhere, "auto"), (there, "off")):
        monkeypatch.setenv("PPCLS_LITE_HOME", str(home))
        assert main(["eval", "-c", str(folder), "-o", f"Global.cpu_kernels={mode}"]) == 0
        scores = json.loads((folder / "eval.json").read_text())
        assert scores["top1"] == trained["top1"]
        assert scores["loss"] == pytest.approx(trained["loss"], rel=1e-4)
    assert ["NativeDepthwise" in found for found in kinds] == [True, False, False]
    assert not (elsewhere / "kernels").exists()
