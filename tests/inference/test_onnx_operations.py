"""Every operation that the ONNX writer knows, against Paddle; enlarging on every engine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import Tensor, nn

from ppcls_lite.inference.engines import available_engines, make_engine
from ppcls_lite.inference.engines.paddle_engine import PaddleEngine
from ppcls_lite.inference.onnx.export import to_onnx
from ppcls_lite.inference.shipped import Shipped, save_program
from ppcls_lite.models.upsample import bilinear, nearest_twice

onnx = pytest.importorskip("onnx", reason="onnx, which writes ONNX files, is not installed")
runtime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")


class Head(nn.Layer):
    """A convolution that halves the image (N, 3, H, W), and `function(map, image)` of it."""

    outputs = ("found",)

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], stride: int = 2) -> None:
        super().__init__()
        self.conv = nn.Conv2D(3, 4, 3, stride=stride, padding=1)
        self.turned = nn.Conv2DTranspose(4, 3, 3, stride=2, padding=1, output_padding=1)
        self.function = function
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.conv(x), x)

    def deployed(self, x: Tensor) -> list[Tensor]:
        return [self(x)]


def images(height: int = 9, width: int = 14) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2, 3, height, width), np.float32)


def program_of(
    function: Callable[[Tensor, Tensor], Tensor],
    folder: Path,
    x: np.ndarray,
    free: bool,
    stride: int,
) -> np.ndarray:
    """Save the head's program; returns what the head itself gives."""
    paddle.seed(3)
    head = Head(function, stride)
    with paddle.no_grad():
        expected = head(paddle.to_tensor(x)).numpy()
    shipped = Shipped(head)
    shipped.eval()
    save_program(shipped, folder, (3, -1, -1) if free else x.shape[1:])
    return expected


def by_onnxruntime(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    onnx.checker.check_model(model, full_check=True)
    session = runtime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"image": x})[0]


def corners(y: Tensor, size: list[int]) -> Tensor:
    return F.interpolate(y, size, mode="bilinear", align_corners=True)


OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "transposed": lambda y, x: F.conv2d_transpose(y, paddle.full([4, 2, 3, 3], 0.5), stride=2),
    "softplus": lambda y, x: F.softplus(y) + F.softplus(y, beta=2),
    "leaky": lambda y, x: F.leaky_relu(y, 0.1) + F.log_softmax(y, axis=1),
    "softmax": lambda y, x: F.softmax(y, axis=-1) * F.sigmoid(y),
    "shuffle": lambda y, x: F.pixel_shuffle(y, 2),
    "argmax": lambda y, x: y.argmax(axis=1).astype("int32"),
    "argmin": lambda y, x: paddle.argmin(y, axis=-1, keepdim=True, dtype="int32"),
    "transpose": lambda y, x: y.transpose([0, 2, 3, 1]).reshape([0, -1, 4]),
    "matmul": lambda y, x: paddle.matmul(y, y, transpose_y=True),
    "slices": lambda y, x: y[:, 1:3, ::2, -3:] + y[:, 0, :3, 1:4].unsqueeze(1),
    "squeeze": lambda y, x: y[:, :1].squeeze(1).unsqueeze([0, -1]),
    "concat": lambda y, x: paddle.concat([y, y * 2], axis=1).flatten(1),
    "stack": lambda y, x: paddle.stack([y, -y], axis=-1),
    "split": lambda y, x: paddle.add(*paddle.split(y, [1, -1], axis=1)) + y.split(4, axis=1)[2],
    "gather": lambda y, x: paddle.gather(y, paddle.to_tensor([3, 0, 0]), axis=1),
    "select": lambda y, x: paddle.index_select(y, paddle.to_tensor([1, 1]), axis=2),
    "along": lambda y, x: paddle.take_along_axis(y, y.argmax(1, keepdim=True), 1),
    "nd": lambda y, x: paddle.gather_nd(y, paddle.to_tensor([[0, 1], [1, 2]])),
    "expand": lambda y, x: y.mean([2, 3], keepdim=True).expand([-1, -1, 3, 5]),
    "expand_as": lambda y, x: y.mean([2, 3], keepdim=True).expand_as(y) * 2,
    "tile": lambda y, x: paddle.tile(y, [1, 2, 1, 3]),
    "pad": lambda y, x: F.pad(y, [1, 2, 3, 0], value=0.5) + F.pad(y, [1, 2, 3, 0], mode="reflect"),
    "pad_last": lambda y, x: F.pad(y, [0, 0, 0, 0, 1, 2, 0, 3], value=2.0),
    "reduce": lambda y, x: y.sum([2, 3]) + y.max([2, 3]) * y.min([2, 3]) + y.prod(3).sum(2),
    "reduce_all": lambda y, x: y.sum().reshape([1]) + y.mean(),
    "topk": lambda y, x: paddle.topk(y.flatten(1), 5, axis=1)[0],
    "arithmetic": lambda y, x: (y - 1) / (y.abs() + 2) + paddle.maximum(y, -y) * y.clip(-0.5, 0.5),
    "powers": lambda y, x: y.abs() ** 1.5 + y.square() + (y.abs() + 1).rsqrt() + y.abs().sqrt(),
    "rounding": lambda y, x: y.floor() + y.ceil() * 2 + (3 * y).round() * 4 + y.tanh(),
    "logs": lambda y, x: (y.exp() + 1).log() + paddle.pow(y.exp(), y * 0.5),
    "compared": lambda y, x: paddle.where((y > 0.1) & ~(y >= 0.4) | (y < -0.5), y, -2 * y),
    "equal": lambda y, x: ((y.floor() == 0) | (y.floor() != 1)).astype("float32") * y,
    "full_like": lambda y, x: paddle.zeros_like(y) + paddle.full_like(y, 2.0) * y,
    "shape": lambda y, x: y.reshape([paddle.shape(y)[0], -1]) * paddle.shape(y)[2],
    "range": lambda y, x: y * paddle.arange(paddle.shape(y)[3]).astype("float32"),
    "known_range": lambda y, x: y + paddle.arange(0, 35, 5, dtype="float32"),
    "interpolate": lambda y, x: F.interpolate(y, scale_factor=2, mode="bilinear"),
    "interpolate_sizes": lambda y, x: F.interpolate(y, [13, 11], mode="bilinear"),
    "interpolate_corners": lambda y, x: corners(y, [7, 9]),
    "interpolate_old": lambda y, x: F.interpolate(y, [7, 9], mode="bilinear", align_mode=1),
    "nearest": lambda y, x: F.interpolate(y, [9, 14], mode="nearest"),
    "nearest_scale": lambda y, x: F.interpolate(y, scale_factor=3, mode="nearest"),
}  # fmt: skip


@pytest.mark.parametrize("free", [False, True], ids=["fixed", "free"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_what_paddle_makes_of_it(name: str, free: bool, tmp_path: Path) -> None:
    x = images()
    expected = program_of(OPERATIONS[name], tmp_path, x, free, 2)
    found = by_onnxruntime(to_onnx(tmp_path), x)
    assert found.dtype == expected.dtype and found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=2e-5, rtol=1e-5)


def test_the_learnt_transposed_convolution(tmp_path: Path) -> None:
    paddle.seed(4)
    head, x = Head(lambda y, _: y), images()
    head.forward = lambda image: head.turned(head.conv(image))
    shipped = Shipped(head)
    save_program(shipped, tmp_path, x.shape[1:])
    found = by_onnxruntime(to_onnx(tmp_path), x)
    np.testing.assert_allclose(found, shipped.run(x)[0], atol=1e-5)


def test_what_nobody_reads_is_left_out(tmp_path: Path) -> None:
    def unread(y: Tensor, x: Tensor) -> Tensor:
        (y * 3).exp()
        return y

    program_of(unread, tmp_path, images(), False, 2)
    model = to_onnx(tmp_path)
    assert [node.op_type for node in model.graph.node] == ["Conv"]
    assert len(model.graph.initializer) == 2


SIZES = {"32": (32, 64, 8), "odd": (45, 61, 4), "one more": (33, 65, 8), "thirds": (27, 33, 3)}
ENLARGE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "bilinear": bilinear,
    "corners": lambda y, x: bilinear(y, x, True),
    "pooled": lambda y, x: bilinear(y.mean([2, 3], keepdim=True), x),
    "twice": lambda y, x: nearest_twice(y),
    "one": lambda y, x: bilinear(y[:, :1], x),
}


@pytest.mark.parametrize("free", [False, True], ids=["fixed", "free"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ENLARGE)
def test_enlarging_is_the_same_everywhere(name: str, size: str, free: bool, tmp_path: Path) -> None:
    height, width, stride = SIZES[size]
    x = images(height, width)
    expected = program_of(ENLARGE[name], tmp_path, x, free, stride)
    engine = PaddleEngine(tmp_path, threads=1)
    np.testing.assert_allclose(engine.run(x)[0], expected, atol=2e-5)
    np.testing.assert_allclose(engine.run(x[:1])[0], expected[:1], atol=2e-5)
    model = to_onnx(tmp_path)
    kinds = Counter(node.op_type for node in model.graph.node)
    if name != "pooled":
        whole = size in ("32", "thirds") and not free and name != "corners"
        enlarged = 1 if name == "twice" or whole else 2  # by its whole, or axis by axis
        assert kinds["Resize"] == enlarged
        assert not kinds.keys() & {"ConvTranspose", "Pad", "Mul", "Sub", "Expand"}
    onnx.save(model, tmp_path / "inference.onnx")
    for engine_name, missing in available_engines().items():
        if engine_name != "paddle" and missing is None:
            other = make_engine(tmp_path, engine_name, threads=1)
            for batch in (x, x[:1]):
                found = other.run(batch)[0]
                np.testing.assert_allclose(found, expected[: len(batch)], atol=5e-5)
