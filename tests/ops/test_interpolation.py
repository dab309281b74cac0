"""Linear interpolation as kernels and as neighbours, against Paddle's."""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from ppcls_lite.ops.interpolation import linear_kernel, linear_neighbours


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 8])
def test_a_kernel_shares_a_pixel_out(factor: int) -> None:
    kernel = linear_kernel(factor)
    assert (kernel == kernel[::-1]).all() and kernel.sum() == pytest.approx(factor)
    row = np.array([0, 0, 1, 0, 0], np.float32)
    wide = paddle.to_tensor(row.reshape(1, 1, 1, 5))
    wide = F.interpolate(wide, [1, 5 * factor], mode="bilinear", align_corners=False).numpy()
    np.testing.assert_allclose(wide.reshape(-1)[wide.reshape(-1) > 0], kernel, atol=1e-6)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("small", "large"), [(5, 5), (5, 9), (4, 13), (9, 4), (1, 3), (6, 2)])
def test_neighbours_are_mixed_as_paddle_does(small: int, large: int, align_corners: bool) -> None:
    row = np.random.default_rng(0).standard_normal(small, np.float32)
    options = {"mode": "bilinear", "align_corners": align_corners}
    wide = F.interpolate(paddle.to_tensor(row.reshape(1, 1, 1, -1)), [1, large], **options)
    low, high, share = linear_neighbours(small, large, align_corners)
    mixed = row[low] + (row[high] - row[low]) * share
    np.testing.assert_allclose(mixed, wide.numpy().reshape(-1), atol=2e-6)
