"""Every layer shape of the zoo against Paddle's own operators; bits, NaN, views, batches."""

from __future__ import annotations

import ctypes
import itertools
import warnings

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import Tensor, nn

from ppcls_lite.config.zoo import ZOO
from ppcls_lite.kernels import layers, swap
from ppcls_lite.kernels.deferred import Deferred, conv_norm, values
from ppcls_lite.kernels.ops import (
    ACTIVATIONS,
    dense_conv,
    depthwise_conv,
    linear,
    norm_act,
)
from ppcls_lite.kernels.selftest import EPSILON, MOMENTUM, STOCK_ACTIVATIONS, TOLERANCE, difference
from ppcls_lite.kernels.tensors import Window
from ppcls_lite.models.create import create_model
from ppcls_lite.models.layers import ConvBN, NamedConvBN

CHANNELS = 5  # enough where every channel is computed by itself
TEXT_LINES = {"stride_list": [2, [2, 1], [2, 1], [2, 1], [2, 1]]}
REPETITIVE = ("ResNet", "PPLCNetV3", "PPLCNetV4", "MobileNetV4", "PPHGNet", "StarNet", "FasterNet")
THESE = (
    *("ResNet50", "ResNet50_vd", "PPLCNetV3_x0_5", "PPLCNetV3_rec_x0_5", "PPLCNetV4_tiny"),
    *("MobileNetV4_conv_small", "PPHGNetV2_B0", "StarNet_S1", "FasterNet_T0"),
)
SAME = Window((1, 1), (1, 1), (0, 0))


class Shapes:
    """What the zoo's networks give to the kernels."""

    def __init__(self) -> None:
        self.depthwise: set[tuple[int, int, Window]] = set()
        self.dense: set[tuple[int, int, int, int, Window]] = set()
        self.linears: set[tuple[int, int]] = set()
        self.norms: set[tuple[int, int, str | None]] = set()

    def watch(self, model: nn.Layer, size: tuple[int, int]) -> None:
        for layer in model.sublayers():
            if isinstance(layer, (nn.Conv2D, nn.Linear, ConvBN, NamedConvBN)):
                layer.register_forward_post_hook(self._note)
        model.eval()
        with paddle.no_grad():
            model(paddle.zeros([1, 3, *size]))

    def _note(self, layer: nn.Layer, inputs: tuple[Tensor], output: Tensor) -> None:
        if isinstance(layer, nn.Linear):
            assert swap._kind(layer)[0] is layers.NativeLinear
            self.linears.add(tuple(layer.weight.shape))
            return
        _, channels, height, width = inputs[0].shape
        if isinstance(layer, nn.Conv2D):
            kind, window = swap._kind(layer)
            if kind is layers.NativeDepthwise:
                self.depthwise.add((height, width, window))
            elif kind is layers.NativeDense:
                self.dense.add((channels, output.shape[1], height, width, window))
        else:
            act = layer.act if isinstance(layer, ConvBN) else layer._act
            self.norms.add((*output.shape[2:], layers._NAMES.get(type(act))))


@pytest.fixture(scope="module")
def shapes() -> Shapes:
    found = Shapes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in sorted(ZOO):
            if name.startswith(REPETITIVE) and name not in THESE:
                continue  # the others repeat these layers
            found.watch(create_model(name, class_num=2), (224, 224))
    found.watch(create_model("PPLCNet_x1_0", class_num=2, **TEXT_LINES), (80, 160))
    return found


def array(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def test_depthwise_convolutions_of_the_zoo(shapes: Shapes, native: ctypes.CDLL) -> None:
    assert len(shapes.depthwise) > 20
    assert {window.kernel[0] for *_, window in shapes.depthwise} == {1, 3, 5, 7}
    assert {window.stride for *_, window in shapes.depthwise} == {(1, 1), (2, 2), (2, 1), (1, 2)}
    for height, width, window in shapes.depthwise:
        stock = {"stride": list(window.stride), "padding": list(window.padding)}
        worst = difference(
            lambda x, w, window=window: depthwise_conv(x, w, window, native),
            lambda x, w, stock=stock: F.conv2d(x, w, groups=CHANNELS, **stock),
            [array(2, CHANNELS, height, width), array(CHANNELS, 1, *window.kernel)],
        )
        assert worst <= TOLERANCE, (height, width, window)


def test_dense_convolutions_of_the_zoo(shapes: Shapes, native: ctypes.CDLL) -> None:
    assert len(shapes.dense) > 300
    assert {window.kernel[0] for *_, window in shapes.dense} == {1, 2, 3, 4, 7}
    for channels, outputs, height, width, window in shapes.dense:
        stock = {"stride": list(window.stride), "padding": list(window.padding)}
        worst = difference(
            lambda x, w, window=window: dense_conv(x, w, window, native),
            lambda x, w, stock=stock: F.conv2d(x, w, **stock),
            [array(1, channels, height, width), array(outputs, channels, *window.kernel)],
        )
        assert worst <= TOLERANCE, (channels, outputs, height, width, window)


@pytest.mark.parametrize("dilation", [(2, 2), (3, 1), (6, 6)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 3)])
def test_dilated_windows(
    stride: tuple[int, int], dilation: tuple[int, int], native: ctypes.CDLL
) -> None:
    for pad in ((0, 0), dilation, (7, 1)):
        window = Window((3, 3), stride, pad, dilation)
        stock = {"stride": list(stride), "padding": list(pad), "dilation": list(dilation)}
        for call, groups in ((dense_conv, 1), (depthwise_conv, 8)):
            worst = difference(
                lambda x, w, call=call, window=window: call(x, w, window, native),
                lambda x, w, groups=groups, stock=stock: F.conv2d(x, w, groups=groups, **stock),
                [array(2, 8, 15, 21), array(8, 8 // groups, 3, 3)],
            )
            assert worst <= TOLERANCE, (pad, groups)


def test_linear_layers_of_the_zoo(shapes: Shapes, native: ctypes.CDLL) -> None:
    assert len(shapes.linears) > 4
    for inputs, outputs in [*shapes.linears, (1280, 1000), (3, 1)]:
        for count in (1, 9):
            worst = difference(
                lambda x, weight: linear(x, weight, native),
                paddle.matmul,
                [array(count, inputs), array(inputs, outputs)],
            )
            assert worst <= TOLERANCE, (inputs, outputs, count)


def test_normalisations_of_the_zoo(shapes: Shapes, native: ctypes.CDLL) -> None:
    acts = {act for *_, act in shapes.norms}
    assert acts == set(ACTIVATIONS)
    for height, width, act in shapes.norms:
        running = [(paddle.full([CHANNELS], 0.5), paddle.full([CHANNELS], 2.0)) for _ in range(2)]
        options = EPSILON, MOMENTUM, act
        worst = difference(
            lambda *a, own=running[0], options=options: norm_act(*a, own, options, native),
            lambda x, w, b, own=running[1], act=act: STOCK_ACTIVATIONS[act](
                F.batch_norm(x, *own, w, b, True, MOMENTUM, EPSILON)
            ),
            [array(4, CHANNELS, height, width) * 2 + 1, array(CHANNELS), array(CHANNELS)],
        )
        assert worst <= TOLERANCE, (height, width, act)
        for own, stock in zip(*running):
            assert np.allclose(own.numpy(), stock.numpy(), rtol=1e-5)


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (2, 1), (1, 3)])
def test_depthwise_with_any_window(
    kernel: int, stride: tuple[int, int], native: ctypes.CDLL
) -> None:
    for size in ((7, 9), (8, 21), (19, 16)):
        for pad in range(min(kernel, 4)):
            window = Window((kernel, kernel), stride, (pad, pad))
            stock = {"stride": list(stride), "padding": pad, "groups": 3}
            worst = difference(
                lambda x, w, window=window: depthwise_conv(x, w, window, native),
                lambda x, w, stock=stock: F.conv2d(x, w, **stock),
                [array(9, 3, *size), array(3, 1, kernel, kernel)],
            )
            assert worst <= TOLERANCE, (size, pad)


FUSED = {  # depthwise, channels, outputs, kernel, stride
    "tiles": (True, 24, 24, 3, 1),
    "tiles of a stride": (True, 5, 5, 5, 2),
    "planes": (True, 6, 6, 4, 2),
    "pointwise": (False, 24, 40, 1, 1),
    "window": (False, 9, 10, 3, 2),
}


# Deviation, mean and limit. Where the deviation is small, a mean that is rounded the other way, by
# 2e-6 of 30, is seen in all gradients.
SPREADS = (1, 0, 1e-5), (0.01, 30, 5e-3)
TWO_LAYERS = (1, 0, 3e-5), SPREADS[1]  # their sums come in another order where vectors are wide


@pytest.mark.parametrize("name", FUSED)
def test_a_convolution_with_its_normalisation_is_both_of_them(
    name: str, native: ctypes.CDLL
) -> None:
    depthwise, channels, outputs, kernel, stride = FUSED[name]
    window = Window((kernel, kernel), (stride, stride), (kernel // 2, kernel // 2))
    conv = depthwise_conv if depthwise else dense_conv
    for act, (spread, mean, limit) in itertools.product(ACTIVATIONS, SPREADS):
        options, bias = (EPSILON, MOMENTUM, act), paddle.to_tensor(array(outputs))
        own, stock = ((paddle.zeros([outputs]), paddle.ones([outputs])) for _ in range(2))
        x = array(4, channels, 13, 14) * spread + mean
        worst = difference(
            lambda x, w, *a, own=own, options=options, bias=bias: values(
                conv_norm(x, w, window, depthwise, (*a, own, options), native, bias)
            ),
            lambda x, w, *a, stock=stock, options=options, bias=bias: norm_act(
                conv(x, w, window, native), *a, stock, options, native, bias
            ),
            [
                x,
                array(outputs, 1 if depthwise else channels, kernel, kernel),
                array(outputs),
                array(outputs),
            ],
        )
        assert worst <= limit, (act, mean)
        for one, other in zip(own, stock):
            # the bias may take nearly all of a mean away, but not its rounding
            np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=2e-6, atol=5e-8)


class Chain:
    """Two convolutions with their normalisations, by kernels that are joined or apart."""

    def __init__(self, native: ctypes.CDLL, act: str | None, joined: bool, uses: int = 1) -> None:
        self.native, self.act, self.joined, self.uses = native, act, joined, uses
        self.running: list[tuple[Tensor, Tensor]] = []

    def _norm(
        self, x: Tensor | Deferred, name: str, w: Tensor, scale: Tensor, shift: Tensor
    ) -> Tensor | Deferred:
        depthwise, _, outputs, kernel, stride = FUSED[name]
        pad = kernel // 2
        window = Window((kernel, kernel), (stride, stride), (pad, pad))
        self.running.append((paddle.zeros([outputs]), paddle.ones([outputs])))
        norm = scale, shift, self.running[-1], (EPSILON, MOMENTUM, self.act)
        if self.joined:
            return conv_norm(x, w, window, depthwise, norm, self.native)
        conv = depthwise_conv if depthwise else dense_conv
        return norm_act(conv(x, w, window, self.native), *norm, self.native)

    def __call__(self, names: tuple[str, str], x: Tensor, *learnt: Tensor) -> Tensor:
        first = self._norm(x, names[0], *learnt[:3])
        second = self._norm(first, names[1], *learnt[3:])
        if self.uses == 1:
            return values(second)
        one, two = values(first), values(second)  # a stage whose output is wanted as well
        return (two * paddle.to_tensor(array(*two.shape))).sum() + (one * one).sum()


def learnt_by(name: str, channels: int) -> list[np.ndarray]:
    depthwise, _, outputs, kernel, _ = FUSED[name]
    weight = array(outputs, 1 if depthwise else channels, kernel, kernel)
    return [weight, array(outputs), array(outputs) + 1]


PAIRS = [(one, two) for one in FUSED for two in FUSED if not FUSED[two][0]] + [
    ("pointwise", "tiles"),
    ("tiles", "tiles"),
    ("tiles of a stride", "tiles of a stride"),
    ("planes", "planes"),
]


@pytest.mark.parametrize("names", PAIRS, ids="-".join)
def test_what_lies_between_two_layers_need_not_be_stored(
    names: tuple[str, str], native: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, channels, outputs, *_ = FUSED[names[0]]
    second = FUSED[names[1]]
    width = outputs if second[0] else second[2]
    monkeypatch.setitem(FUSED, names[1], (second[0], outputs, width, *second[3:]))
    for uses, (spread, mean, limit) in itertools.product((1, 2), TWO_LAYERS):
        for act, size in zip(ACTIVATIONS, ((13, 14), (9, 31), (5, 3), (26, 20))):
            if act is None and uses == 1:
                continue  # the second normalisation takes away the first one's shift: no gradient
            ways = [Chain(native, act, joined, uses) for joined in (True, False)]
            x = array(5, channels, *size) * spread + mean
            inputs = [x, *learnt_by(names[0], channels), *learnt_by(names[1], outputs)]
            worst = difference(*(lambda *a, way=way: way(names, *a) for way in ways), inputs)
            assert worst <= limit, (act, size, uses, mean)
            for one, other in zip(ways[0].running, ways[1].running):
                for found, expected in zip(one, other):
                    bound = 1e-5 * np.abs(expected.numpy()).max()
                    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=bound)


def bits(native: ctypes.CDLL, threads: int) -> list[bytes]:
    """Everything that the kernels compute for some layers, to the bit."""
    native.use_threads(threads)
    results: list[Tensor] = []
    for call, inputs in (
        (
            lambda x, w: depthwise_conv(x, w, Window((5, 5), (2, 2), (2, 2)), native),
            [array(11, 12, 15, 15), array(12, 1, 5, 5)],
        ),
        (
            lambda x, w: depthwise_conv(x, w, Window((3, 3), (1, 1), (1, 1)), native),
            [array(11, 37, 9, 9), array(37, 1, 3, 3)],
        ),
        (
            lambda x, w: depthwise_conv(x, w, Window((6, 6), (2, 1), (2, 2)), native),
            [array(11, 5, 9, 9), array(5, 1, 6, 6)],
        ),
        (lambda x, w: dense_conv(x, w, SAME, native), [array(11, 40, 9, 9), array(70, 40, 1, 1)]),
        (
            lambda x, w: dense_conv(x, w, Window((3, 3), (2, 2), (1, 1)), native),
            [array(5, 40, 9, 9), array(70, 40, 3, 3)],
        ),
        (
            lambda x, w: dense_conv(x, w, Window((3, 3), (1, 1), (1, 1)), native),
            [array(2, 300, 5, 5), array(260, 300, 3, 3)],
        ),
        *(
            (
                lambda x, w, g, b, depthwise=depthwise, c=c, k=k: values(
                    conv_norm(
                        *(x, w, Window((k, k), (1, 1), (k // 2, k // 2)), depthwise),
                        (g, b, (paddle.zeros([c]), paddle.ones([c])), (EPSILON, MOMENTUM, "relu")),
                        native,
                    )
                ),
                [array(11, c, 9, 9), array(c, 1 if depthwise else c, k, k), array(c), array(c)],
            )
            for depthwise, c, k in ((True, 24, 5), (False, 40, 1), (False, 24, 3))
        ),
        *(
            (
                lambda x, *a, names=names: Chain(native, "hardswish", True)(names, x, *a),
                [array(11, 24, 9, 9), *learnt_by(names[0], 24), *learnt_by(names[1], 24)],
            )
            for names in (("tiles", "tiles"), ("tiles", "pointwise"))
        ),
        (lambda x, w: linear(x, w, native), [array(33, 90), array(90, 600)]),
        (
            lambda x, w, b: norm_act(
                *(x, w, b, (paddle.zeros([13]), paddle.ones([13]))),
                (EPSILON, MOMENTUM, "hardswish"),
                native,
            ),
            [array(11, 13, 9, 9), array(13), array(13)],
        ),
    ):
        tensors = [paddle.to_tensor(one, stop_gradient=False) for one in inputs]
        y = call(*tensors)
        (y * y).sum().backward()
        results += [y, *(tensor.grad for tensor in tensors)]
    native.use_threads(1)
    return [result.numpy().tobytes() for result in results]


def test_the_same_bits_every_time_and_for_any_number_of_threads(either: ctypes.CDLL) -> None:
    first = bits(either, 1)
    for threads in (1, 2, 2, 3, 8):
        assert bits(either, threads) == first


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_come_through(value: float, either: ctypes.CDLL) -> None:
    x = array(2, 3, 8, 8)
    x[1, 2, 4, 4] = value
    same = Window((3, 3), (1, 1), (1, 1))
    running = paddle.zeros([3]), paddle.ones([3])
    calls = {
        "depthwise": lambda t: depthwise_conv(t, paddle.ones([3, 1, 3, 3]), same, either),
        "dense": lambda t: dense_conv(t, paddle.ones([4, 3, 1, 1]), SAME, either),
        "linear": lambda t: linear(
            t.reshape([2, 3 * 64]), paddle.ones([3 * 64, 3 * 64]), either
        ).reshape([2, 3, 8, 8]),
    }
    for act in ACTIVATIONS:
        calls[f"norm {act}"] = lambda t, act=act: norm_act(
            *(t, paddle.ones([3]), paddle.zeros([3]), running), (EPSILON, MOMENTUM, act), either
        )
    for name, call in calls.items():
        t = paddle.to_tensor(x, stop_gradient=False)
        y = call(t)
        assert not np.isfinite(y.numpy()[1]).all(), name
        assert np.isfinite(y.numpy()[0]).all() or name.startswith("norm"), name
        t = paddle.to_tensor(array(2, 3, 8, 8), stop_gradient=False)
        y = call(t)
        wrong = np.ones(y.shape, np.float32)
        wrong[1, 2, 4, 4] = value
        y.backward(paddle.to_tensor(wrong))
        gradient = t.grad.numpy()
        passed = np.isfinite(gradient).all()
        # relu and its kin have no slope there for half of the values: 0 * inf is NaN, too
        assert not passed, name
    assert np.isnan(running[0].numpy()).any() or np.isinf(running[0].numpy()).any()


def test_views_with_gaps_are_read_right(native: ctypes.CDLL) -> None:
    whole = paddle.to_tensor(array(2, 8, 6, 6))
    view = whole[:, 2:6]
    weight = paddle.to_tensor(array(3, 4, 1, 1))
    found = dense_conv(view, weight, SAME, native).numpy()
    assert np.allclose(found, F.conv2d(view, weight).numpy(), atol=1e-5)
    turned = paddle.to_tensor(array(2, 6, 6, 4)).transpose([0, 3, 1, 2])
    found = dense_conv(turned, weight, SAME, native).numpy()
    assert np.allclose(found, F.conv2d(turned, weight).numpy(), atol=1e-5)


def test_gradients_that_nobody_wants_are_not_made(native: ctypes.CDLL) -> None:
    x, weight = paddle.to_tensor(array(2, 4, 6, 6)), paddle.to_tensor(array(4, 1, 3, 3))
    weight.stop_gradient = False
    window = Window((3, 3), (1, 1), (1, 1))
    for _ in range(2):
        depthwise_conv(x, weight, window, native).sum().backward()
    assert x.grad is None
    once = weight.grad.numpy() / 2  # two backward passes add up
    weight.clear_grad()
    F.conv2d(x, weight, padding=1, groups=4).sum().backward()
    assert np.allclose(once, weight.grad.numpy(), rtol=1e-4, atol=1e-4)
    weight.stop_gradient, x.stop_gradient = True, False  # a frozen layer
    depthwise_conv(x, weight, window, native).sum().backward()
    assert x.grad is not None
    scale, shift = paddle.ones([4]), paddle.zeros([4], "float32")
    shift.stop_gradient = False
    running = paddle.zeros([4]), paddle.ones([4])
    norm_act(x, scale, shift, running, (EPSILON, MOMENTUM, "relu"), native).sum().backward()
    assert scale.grad is None and shift.grad is not None
    with paddle.no_grad():
        assert depthwise_conv(x, weight, window, native).stop_gradient
