"""`Global.cpu_kernels_dtype: bf16`: products of bf16 numbers, and processors without them."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from ppcls_lite.cli import main
from ppcls_lite.errors import UserError
from ppcls_lite.kernels import build, convert, native, prepare
from ppcls_lite.kernels.deferred import conv_norm, values
from ppcls_lite.kernels.ops import dense_conv, depthwise_conv, linear, norm_act
from ppcls_lite.kernels.selftest import EPSILON, MOMENTUM, TOLERANCE, as_bf16, difference
from ppcls_lite.kernels.tensors import Window
from ppcls_lite.models.create import create_model

ROUNDED = 8e-3  # of a tensor's largest value: two factors, each to 1/512 of itself
# Of the zoo's layers: batch, channels, outputs, height, width, kernel, stride. Depths are odd and
# even, with a rest of a panel, a chunk or the depth that is multiplied at once.
LAYERS = (
    (2, 3, 16, 64, 64, 3, 2),  # the first layer
    (1, 3, 64, 40, 40, 7, 2),
    (2, 8, 16, 56, 56, 1, 1),
    (2, 72, 40, 28, 28, 1, 1),
    (3, 15, 23, 14, 14, 1, 1),
    (2, 116, 116, 14, 14, 1, 1),
    (1, 960, 160, 7, 7, 1, 1),
    (9, 64, 16, 1, 1, 1, 1),  # attention
    (2, 64, 64, 14, 14, 3, 1),
    (1, 59, 60, 9, 9, 3, 1),  # a depth of 531 taps
    (2, 64, 128, 28, 28, 3, 2),
    (2, 64, 128, 28, 28, 1, 2),
)


def array(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_a_convolution_is_the_one_of_rounded_numbers(
    layer: tuple[int, ...], native_bf16: ctypes.CDLL
) -> None:
    n, channels, outputs, height, width, kernel, stride = layer
    window = Window((kernel, kernel), (stride, stride), (kernel // 2, kernel // 2))
    stock = {"stride": stride, "padding": kernel // 2}
    x, weight = array(n, channels, height, width), array(outputs, channels, kernel, kernel)
    ways = (
        lambda x, w: dense_conv(x, w, window, native_bf16),
        lambda x, w: F.conv2d(x, w, **stock),
    )
    assert difference(*ways, [as_bf16(x), as_bf16(weight)], as_bf16) <= TOLERANCE
    off = difference(*ways, [x, weight])
    assert 1e-4 < off <= ROUNDED  # it rounds, and to the nearest


def test_a_classifier_is_the_one_of_rounded_numbers(native_bf16: ctypes.CDLL) -> None:
    ways = lambda x, w: linear(x, w, native_bf16), paddle.matmul
    for inputs, outputs in ((1280, 1000), (33, 5), (3, 1)):
        sides = [array(9, inputs), array(inputs, outputs)]
        assert difference(*ways, [as_bf16(one) for one in sides], as_bf16) <= TOLERANCE
        assert difference(*ways, sides) <= ROUNDED


def test_rounding_is_to_the_nearest_and_ties_to_even(native_bf16: ctypes.CDLL) -> None:
    numbers = np.array([1, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-7, 3e38, -1e30], np.float32)
    for outputs in (1, 4):  # the numbers as pixels, and as weights
        x, weight = paddle.to_tensor(numbers.reshape(1, 1, 2, 3)), paddle.ones([outputs, 1, 1, 1])
        y = dense_conv(x, weight, Window((1, 1), (1, 1), (0, 0)), native_bf16)
        assert np.array_equal(y.numpy()[0, 0].ravel(), as_bf16(numbers))
    weight, one = paddle.to_tensor(numbers.reshape(6, 1, 1, 1)), paddle.ones([1, 1, 1, 1])
    y = dense_conv(one, weight, Window((1, 1), (1, 1), (0, 0)), native_bf16)
    assert np.array_equal(y.numpy().ravel(), as_bf16(numbers))


def test_everything_but_dense_products_is_float32(
    native: ctypes.CDLL, native_bf16: ctypes.CDLL
) -> None:
    x, weight = paddle.to_tensor(array(3, 5, 9, 9)), paddle.to_tensor(array(5, 1, 3, 3))
    options = EPSILON, MOMENTUM, "hardswish"
    results = []
    for kernels in (native, native_bf16):
        running = paddle.zeros([5]), paddle.ones([5])
        y = depthwise_conv(x, weight, Window((3, 3), (1, 1), (1, 1)), kernels)
        z = norm_act(y, paddle.ones([5]), paddle.ones([5]), running, options, kernels)
        results.append([one.numpy().tobytes() for one in (y, z, *running)])
    assert results[0] == results[1]


def test_statistics_are_those_of_the_products_in_float32(native_bf16: ctypes.CDLL) -> None:
    # with a large mean and a small deviation, which bf16 could not tell apart
    x, weight = array(8, 16, 14, 14) * 0.01 + 3, np.abs(array(24, 16, 1, 1))
    running, scale = (paddle.zeros([24]), paddle.ones([24])), paddle.ones([24])
    norm = scale, paddle.zeros([24]), running, (EPSILON, 0.0, None)
    window = Window((1, 1), (1, 1), (0, 0))
    tensors = paddle.to_tensor(x), paddle.to_tensor(weight)
    z = values(conv_norm(*tensors, window, False, norm, native_bf16)).numpy()
    y = dense_conv(*tensors, window, native_bf16).numpy().astype(np.float64)
    np.testing.assert_allclose(running[0].numpy(), y.mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(running[1].numpy(), y.var((0, 2, 3)), rtol=1e-4)
    assert abs(z.mean()) < 1e-3 and abs(z.std() - 1) < 0.05


def losses(model: paddle.nn.Layer) -> list[float]:
    rng = np.random.default_rng(3)
    optimizer = paddle.optimizer.Momentum(0.05, 0.9, model.parameters())
    model.train()
    images = paddle.to_tensor(rng.standard_normal((8, 3, 64, 64)).astype(np.float32))
    found = []
    for _ in range(12):
        loss = F.cross_entropy(model(images), paddle.arange(8))
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        found.append(float(loss))
    return found


def test_a_network_learns_as_it_does_in_float32(
    native: ctypes.CDLL, native_bf16: ctypes.CDLL
) -> None:
    found = []
    for kernels in (native, native_bf16):
        paddle.seed(1)
        model = create_model("PPLCNet_x0_25", class_num=8, dropout_prob=0.0)
        assert convert(model, kernels) > 20
        found.append(losses(model))
    assert found[0] != found[1]
    assert np.allclose(found[0][0], found[1][0], rtol=0.02)
    assert found[1][-1] < 0.5 * found[1][0] and found[0][-1] < 0.5 * found[0][0]


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The messages of the toolkit's log from now on."""
    lines: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger = logging.getLogger("ppcls_lite")
    monkeypatch.setattr(logger, "handlers", [Listener()])
    before = logger.level
    logger.setLevel(logging.INFO)  # as an attribute, what loggers remember would stay
    yield lines
    logger.setLevel(before)


def test_the_log_says_that_products_are_in_bf16(
    native_bf16: ctypes.CDLL, heard: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "available", lambda dtype: native_bf16)
    assert prepare(paddle.nn.Linear(2, 2), "on", "cpu", "bf16") is native_bf16
    (line,) = heard
    assert "native in 1 layers" in line and line.endswith("dense products in bf16")


def test_a_processor_without_bf16_trains_in_float32_and_one_line_says_so(
    native: ctypes.CDLL,
    kernels_home: Path,
    heard: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PPCLS_LITE_HOME", str(kernels_home))
    monkeypatch.setattr(build, "cpu_flags", lambda: {"avx512f"})
    found = prepare(paddle.nn.Linear(2, 2), "auto", "cpu", "bf16")
    assert found is not None and not found.multiplies_bf16()
    line, last = heard
    assert "fp32, not bf16: this CPU does not multiply bf16 numbers (it lacks avx512_bf16)" in line
    assert "native in 1 layers" in last and "bf16" not in last
    with pytest.raises(UserError, match=r"none for cpu_kernels_dtype: bf16: this CPU.*dtype: fp32"):
        prepare(paddle.nn.Linear(2, 2), "on", "cpu", "bf16")
    assert prepare(paddle.nn.Linear(2, 2), "off", "cpu", "bf16") is None


def test_without_any_kernels_one_line_says_that_training_is_stock(
    heard: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(dtype: build.Dtype = "fp32") -> ctypes.CDLL:
        raise build.KernelsError("there is no C++ compiler")

    monkeypatch.setattr(native, "available", none)
    assert prepare(paddle.nn.Linear(2, 2), "auto", "cpu", "bf16") is None
    assert heard == ["CPU kernels: Paddle's own, which are slower: there is no C++ compiler"]


def test_each_kind_has_a_build_of_its_own() -> None:
    compiler = build.Compiler(("g++",), "12.2")
    assert build.key(compiler, "fp32") == build.key(compiler) != build.key(compiler, "bf16")


def test_another_word_is_one_clear_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", "-c", "configs/quickstart/digits.yaml"]
    assert main([*arguments, "-o", "Global.cpu_kernels_dtype=half"]) == 2
    said = capsys.readouterr().err
    assert "Global.cpu_kernels_dtype" in said and "fp32" in said and "bf16" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("flags", "granted", "kinds"),
    [
        ({"amx_bf16", "avx512_bf16"}, True, ["amx_bf16", "avx512_bf16"]),
        ({"amx_bf16", "avx512_bf16"}, False, ["avx512_bf16"]),
        ({"avx512_bf16"}, False, ["avx512_bf16"]),
    ],
)
def test_tile_registers_multiply_where_the_system_grants_them(
    flags: set[str], granted: bool, kinds: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "cpu_flags", lambda: flags)
    monkeypatch.setattr(build, "grants_tiles", lambda: granted)
    assert [kind.feature for kind in build.kinds_here("bf16")] == kinds
    assert [kind.feature for kind in build.kinds_here("fp32")] == [None]


def test_a_compiler_that_does_not_know_tiles_compiles_the_other_kind(
    tmp_path: Path, heard: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def compiled(
        library: Path, compiler: object, flags: tuple[str, ...], parallel: bool, *_: object
    ) -> str | None:
        tried.append(("-DTILE_PRODUCTS" in flags, parallel))
        if "-DTILE_PRODUCTS" in flags:
            return "error: no such instruction"
        library.write_bytes(b"machine code")
        return None

    monkeypatch.setattr(build, "cpu_flags", lambda: {"amx_bf16", "avx512_bf16"})
    monkeypatch.setattr(build, "grants_tiles", lambda: True)
    monkeypatch.setattr(build, "compile_library", compiled)
    monkeypatch.setattr(build, "_tested", lambda library: None)
    monkeypatch.setenv("PPCLS_LITE_HOME", str(tmp_path))
    assert build.built("bf16").read_bytes() == b"machine code"
    assert tried == [(True, True)] * len(build.MACHINE_FLAGS) + [(False, True)]
    _, line = heard
    assert line.endswith("by avx512_bf16, not amx_bf16: error: no such instruction")
