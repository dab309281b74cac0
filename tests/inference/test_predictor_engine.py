"""The engine: oneDNN is really used, flags do not leak, old programs run, files are checked."""

from __future__ import annotations

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
from ppcls_lite.inference.engines.files import find_program, input_shape
from ppcls_lite.inference.engines.paddle_engine import PaddleEngine
from ppcls_lite.inference.export import export_model
from ppcls_lite.system.machine import MAX_DEFAULT_THREADS, default_threads

ROOT = Path(__file__).resolve().parents[2]
KEPT = "FLAGS_eager_delete_tensor_gb"


def batch(count: int = 2, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 3, 64, 64), np.float32)


def probabilities(exported: Any, x: np.ndarray) -> np.ndarray:
    return paddle.nn.functional.softmax(exported.network(paddle.to_tensor(x))).numpy()


def python(code: str, *args: object, **environment: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, "-c", code, *map(str, args)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_outputs_equal_the_network_with_and_without_onednn(exported: Any) -> None:
    expected = probabilities(exported, batch())
    for mkldnn in (True, False):
        (found,) = PaddleEngine(exported.folder, mkldnn=mkldnn, threads=1).run(batch())
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-7)


def test_onednn_runs_the_convolutions_only_if_asked(exported: Any) -> None:
    code = """
import sys
import numpy as np
from ppcls_lite.inference.engines.paddle_engine import PaddleEngine
engine = PaddleEngine(sys.argv[1], mkldnn=sys.argv[2] == "on", threads=1)
engine.run(np.zeros((1, 3, 64, 64), np.float32))
"""
    verbose = {"ONEDNN_VERBOSE": "1", "DNNL_VERBOSE": "1"}
    lines = python(code, exported.folder, "on", **verbose).splitlines()
    convolutions = [line for line in lines if "exec,cpu,convolution" in line]
    assert len(convolutions) == 32  # 1 stem, 13 x 2 separable, 2 x 2 in the SE modules, 1 last
    assert sum("eltwise_hardswish" in line for line in convolutions) > 20  # fused into them
    assert "exec,cpu" not in python(code, exported.folder, "off", **verbose)


def test_the_process_flag_is_put_back(exported: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = paddle.get_flags(KEPT)
    seen = []
    real = paddle.set_flags
    monkeypatch.setattr(paddle, "set_flags", lambda flags: (seen.append(flags[KEPT]), real(flags)))
    engine = PaddleEngine(exported.folder, threads=1)
    assert seen == []  # the flag matters for the first run alone
    engine.run(batch())
    assert seen == [-1.0, before[KEPT]]
    engine.run(batch())
    assert len(seen) == 2
    assert paddle.get_flags(KEPT) == before


def test_an_old_pdmodel_program_runs(tmp_path: Path) -> None:
    code = """
import sys
import numpy as np, paddle
paddle.seed(3)
model = paddle.nn.Sequential(paddle.nn.Conv2D(3, 8, 3), paddle.nn.Flatten(), paddle.nn.Softmax())
model.eval()
spec = [paddle.static.InputSpec([None, 3, 8, 8], "float32")]
paddle.jit.save(paddle.jit.to_static(model, input_spec=spec, full_graph=True), sys.argv[1] + "/old")
x = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype("float32")
np.savez(sys.argv[1] + "/io.npz", x=x, y=model(paddle.to_tensor(x)).numpy())
"""
    python(code, tmp_path, FLAGS_enable_pir_api="0")
    assert (tmp_path / "old.pdmodel").is_file()
    data = np.load(tmp_path / "io.npz")
    (found,) = PaddleEngine(tmp_path, threads=1, warmup_shape=(1, 3, 8, 8)).run(data["x"])
    assert found == pytest.approx(data["y"], abs=1e-6)
    assert input_shape(tmp_path, "paddle", None) == (3, 8, 8)
    weights = tmp_path / "old.pdiparams"
    weights.write_bytes(weights.read_bytes()[: 26 - 2 + 4 * 8])  # the eight biases alone
    with pytest.raises(UserError, match=r"holds 1 tensors, but old.pdmodel reads 2"):
        find_program(tmp_path)


def test_memory_stays_flat_over_varying_batches(exported: Any) -> None:
    if not Path("/proc/self/statm").exists():
        pytest.skip("the resident memory is read from /proc, which this system does not have")
    code = """
import os, random, sys
from pathlib import Path
import numpy as np
from ppcls_lite.inference.engines.paddle_engine import PaddleEngine

def resident():
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

engine = PaddleEngine(sys.argv[1], threads=1)
sizes = list(range(1, 25))  # more shapes than primitives are cached for
for round in range(8):
    for size in sizes:
        engine.run(np.zeros((size, 3, 64, 64), np.float32))
    random.Random(0).shuffle(sizes)
    if round == 1:
        before = resident()
print(resident() - before)
"""
    grown = float(python(code, exported.folder).splitlines()[-1])  # MiB, in a process of its own
    assert grown < 12  # one leaked batch of 24 per round would be far more


def test_calls_from_several_threads_do_not_mix(exported: Any) -> None:
    engine = PaddleEngine(exported.folder, threads=1)
    inputs = [batch(1 + seed % 3, seed) for seed in range(8)]
    expected = [engine.run(x)[0] for x in inputs]
    wrong = []

    def work(index: int) -> None:
        for _ in range(10):
            (found,) = engine.run(inputs[index])
            if found.shape != expected[index].shape or not np.allclose(found, expected[index]):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_an_output_is_not_overwritten_by_the_next_run(exported: Any) -> None:
    engine = PaddleEngine(exported.folder, threads=1)
    (first,) = engine.run(batch(seed=1))
    kept = first.copy()
    engine.run(batch(seed=2))
    assert np.array_equal(first, kept)


def test_threads_change_nothing_but_the_speed(exported: Any) -> None:
    results = [PaddleEngine(exported.folder, threads=n).run(batch())[0] for n in (1, 2, 3)]
    for result in results[1:]:
        assert result == pytest.approx(results[0], abs=1e-6)
    assert 1 <= default_threads() <= MAX_DEFAULT_THREADS
    assert PaddleEngine(exported.folder).threads == default_threads()


def test_a_program_of_any_name_is_found_if_it_is_alone(exported: Any, tmp_path: Path) -> None:
    for suffix in (".json", ".pdiparams"):
        shutil.copy(exported.folder / f"inference{suffix}", tmp_path / f"model{suffix}")
    (tmp_path / "notes.json").write_text("{}", encoding="utf-8")  # no .pdiparams: no program
    assert find_program(tmp_path) == (tmp_path / "model.json", tmp_path / "model.pdiparams")
    for suffix in (".json", ".pdiparams"):
        shutil.copy(exported.folder / f"inference{suffix}", tmp_path / f"other{suffix}")
    with pytest.raises(UserError, match=r"several programs \(model.json, other.json\)"):
        find_program(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("inference.json", b"{}", "cannot load it: .*Invalid model file"),
        ("inference.json", None, "expected inference.json .* found inference.pdiparams"),
        ("inference.pdiparams", None, "expected inference.json .*, found inference.json"),
        ("inference.pdiparams", b"\0" * 100, "is cut off or damaged"),
    ],
)
def test_damaged_and_missing_files(
    name: str, content: bytes | None, says: str, exported: Any, tmp_path: Path
) -> None:
    for suffix in (".json", ".pdiparams"):
        shutil.copy(exported.folder / f"inference{suffix}", tmp_path)
    (tmp_path / name).unlink() if content is None else (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=says) as caught:
        PaddleEngine(tmp_path)
    assert "\n" not in str(caught.value)


def test_what_this_paddle_lacks(
    exported: Any, chain: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paddle, "is_compiled_with_cuda", lambda: False)
    with pytest.raises(UserError, match="install paddlepaddle-gpu"):
        PaddleEngine(exported.folder, device="gpu")
    monkeypatch.setattr(paddle.base.core, "is_compiled_with_mkldnn", lambda: False)
    with pytest.raises(UserError, match="bf16: this Paddle is built without oneDNN"):
        PaddleEngine(exported.folder, precision="bf16")
    expected = PaddleEngine(exported.folder, mkldnn=False, threads=1).run(batch())[0]
    engine = PaddleEngine(exported.folder, threads=1)
    assert not engine.mkldnn and np.array_equal(engine.run(batch())[0], expected)
    again = export_model(exported.network, tmp_path / "m", (3, 64, 64), chain(64))
    assert again.engines == ("paddle",)


def test_a_shape_that_the_program_does_not_take(exported: Any) -> None:
    engine = PaddleEngine(exported.folder, threads=1)
    with pytest.raises(UserError, match=r"cannot run on an input of shape \(1, 4, 64, 64\)"):
        engine.run(np.zeros((1, 4, 64, 64), np.float32))
    assert engine.run(batch())[0].shape == (2, 5)
