"""What the kernels do not know is Paddle's: sizes, types, changed layers, a second backward."""

from __future__ import annotations

import copy
import ctypes
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import Tensor, nn

from ppcls_lite.kernels import convert
from ppcls_lite.kernels.ops import (
    ACTIVATIONS,
    STOCK_ACTIVATIONS,
    dense_conv,
    depthwise_conv,
    linear,
    norm_act,
)
from ppcls_lite.kernels.tensors import POINTWISE, Window
from ppcls_lite.models.create import create_model
from ppcls_lite.models.layers import ConvBN

THREE = Window((3, 3), (1, 1), (1, 1))
BARE = Window((3, 3), (1, 1), (0, 0))
OPTIONS = 1e-5, 0.9
Call = Callable[[Tensor, Tensor, Any], Tensor]
CALLS: dict[str, tuple[Call, Callable[[Tensor, Tensor], Tensor]]] = {
    "depthwise": (
        lambda x, w, library: depthwise_conv(x, w, THREE, library),
        lambda x, w: F.conv2d(x, w, padding=1, groups=w.shape[0]),
    ),
    "depthwise without padding": (
        lambda x, w, library: depthwise_conv(x, w, BARE, library),
        lambda x, w: F.conv2d(x, w, groups=w.shape[0]),
    ),
    "pointwise": (
        lambda x, w, library: dense_conv(x, w, POINTWISE, library),
        lambda x, w: F.conv2d(x, w),
    ),
    "first layer": (
        lambda x, w, library: dense_conv(x, w, THREE, library),
        lambda x, w: F.conv2d(x, w, padding=1),
    ),
    "linear": (linear, F.linear),
}


class Watched:
    """The library, and which of its functions were called."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        self.called: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        def call(*arguments: object) -> None:
            self.called.append(name)
            getattr(self.library, name)(*arguments)

        return call


@pytest.fixture
def watched(native: ctypes.CDLL) -> Watched:
    return Watched(native)


def tensor(*shape: int, dtype: str = "float32") -> Tensor:
    values = np.random.default_rng(sum(shape)).standard_normal(shape)
    return paddle.to_tensor(values.astype(np.float32), stop_gradient=False).astype(dtype).detach()


def outcome(function: Callable[..., Tensor], *inputs: Tensor) -> list[np.ndarray] | str:
    """Output and gradients, or the kind of error and its first words."""
    for one in inputs:
        one.stop_gradient = False
        one.clear_gradient()
    try:
        y = function(*inputs)
        y.backward(paddle.ones_like(y))
    except (ValueError, RuntimeError, OSError) as error:
        return f"{type(error).__name__} {str(error).strip()[:60]}"
    return [y.numpy(), *(one.grad.numpy() for one in inputs)]


@pytest.mark.parametrize(
    ("name", "x", "weight"),
    [
        ("depthwise", (0, 3, 8, 8), (3, 1, 3, 3)),
        ("depthwise", (2, 3, 0, 8), (3, 1, 3, 3)),
        ("depthwise without padding", (1, 3, 2, 2), (3, 1, 3, 3)),
        ("depthwise without padding", (1, 3, 2, 9), (3, 1, 3, 3)),
        ("pointwise", (0, 3, 8, 8), (4, 3, 1, 1)),
        ("pointwise", (2, 3, 8, 0), (4, 3, 1, 1)),
        ("first layer", (0, 3, 8, 8), (4, 3, 3, 3)),
        ("linear", (0, 5), (5, 3)),
        ("linear", (2, 0), (0, 3)),
        ("linear", (2, 5), (5, 0)),
        # other channels, other widths, other ranks
        ("depthwise", (1, 1, 8, 8), (3, 1, 3, 3)),
        ("depthwise", (1, 4, 8, 8), (3, 1, 3, 3)),
        ("depthwise", (3, 8, 8), (3, 1, 3, 3)),
        ("depthwise", (1, 3, 8, 8), (6, 1, 3, 3)),
        ("pointwise", (1, 1, 8, 8), (4, 3, 1, 1)),
        ("pointwise", (3, 8, 8), (4, 3, 1, 1)),
        ("first layer", (1, 4, 8, 8), (8, 3, 3, 3)),
        ("first layer", (1, 1, 8, 8), (8, 3, 3, 3)),
        ("first layer", (1, 3, 8, 8), (8, 3, 5, 5)),
        ("linear", (2, 6), (5, 3)),
        ("linear", (2, 4, 5), (5, 3)),
    ],
)
def test_other_sizes_give_paddles_result_or_its_error(
    name: str, x: tuple[int, ...], weight: tuple[int, ...], watched: Watched
) -> None:
    own, stock = CALLS[name]
    inputs = tensor(*x), tensor(*weight)
    found = outcome(lambda *a: own(*a, watched), *inputs)
    expected = outcome(stock, *inputs)
    assert watched.called == []
    if isinstance(expected, str) or isinstance(found, str):
        assert found == expected
    else:
        for one, other in zip(found, expected):
            assert one.shape == other.shape and np.array_equal(one, other)


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
@pytest.mark.parametrize("name", ["depthwise", "pointwise", "linear"])
def test_weights_of_another_type_are_paddles_error(name: str, dtype: str, watched: Watched) -> None:
    own, stock = CALLS[name]
    weight = {"depthwise": (3, 1, 3, 3), "pointwise": (4, 3, 1, 1), "linear": (3, 4)}[name]
    inputs = tensor(*((2, 3) if name == "linear" else (2, 3, 8, 8))), tensor(*weight, dtype=dtype)
    found = outcome(lambda *a: own(*a, watched), *inputs)
    assert found == outcome(stock, *inputs) and isinstance(found, str)
    assert watched.called == []


def norm(
    function: Callable[..., Tensor], x: Tensor, channels: int, dtype: str = "float32"
) -> list[np.ndarray] | str:
    """Output, gradients and statistics of one pass through batch normalisation."""
    running = paddle.full([channels], 3.0, dtype), paddle.full([channels], 7.0, dtype)
    scale, shift = tensor(channels, dtype=dtype), paddle.full([channels], 0.5, dtype)
    found = outcome(lambda x, w, b: function(x, w, b, running), x, scale, shift)
    return found if isinstance(found, str) else [*found, *(r.numpy() for r in running)]


@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize("shape", [(1, 7, 1, 1), (0, 7, 4, 4), (2, 7, 0, 3)])
def test_normalising_one_value_or_none_is_paddles(
    shape: tuple[int, ...], act: str | None, watched: Watched
) -> None:
    def stock(x: Tensor, w: Tensor, b: Tensor, running: tuple[Tensor, Tensor]) -> Tensor:
        return STOCK_ACTIVATIONS[act](F.batch_norm(x, *running, w, b, True, 0.9, 1e-5))

    x = tensor(*shape)
    found = norm(lambda x, w, b, r: norm_act(x, w, b, r, (*OPTIONS, act), watched), x, 7)
    expected = norm(stock, x, 7)
    assert watched.called == []
    for one, other in zip(found, expected):
        assert np.array_equal(one, other)
    assert (found[-2] == 3).all() and (found[-1] == 7).all()  # the statistics are left alone
    if shape[0] == 1:  # x is passed on, and the gradient back
        assert np.array_equal(found[0], STOCK_ACTIVATIONS[act](x).numpy())
        assert act is not None or (found[1] == 1).all()


@pytest.mark.parametrize(("channels", "dtype"), [(3, "float32"), (4, "float64"), (4, "bfloat16")])
def test_other_statistics_are_paddles_error(channels: int, dtype: str, watched: Watched) -> None:
    x = tensor(2, 4, 3, 3)
    found = norm(
        lambda x, w, b, r: norm_act(x, w, b, r, (*OPTIONS, None), watched), x, channels, dtype
    )
    expected = norm(
        lambda x, w, b, r: F.batch_norm(x, *r, w, b, True, 0.9, 1e-5), x, channels, dtype
    )
    assert found == expected and isinstance(found, str)
    assert watched.called == []


def copies(watched: Watched) -> tuple[nn.Layer, nn.Layer]:
    paddle.seed(1)
    stock = create_model("PPLCNet_x0_25", class_num=3, dropout_prob=0.0)
    own = copy.deepcopy(stock)
    assert convert(own, watched) > 20
    return stock, own


def test_single_images_train_as_with_stock_paddle(watched: Watched) -> None:
    # at 32 pixels the last stages are one pixel: the running variance must not shrink to 0
    stock, own = copies(watched)
    rng = np.random.default_rng(0)
    images = [paddle.to_tensor(rng.standard_normal((1, 3, 32, 32), np.float32)) for _ in range(3)]
    for model in (stock, own):
        model.train()
        optimizer = paddle.optimizer.Momentum(0.01, 0.9, model.parameters())
        for step in range(12):
            F.cross_entropy(model(images[step % 3]), paddle.to_tensor([step % 3])).backward()
            optimizer.step()
            optimizer.clear_grad()
        model.eval()
    assert {"dense_norm_forward", "dense_forward"} <= set(watched.called)
    for (key, one), other in zip(stock.state_dict().items(), own.state_dict().values()):
        if key.startswith("blocks6") and key.endswith(("_mean", "_variance")):
            assert (one.numpy() == other.numpy()).all(), key  # untouched
    losses = [
        [float(F.cross_entropy(model(x), paddle.to_tensor([i]))) for i, x in enumerate(images)]
        for model in (stock, own)
    ]
    assert np.allclose(*losses, rtol=0.05), losses


@pytest.mark.parametrize("channels", [1, 4])
def test_grey_and_rgba_images_are_paddles_mistake(channels: int, watched: Watched) -> None:
    stock, own = copies(watched)
    images = paddle.zeros([2, channels, 32, 32])
    messages = []
    for model in (stock, own):
        model.train()
        with pytest.raises(ValueError, match="channels") as caught:
            model(images)
        messages.append(str(caught.value))
    assert messages[0] == messages[1] and watched.called == []


def test_weights_turned_to_another_type_are_paddles_mistake(watched: Watched) -> None:
    _, own = copies(watched)
    own.to(dtype="float64")
    with pytest.raises(ValueError, match="float64"):
        own(paddle.zeros([2, 3, 32, 32]))
    assert watched.called == []


def test_a_second_backward_pass_is_refused_before_it_crashes(native: ctypes.CDLL) -> None:
    x, w = tensor(2, 3, 6, 6), tensor(3, 1, 3, 3)
    w.stop_gradient = False
    running = paddle.zeros([3]), paddle.ones([3])
    one = paddle.ones([3])
    x.stop_gradient = False
    for y in (
        depthwise_conv(x, w, THREE, native),
        dense_conv(x, tensor(4, 3, 1, 1), POINTWISE, native),
        linear(x.reshape([6, 36]), tensor(36, 2), native),
        norm_act(x, one, one, running, (*OPTIONS, "relu"), native),
    ):
        loss = (y * y).sum() + y.sum()  # several uses of an output are one pass
        loss.backward(retain_graph=True)
        first = x.grad.numpy()
        with pytest.raises(OSError, match=r"second backward pass.*cpu_kernels: off"):
            loss.backward()
        assert np.array_equal(x.grad.numpy(), first)


@pytest.mark.parametrize("shape", [(2, 4), (1, 4, 6, 6), (2, 4, 36), (2, 4, 7, 7)])
def test_a_gradient_of_another_shape_is_a_mistake(shape: tuple[int, ...], watched: Watched) -> None:
    x, w = tensor(2, 4, 6, 6), tensor(4, 1, 3, 3)
    x.stop_gradient = False
    running, one = (paddle.zeros([4]), paddle.ones([4])), paddle.ones([4])
    for y in (
        depthwise_conv(x, w, THREE, watched),
        dense_conv(x, tensor(4, 4, 1, 1), POINTWISE, watched),
        norm_act(x, one, one, running, (*OPTIONS, None), watched),
    ):
        with pytest.raises(OSError, match=r"for an output of shape \[2, 4, 6, 6\]"):
            paddle.grad([y], [x], [paddle.ones(shape)])
    y = linear(x.reshape([8, 36]), tensor(36, 2), watched)
    with pytest.raises(OSError, match=r"for an output of shape \[8, 2\]"):
        paddle.grad([y], [x], [paddle.ones(shape)])
    assert not [name for name in watched.called if name.endswith("backward")]


def change_stride(block: ConvBN) -> None:
    block.conv._stride = [2, 2]


def change_padding(block: ConvBN) -> None:
    block.conv._updated_padding = [0, 0]


def change_dilation(block: ConvBN) -> None:
    block.conv._dilation = [2, 2]


def change_norm(block: ConvBN) -> None:
    block.bn.forward = lambda x: x * 2


def change_act(block: ConvBN) -> None:
    block.act.forward = lambda x: x - 1


def change_order(block: ConvBN) -> None:
    block.bn._data_format = "NHWC"


def change_scale(block: ConvBN) -> None:
    block.bn.weight = None


@pytest.mark.parametrize(
    "change",
    [
        *(change_stride, change_padding, change_dilation, change_norm, change_act),
        *(change_order, change_scale),
    ],
)
def test_a_layer_changed_after_the_conversion_is_stock(
    change: Callable[[ConvBN], None], native: ctypes.CDLL
) -> None:
    paddle.seed(2)
    stock = ConvBN(6, 6, 3, groups=6)
    own = copy.deepcopy(stock)
    assert convert(own, native) == 2
    x = tensor(2, 6, 6, 6)
    for block in (stock, own):
        change(block)
        block.train()
    assert np.allclose(own(x).numpy(), stock(x).numpy(), rtol=1e-4, atol=1e-5)
    assert np.allclose(own.bn._variance.numpy(), stock.bn._variance.numpy(), rtol=1e-5)


def test_a_pickled_network_is_stock_and_a_copy_keeps_the_kernels(watched: Watched) -> None:
    paddle.seed(1)
    stock = create_model("ResNet18_vd", class_num=3)  # has blocks that are subclasses
    own = copy.deepcopy(stock)
    assert convert(own, watched) > 20
    restored = pickle.loads(pickle.dumps(own))
    for a, b in zip(stock.sublayers(include_self=True), restored.sublayers(include_self=True)):
        assert type(a) is type(b) and not hasattr(b, "_kernels")
    images = tensor(2, 3, 32, 32)
    for model in (stock, restored):
        model.train()
    assert np.array_equal(restored(images).numpy(), stock(images).numpy())
    assert watched.called == []
    again = copy.deepcopy(own)
    again.train()
    again(images)
    assert {"dense_norm_forward", "dense_forward"} <= set(watched.called)
