"""The kernels against Paddle's own operators: run once after a build, in its own process.

`python -m ppcls_lite.kernels.selftest kernels.so` ends with status 0 if outputs and gradients of
a few layers of every kind agree, and NaN comes through; else with build.py's `DIFFERENT` or
`NOT_LOADED` and a last line that says why. Kernels that multiply bf16 numbers get such numbers,
whose products they have to know as exactly as others; where they round in between, they get a wider
tolerance. tests/kernels/ has all shapes of the zoo.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor

from ppcls_lite.kernels import library
from ppcls_lite.kernels.attention import attended
from ppcls_lite.kernels.build import DIFFERENT, NOT_LOADED
from ppcls_lite.kernels.deferred import conv_norm, values
from ppcls_lite.kernels.ops import (
    ACTIVATIONS,
    STOCK_ACTIVATIONS,
    dense_conv,
    depthwise_conv,
    linear,
    norm_act,
)
from ppcls_lite.kernels.pixels import enlarged, pixel_entropy
from ppcls_lite.kernels.pool import Pooling, pooled
from ppcls_lite.kernels.shuffle import with_half
from ppcls_lite.kernels.summed import Finish, summed
from ppcls_lite.kernels.tensors import Window
from ppcls_lite.models import shuffled
from ppcls_lite.ops.entropy import PixelEntropy

TOLERANCE = 1e-4  # of the largest value of a tensor
# Of what is rounded in between: where a value falls, sums in another order decide.
BF16_TOLERANCE = 5e-3
EPSILON, MOMENTUM = 1e-5, 0.9

# batch, channels, height, width, kernel, stride, padding
_DEPTHWISE = (
    (3, 5, 14, 14, 3, (1, 1), 1),
    (2, 4, 7, 7, 5, (1, 1), 2),
    (2, 3, 15, 12, 3, (2, 2), 1),
    (2, 3, 13, 16, 5, (2, 1), 2),
    (9, 2, 30, 33, 1, (1, 1), 0),
)
# batch, channels, outputs, height, width, kernel, stride, padding
_DENSE = (
    (3, 16, 24, 14, 14, 1, (1, 1), 0),
    (70, 5, 7, 1, 1, 1, (1, 1), 0),
    (2, 8, 13, 20, 20, 1, (1, 1), 0),
    (2, 3, 8, 33, 30, 3, (2, 2), 1),
    (3, 20, 37, 9, 8, 3, (1, 1), 1),
)


def as_bf16(values: np.ndarray) -> np.ndarray:
    """The nearest bf16 numbers, as float32."""
    return paddle.to_tensor(values).astype("bfloat16").astype("float32").numpy()


def difference(
    found: Callable[..., Tensor],
    expected: Callable[..., Tensor],
    inputs: Sequence[np.ndarray],
    given: Callable[[np.ndarray], np.ndarray] = np.asarray,
) -> float:
    """The largest difference of output and gradients, relative to each tensor's largest value.

    `given`: what to make of the output's gradient, which is random.
    """
    results = []
    for function in (found, expected):
        tensors = [paddle.to_tensor(array, stop_gradient=False) for array in inputs]
        y = function(*tensors)
        rng = np.random.default_rng(1)
        y.backward(paddle.to_tensor(given(rng.standard_normal(y.shape).astype(np.float32))))
        results.append([y.numpy(), *(t.grad.numpy() for t in tensors if t.grad is not None)])
    worst = 0.0
    for a, b in zip(*results):
        worst = max(worst, float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-12)))
    return worst if len(results[0]) == len(results[1]) else float("inf")


def run(kernels: ctypes.CDLL) -> list[str]:
    """What differs; empty if nothing does."""
    rng = np.random.default_rng(0)
    failures = []
    bf16 = bool(kernels.multiplies_bf16())
    given = as_bf16 if bf16 else np.asarray

    def array(*shape: int) -> np.ndarray:
        return given(rng.standard_normal(shape).astype(np.float32))

    def compare(name: str, *arguments: Any, tolerance: float = TOLERANCE) -> None:
        worst = difference(*arguments, given)
        if not worst <= tolerance:
            failures.append(f"{name} differs by {worst:.1e}")

    for n, c, h, w, k, stride, pad in _DEPTHWISE:
        window = Window((k, k), stride, (pad, pad))
        stock = {"stride": list(stride), "padding": pad, "groups": c}
        compare(
            f"depthwise convolution {k}x{k} with stride {stride}",
            lambda x, weight, window=window: depthwise_conv(x, weight, window, kernels),
            lambda x, weight, stock=stock: F.conv2d(x, weight, **stock),
            [array(n, c, h, w), array(c, 1, k, k)],
        )
    for n, c, d, h, w, k, stride, pad in _DENSE:
        window = Window((k, k), stride, (pad, pad))
        stock = {"stride": list(stride), "padding": pad}
        compare(
            f"{k}x{k} convolution",
            lambda x, weight, window=window: dense_conv(x, weight, window, kernels),
            lambda x, weight, stock=stock: F.conv2d(x, weight, **stock),
            [array(n, c, h, w), array(d, c, k, k)],
        )
    compare(
        "linear layer",
        lambda x, weight: linear(x, weight, kernels),
        paddle.matmul,
        [array(7, 40), array(40, 70)],
    )
    classes = paddle.to_tensor(rng.integers(0, 7, (2, 9, 11)))
    compare(
        "cross entropy of pixels",
        lambda x: pixel_entropy(x, classes, kernels),
        lambda x: PixelEntropy()(x, classes),
        [array(2, 7, 9, 11) * 5],
    )
    for corners in (False, True):
        options = {"mode": "bilinear", "align_corners": corners}
        compare(
            "bilinear interpolation",
            lambda x, corners=corners: enlarged(x, (13, 20), corners, kernels),
            lambda x, options=options: F.interpolate(x, (13, 20), **options),
            [array(2, 3, 4, 5)],
        )
    for act in ACTIVATIONS:
        _compare_norm(kernels, act, array, compare, failures)
    compare(
        "channel attention",
        lambda x, w: attended(x, lambda means: F.sigmoid(means * w), kernels),
        lambda x, w: x * F.sigmoid(x.mean([2, 3], keepdim=True) * w),
        [array(3, 6, 9, 7), array(1, 6, 1, 1)],
    )
    for average, stock_pool in ((False, F.max_pool2d), (True, F.avg_pool2d)):
        pooling = Pooling((3, 3), (2, 2), (1, 1), False, average)
        compare(
            f"pooling, {'means' if average else 'the largest'}",
            lambda x, pooling=pooling: pooled(x, pooling, kernels),
            lambda x, stock_pool=stock_pool: stock_pool(x, 3, 2, 1),
            [array(3, 6, 9, 14)],
        )
    compare(
        "channels in turns",
        lambda x: with_half(x, lambda half: half * 3, kernels),
        lambda x: shuffled.in_turns(x[:, :3], x[:, 3:] * 3),
        [array(2, 6, 5, 7)],
    )
    compare(
        "sum of branches",
        lambda x, y, a, b: summed([x, y], kernels, Finish((a, b), "hardswish", (b, a))),
        lambda x, y, a, b: F.hardswish((x + y) * a + b) * b + a,
        [array(2, 6, 5, 7), array(2, 6, 5, 7), array(1), array(1)],
    )
    rounded = BF16_TOLERANCE if bf16 else TOLERANCE
    _compare_chains(kernels, array, functools.partial(compare, tolerance=rounded))
    failures += _lost_nan(kernels)
    return failures


def _compare_chains(
    kernels: ctypes.CDLL, array: Callable[..., np.ndarray], compare: Callable[..., None]
) -> None:
    """Two convolutions and their normalisations: together, and one after another."""
    for depthwise, (c, d, h, k, s) in ((True, (6, 6, 15, 5, 2)), (False, (9, 6, 12, 1, 1))):
        window = Window((k, k), (s, s), (k // 2, k // 2))
        how = ((window, depthwise), (window, not depthwise)) if c == d else ((window, False),) * 2
        rest = EPSILON, MOMENTUM, "hardswish"

        def chain(*a: Tensor, how: Any = how, rest: tuple = rest) -> Tensor:
            x = a[0]
            for (w, g, b), (window, kind) in zip((a[1:4], a[4:]), how):
                running = paddle.zeros(g.shape), paddle.ones(g.shape)
                x = conv_norm(x, w, window, kind, (g, b, running, rest), kernels)
            return values(x)

        def stock(*a: Tensor, how: Any = how, rest: tuple = rest) -> Tensor:
            x = a[0]
            for (w, g, b), (window, kind) in zip((a[1:4], a[4:]), how):
                running = paddle.zeros(g.shape), paddle.ones(g.shape)
                conv = depthwise_conv if kind else dense_conv
                x = norm_act(conv(x, w, window, kernels), g, b, running, rest, kernels)
            return x

        first = array(d, 1 if depthwise else c, k, k), array(d), array(d)
        second = array(d, d, k, k), array(d), array(d)
        inputs = [array(3, c, h, h), *first, *second]
        compare("two convolutions with their normalisations", chain, stock, inputs)


def _compare_norm(
    kernels: ctypes.CDLL,
    act: str | None,
    array: Callable[..., np.ndarray],
    compare: Callable[..., None],
    failures: list[str],
) -> None:
    own = paddle.full([6], 0.5), paddle.full([6], 2.0)
    stock = paddle.full([6], 0.5), paddle.full([6], 2.0)
    name = f"batch normalisation with {act}"
    compare(
        name,
        lambda *a: norm_act(*a, own, (EPSILON, MOMENTUM, act), kernels),
        lambda *a: STOCK_ACTIVATIONS[act](
            F.batch_norm(*(a[0], *stock, *a[1:]), training=True, momentum=MOMENTUM, epsilon=EPSILON)
        ),
        [array(3, 6, 9, 7) * 3 + 1, array(6), array(6)],
    )
    if not all(np.allclose(a.numpy(), b.numpy(), 1e-5, 1e-6) for a, b in zip(own, stock)):
        failures.append(f"{name}: running statistics differ")


def _lost_nan(kernels: ctypes.CDLL) -> list[str]:
    x = paddle.ones([1, 2, 6, 6])
    x[0, 0, 3, 3] = float("nan")
    same = Window((3, 3), (1, 1), (1, 1)), Window((1, 1), (1, 1), (0, 0))
    outputs = {
        "depthwise convolution": depthwise_conv(x, paddle.ones([2, 1, 3, 3]), same[0], kernels),
        "1x1 convolution": dense_conv(x, paddle.ones([2, 2, 1, 1]), same[1], kernels),
    }
    for act in ACTIVATIONS:
        one, running = paddle.ones([2]), (paddle.zeros([2]), paddle.ones([2]))
        options = (EPSILON, MOMENTUM, act)
        outputs[f"batch normalisation with {act}"] = norm_act(
            x, one, one, running, options, kernels
        )
    return [f"{name} loses NaN" for name, y in outputs.items() if not paddle.isnan(y).any()]


def main(path: str) -> int:
    """The self-test of the library at `path`; its exit status."""
    paddle.set_device("cpu")
    try:
        kernels = library.load(Path(path))
    except (OSError, AttributeError) as error:
        print(error, file=sys.stderr)
        return NOT_LOADED
    differences = run(kernels)
    print("; ".join(differences), file=sys.stderr)
    return DIFFERENT if differences else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
