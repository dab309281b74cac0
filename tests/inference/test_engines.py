"""All engines behind one predictor: equal answers, safe in threads, clear refusals."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from ppcls_lite.errors import UserError
from ppcls_lite.inference import engines
from ppcls_lite.inference.engines import (
    Engine,
    available_engines,
    available_precisions,
    make_engine,
)
from ppcls_lite.inference.export import export_model
from ppcls_lite.inference.predictor import Predictor
from ppcls_lite.system import machine as cpu

ROOT = Path(__file__).resolve().parents[2]
ENGINES = ("paddle", "openvino", "onnxruntime")


def batch(count: int = 2, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 3, 64, 64), np.float32)


def need(engine: str, precision: str = "fp32") -> None:
    reason = available_precisions(engine)[precision]
    if reason is not None:
        pytest.skip(f"{engine} {precision}: {reason}")


def said_alone(code: str, exported_both: Any, name: str) -> str:
    """What the engine's program prints in a process of its own."""
    command = [sys.executable, "-c", code, str(exported_both.folder), name]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]
    return done.stdout


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, exported_both: Any) -> Engine:
    need(request.param)
    return make_engine(exported_both.folder, request.param, threads=1)


def test_outputs_equal_the_network_at_any_batch_size(engine: Engine, exported_both: Any) -> None:
    for count in (1, 3, 2):
        x = batch(count)
        expected = paddle.nn.functional.softmax(exported_both.network(paddle.to_tensor(x))).numpy()
        (found,) = engine.run(x)
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-7)
        assert (found.argmax(1) == expected.argmax(1)).all()


def test_an_engine_says_what_it_is(engine: Engine) -> None:
    assert engine.name in ENGINES
    assert (engine.precision, engine.threads, engine.device) == ("fp32", 1, "cpu")


def test_a_warmed_up_shape_and_others_give_the_same(exported_both: Any) -> None:
    for name in ENGINES:
        if available_engines()[name] is None:
            warm = make_engine(exported_both.folder, name, "fp32", 1, "cpu", (1, 3, 64, 64))
            pair, alone = warm.run(batch(2))[0], warm.run(batch(2)[:1])[0]
            assert pair[:1] == pytest.approx(alone, abs=1e-5)


def test_inputs_of_other_layouts_and_types_are_the_same_numbers(engine: Engine) -> None:
    x = batch()
    turned = np.ascontiguousarray(x.transpose(0, 1, 3, 2)).transpose(0, 1, 3, 2)
    assert not turned.flags["C_CONTIGUOUS"]
    for other in (turned, x.astype(np.float64)):
        assert engine.run(other)[0] == pytest.approx(engine.run(x)[0], abs=1e-6)


def test_an_output_outlives_the_next_run(engine: Engine) -> None:
    (first,) = engine.run(batch(seed=1))
    kept = first.copy()
    engine.run(batch(seed=2))
    assert np.array_equal(first, kept)


def test_several_threads_do_not_mix(engine: Engine) -> None:
    inputs = [batch(1 + seed % 3, seed) for seed in range(6)]
    expected = [engine.run(x)[0] for x in inputs]
    wrong = []

    def work(index: int) -> None:
        for _ in range(10):
            (found,) = engine.run(inputs[index])
            same = found.shape == expected[index].shape
            if not same or not np.allclose(found, expected[index], atol=1e-5):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_shape_that_the_network_does_not_take(engine: Engine) -> None:
    with pytest.raises(UserError, match=r"cannot run on an input of shape \(1, 4, 64, 64\)"):
        engine.run(np.zeros((1, 4, 64, 64), np.float32))
    assert engine.run(batch())[0].shape == (2, 5)


@pytest.mark.parametrize("name", ["paddle", "openvino"])
def test_bf16_is_close_and_really_bf16(name: str, exported_both: Any) -> None:
    need(name, "bf16")
    tiles = np.random.default_rng(0).uniform(-2, 2, (32, 3, 4, 4)).astype(np.float32)
    images = tiles.repeat(16, axis=2).repeat(16, axis=3)  # (32, 3, 64, 64)
    exact = make_engine(exported_both.folder, name, "fp32", 1).run(images)[0]
    engine = make_engine(exported_both.folder, name, "bf16", 1)
    rounded = engine.run(images)[0]
    assert np.abs(exact - rounded).max(axis=1).mean() < 0.05
    assert (exact.argmax(1) == rounded.argmax(1)).mean() >= 0.9
    assert not np.allclose(exact, rounded, atol=1e-6)  # rounding shows
    if name == "openvino":
        ops = engine._any_shape.get_compiled_model().get_runtime_model().get_ops()
        infos = [op.get_rt_info() for op in ops]
        kinds = [
            i["runtimePrecision"].astype(str)
            for i in infos
            if i["layerType"].astype(str) == "Convolution"
        ]
        assert len(kinds) == 32 and set(kinds) == {"bf16"}


def test_paddle_bf16_runs_bf16_kernels(exported_both: Any) -> None:
    need("paddle", "bf16")
    code = (
        "import sys, numpy as np\n"
        "from ppcls_lite.inference.engines import make_engine\n"
        "engine = make_engine(sys.argv[1], 'paddle', 'bf16', 1)\n"
        "engine.run(np.zeros((1, 3, 64, 64), np.float32))"
    )
    command = [sys.executable, "-c", code, str(exported_both.folder)]
    verbose = {**os.environ, "ONEDNN_VERBOSE": "1", "DNNL_VERBOSE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=verbose, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [x for x in done.stdout.splitlines() if "exec,cpu,convolution" in x]
    assert len(lines) == 32 and all("src:bf16" in x and "wei:bf16" in x for x in lines)


@pytest.mark.parametrize("name", ENGINES)
def test_memory_stays_flat_over_300_sizes(name: str, free_sizes: Path) -> None:
    need(name)
    if not Path("/proc/self/statm").exists():
        pytest.skip("the resident memory is read from /proc, which this system does not have")
    code = """
import os, sys
from pathlib import Path
import numpy as np
from ppcls_lite.inference.engines import make_engine

def resident():
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

engine = make_engine(sys.argv[1], sys.argv[2], threads=1, warmup_shape=(1, 3, 64, 64))
sizes = np.random.default_rng(0).integers(32, 128, (300, 2))
for count, (height, width) in enumerate(sizes):
    engine.run(np.zeros((1, 3, height, width), np.float32))
    if count == 99:
        before = resident()
print(resident() - before)
"""
    command = [sys.executable, "-c", code, str(free_sizes), name]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.splitlines()[-1]) < 40  # MiB; without a limit more than 100


@pytest.fixture(scope="module")
def free_sizes(tmp_path_factory: pytest.TempPathFactory, exported_both: Any, chain: Any) -> Path:
    """An exported folder whose network takes any size."""
    folder, ops = tmp_path_factory.mktemp("free") / "m", chain(64)
    export_model(exported_both.network, folder, (3, -1, -1), [*ops[:2], *ops[3:]], format="both")
    return folder


def test_the_onnx_file_alone_is_enough(exported_both: Any, tmp_path: Path) -> None:
    need("onnxruntime")
    file = tmp_path / "classifier.onnx"
    shutil.copy(exported_both.folder / "inference.onnx", file)
    picture = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    alone = Predictor(file, threads=1, engine="onnxruntime").predict(picture)
    whole = Predictor(exported_both.folder, threads=1).predict(picture)
    assert alone[0]["label_names"] == whole[0]["label_names"]
    assert alone[0]["scores"] == pytest.approx(whole[0]["scores"], rel=1e-3)
    with pytest.raises(UserError, match="no such folder"):
        Predictor(file, threads=1)


@pytest.mark.parametrize("name", ENGINES[1:])
def test_other_engines_do_not_load_paddle(name: str, exported_both: Any) -> None:
    need(name)
    code = (
        "import sys, numpy as np\n"
        "from ppcls_lite import Predictor\n"
        "predictor = Predictor(sys.argv[1], threads=1, engine=sys.argv[2])\n"
        "predictor.predict(np.zeros((80, 80, 3), np.uint8))\n"
        "print('paddle' in sys.modules, 'onnx' in sys.modules)"
    )
    assert said_alone(code, exported_both, name).split() == ["False", "False"]


STOPPED = """
import os, signal, sys
from ppcls_lite.inference.engines import make_engine
shape = 1, 3, 64, 64
engines = [make_engine(sys.argv[1], sys.argv[2], threads=1, warmup_shape=shape) for _ in range(3)]
signal.signal(signal.SIGTERM, lambda *_: print("told"))  # Paddle's import takes the handlers
while engines:
    engines.pop(0)
    os.kill(os.getpid(), signal.SIGTERM)
"""


@pytest.mark.parametrize("name", ENGINES)
def test_a_signal_is_answered_after_engines_have_ended(name: str, exported_both: Any) -> None:
    """OpenVINO's cores, when the first ended first, left a freed stack for signal handlers."""
    need(name)
    assert said_alone(STOPPED, exported_both, name).split() == ["told"] * 3


STARTED = """
import sys
import numpy as np
from ppcls_lite.inference.predictor import Predictor
with Predictor(sys.argv[1], engine=sys.argv[2], threads=1) as predictor:
    predictor.predict(np.zeros((48, 48, 3), np.uint8))
heavy = "paddle", "openvino.tools.ovc", "importlib.metadata"
print([name for name in heavy if name in sys.modules])
if sys.argv[2] == "openvino":
    import openvino
    try:
        openvino.convert_model("no file")
    except Exception:
        print("openvino.tools.ovc" in sys.modules)
"""


@pytest.mark.parametrize("name", ENGINES[1:])
def test_a_start_imports_no_more_than_it_needs(name: str, exported_both: Any) -> None:
    """And what OpenVINO's converter is asked for in the same process, it still does."""
    need(name)
    said = said_alone(STARTED, exported_both, name)
    assert said.split("\n") == ["[]", *(["True"] if name == "openvino" else []), ""]


@pytest.mark.parametrize("name", ENGINES[1:])
def test_a_damaged_onnx_file(name: str, tmp_path: Path) -> None:
    need(name)
    (tmp_path / "inference.onnx").write_bytes(b"not a network" * 20)
    with pytest.raises(UserError, match=r"inference.onnx: is not an ONNX file, or is damaged"):
        make_engine(tmp_path, name)


def test_what_is_not_installed_is_said_with_the_command(
    exported: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name in ENGINES[1:]:
        assert f'pip install ".[{name}]"' in available_engines()[name]
        with pytest.raises(UserError, match=rf"{name} is not installed: pip install"):
            make_engine(exported.folder, name)


def test_bf16_is_refused_where_the_cpu_has_none(
    exported: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "cpu_flags", lambda: {"avx2", "avx512f"})
    assert "avx512_bf16" in available_precisions("paddle")["bf16"]
    assert available_precisions("paddle")["fp32"] is None
    with pytest.raises(UserError, match="engine paddle with precision bf16: this CPU does not"):
        make_engine(exported.folder, "paddle", "bf16")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            {"engine": "tensorrt"},
            "engine: expected one of paddle, openvino, onnxruntime, auto",
        ),
        ({"precision": "fp16"}, "precision: expected one of fp32, bf16, int8, found 'fp16'"),
        ({"precision": "int8"}, "paddle has fp32, bf16; int8 is of openvino, onnxruntime"),
        ({"threads": 0}, "threads: expected a whole number from 1 to "),
        ({"threads": 1.5}, "found 1.5"),
        ({"device": "tpu"}, "device: expected cpu or gpu"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], says: str, exported: Any) -> None:
    with pytest.raises(UserError, match=says):
        make_engine(exported.folder, **arguments)


def test_onednn_off_is_paddle_only(exported: Any) -> None:
    with pytest.raises(UserError, match="engine paddle with fp32 only"):
        Predictor(exported.folder, mkldnn=False, engine="openvino")


def test_a_folder_without_the_engine_s_file_says_what_writes_it(exported: Any) -> None:
    need("onnxruntime")
    with pytest.raises(UserError, match=r"expected inference.onnx.*--format onnx"):
        make_engine(exported.folder, "onnxruntime")
    with pytest.raises(UserError, match=r"inference_int8.onnx.*ppcls-lite quantize"):
        make_engine(exported.folder, "onnxruntime", "int8")


def test_engines_name_every_precision_once() -> None:
    for name in engines.PRECISIONS:
        assert set(available_precisions(name)) == {"fp32", "bf16", "int8"}


def test_equal_answers_on_real_photographs(
    real_data: Path, network_of: Any, chain: Any, tmp_path: Path
) -> None:
    pytest.importorskip("onnx", reason="onnx, which writes ONNX files, is not installed")
    photos = sorted((real_data / "imagenet_samples" / "images").rglob("*.*"))[::6]
    if not photos:
        pytest.skip("no sample photographs")
    model = network_of("PPLCNet_x0_5", 20)
    export_model(model, tmp_path / "m", (3, 224, 224), chain(224), format="both")
    names = [name for name, reason in available_engines().items() if reason is None]
    scores = {}
    for name in names:
        predictor = Predictor(tmp_path / "m", threads=1, engine=name)
        arrays = [predictor.preprocess(photo) for photo in photos]
        scores[name] = np.concatenate([predictor.predict_batch(a[None]) for a in arrays])
    reference = scores.pop("paddle")
    for name, found in scores.items():
        largest = reference.max(axis=1, keepdims=True)
        assert (np.abs(found - reference) / largest).max() < 1e-3, name
        assert (found.argmax(1) == reference.argmax(1)).all(), name
