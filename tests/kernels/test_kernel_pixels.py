"""Enlarging and the cross entropy of pixels against Paddle's own operators."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from ppcls_lite.kernels.layers import NativeBilinear, NativeEntropy
from ppcls_lite.kernels.pixels import enlarged, pixel_entropy
from ppcls_lite.kernels.swap import convert, revert
from ppcls_lite.losses.base import CombinedLoss
from ppcls_lite.losses.segmentation import SegCELoss
from ppcls_lite.models.upsample import Bilinear
from ppcls_lite.ops.entropy import PixelEntropy

SIZES = [(2, 19, 16, 24), (1, 1, 3, 5), (3, 2, 1, 1), (1, 150, 9, 13), (2, 5, 1, 67)]


@pytest.fixture
def threads(native: ctypes.CDLL) -> Iterator[ctypes.CDLL]:
    yield native
    native.use_threads(1)


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize(
    ("small", "large"), [((8, 10), (64, 80)), ((3, 5), (7, 13)), ((1, 2), (4, 2)), ((9, 9), (4, 7))]
)
def test_enlarging_has_the_values_and_gradients_of_stock_paddle(
    native: ctypes.CDLL, small: tuple[int, int], large: tuple[int, int], corners: bool
) -> None:
    values = np.random.default_rng(3).standard_normal((2, 3, *small)).astype(np.float32)
    weights = paddle.randn([2, 3, *large])
    outputs, gradients = [], []
    for way in (
        lambda x: enlarged(x, large, corners, native),
        lambda x: F.interpolate(x, list(large), mode="bilinear", align_corners=corners),
    ):
        x = paddle.to_tensor(values, stop_gradient=False)
        y = way(x)
        (y * weights).sum().backward()
        outputs.append(y.numpy())
        gradients.append(x.grad.numpy())
    np.testing.assert_allclose(*outputs, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(*gradients, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("size", SIZES)
def test_entropy_has_the_values_and_gradients_of_stock_paddle(
    native: ctypes.CDLL, size: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(4)
    values = (10 * rng.standard_normal(size)).astype(np.float32)
    classes = paddle.to_tensor(rng.integers(0, size[1], (size[0], *size[2:])))
    weights = paddle.to_tensor(rng.standard_normal(classes.shape).astype(np.float32))
    found = []
    for way in (lambda x: pixel_entropy(x, classes, native), lambda x: PixelEntropy()(x, classes)):
        x = paddle.to_tensor(values, stop_gradient=False)
        y = way(x)
        (y * weights).sum().backward()
        found.append((y.numpy(), x.grad.numpy()))
    for own, stock in zip(*found):
        np.testing.assert_allclose(own, stock, rtol=1e-5, atol=1e-5)


def test_entropy_of_large_and_endless_logits(native: ctypes.CDLL) -> None:
    """What a diverging network gives; no value becomes an ordinary one by mistake."""
    logits = np.zeros((1, 3, 1, 8), np.float32)
    logits[0, :, 0, 0] = 1e30, 0, -1e30
    logits[0, :, 0, 1] = -200, 0, 200
    logits[0, 1, 0, 2] = np.nan
    logits[0, 2, 0, 3] = np.inf
    logits[0, 0, 0, 4] = -np.inf
    logits[0, :, 0, 5] = -np.inf
    classes = paddle.to_tensor(np.array([[[0, 0, 0, 0, 0, 0, -1, 3]]]))
    x = paddle.to_tensor(logits, stop_gradient=False)
    losses = pixel_entropy(x, classes, native)
    found = losses.numpy()[0, 0]
    np.testing.assert_array_equal(found[:2], [0, 400])
    assert np.isnan(found[[2, 3, 5, 6, 7]]).all() and found[4] == np.inf
    losses.sum().backward()
    gradient = x.grad.numpy()[0, :, 0]
    np.testing.assert_allclose(gradient[:, 1], [-1, 0, 1], atol=1e-6)
    np.testing.assert_allclose(gradient[:, 4], [-1, 0.5, 0.5], atol=1e-6)
    assert np.isnan(gradient[:, 2]).all()


def test_tensors_that_the_kernels_do_not_know_are_left_to_paddle(native: ctypes.CDLL) -> None:
    logits, classes = paddle.zeros([2, 3, 4, 5]), paddle.zeros([2, 4, 5], "int64")
    assert pixel_entropy(logits.astype("float64"), classes, native) is None
    assert pixel_entropy(logits, classes.astype("int32"), native) is None
    assert pixel_entropy(logits, classes[:, :3], native) is None
    assert enlarged(logits.astype("float64"), (8, 10), False, native) is None
    assert enlarged(logits[0], (8, 10), False, native) is None


def test_views_with_gaps_and_a_second_backward_pass(native: ctypes.CDLL) -> None:
    wide = paddle.randn([2, 3, 4, 10])
    logits = wide[:, :, :, ::2]
    logits.stop_gradient = False
    classes = paddle.randint(0, 3, [2, 4, 10])[:, :, ::2]
    losses = pixel_entropy(logits, classes, native)
    expected = F.cross_entropy(logits, classes.unsqueeze(1), axis=1, reduction="none").squeeze(1)
    np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-6)
    losses.sum().backward(retain_graph=True)
    with pytest.raises(OSError, match="second backward pass"):
        losses.sum().backward()


def test_any_number_of_threads_gives_the_same_bits(threads: ctypes.CDLL) -> None:
    values, classes = paddle.randn([3, 7, 21, 33]), paddle.randint(0, 7, [3, 21, 33])
    weights, found = paddle.randn([3, 7, 40, 50]), []
    for count in (1, 3):
        threads.use_threads(count)
        x = values.clone()
        x.stop_gradient = False
        losses = pixel_entropy(x, classes, threads)
        large = enlarged(x, (40, 50), False, threads)
        (losses.sum() + (large * weights).sum()).backward()
        found.append([losses.numpy(), large.numpy(), x.grad.numpy()])
    for one, several in zip(*found):
        np.testing.assert_array_equal(one, several)


def test_a_loss_trains_with_the_kernel_and_evaluates_without(native: ctypes.CDLL) -> None:
    loss, resize = CombinedLoss([SegCELoss()]), Bilinear()
    network = paddle.nn.LayerList([resize, loss])
    assert convert(network, native) == 2
    entropy = next(x for x in loss.sublayers() if isinstance(x, PixelEntropy))
    assert type(entropy) is NativeEntropy and type(resize) is NativeBilinear
    mask = paddle.to_tensor(np.array([[[0, 1], [255, 2]]], np.uint8))
    logits = paddle.randn([1, 3, 2, 2])
    logits.stop_gradient = False
    batch = {"image": logits, "mask": mask}
    found = []
    for change in (lambda: None, network.eval, lambda: revert(network)):
        change()
        term = loss(logits, batch)["loss"]
        term.backward()
        found.append((float(term), logits.grad.numpy()))
        logits.clear_grad()
    assert type(entropy) is PixelEntropy
    for value, gradient in found[:2]:
        assert value == pytest.approx(found[2][0], rel=1e-6)
        np.testing.assert_allclose(gradient, found[2][1], atol=1e-7)
    assert not found[0][1][0, :, 1, 0].any()  # the pixel that does not count
