"""Maps of classes against a network whose right map is known, and networks of the zoo."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn

from ppcls_lite import create_model
from ppcls_lite.errors import UserError
from ppcls_lite.models.backbone import Backbone
from ppcls_lite.models.class_map import class_maps
from ppcls_lite.models.network import Network

WEIGHTS = np.float32([[2, -1, 0], [0, 3, -2]])  # of two channels, for three classes
BIAS = np.float32([0.5, 0, -1])


class Known(Backbone):
    """Two channels that are the image's first two, pooled, and one linear layer: exact maps."""

    def __init__(self) -> None:
        super().__init__(3)
        self.avg_pool, self.fc = nn.AdaptiveAvgPool2D(1), nn.Linear(2, 3)
        self.fc.weight.set_value(WEIGHTS)
        self.fc.bias.set_value(BIAS)

    def forward_stages(self, x: paddle.Tensor) -> list[paddle.Tensor]:
        return [x[:, :2]]


def test_pooling_and_a_linear_layer_give_the_exact_map() -> None:
    images = np.random.default_rng(0).random((2, 3, 4, 5)).astype(np.float32)
    network = Known()
    found = class_maps(network, paddle.to_tensor(images), [0, 1])
    for n, chosen in enumerate((0, 1)):
        expected = np.einsum("chw,c->hw", images[n, :2], WEIGHTS[:, chosen])
        np.testing.assert_allclose(found.maps[n], expected, rtol=1e-5, atol=1e-6)
        assert found.maps[n].mean() + BIAS[chosen] == pytest.approx(found.logits[n, chosen])


def test_the_place_that_decides_is_the_brightest() -> None:
    images = np.zeros((1, 3, 6, 6), np.float32)
    images[0, 1, 4, 2] = 9  # the second channel speaks for class 1, against class 2
    found = class_maps(Known(), paddle.to_tensor(images))
    assert found.classes.tolist() == [1]
    assert np.unravel_index(found.maps[0].argmax(), (6, 6)) == (4, 2)
    against = class_maps(Known(), paddle.to_tensor(images), [2])
    assert against.maps[0].min() == pytest.approx(-18) and against.maps[0].max() == 0


@pytest.mark.parametrize("name", ["PPLCNet_x0_25", "MobileNetV3_small_x0_35", "ShuffleNetV2_x0_25"])
def test_networks_of_the_zoo_have_maps_and_stay_as_they_are(name: str) -> None:
    paddle.seed(0)
    network = create_model(name, class_num=4)
    network.eval()
    images = paddle.randn([2, 3, 64, 64])
    before = network(images).numpy()
    found = class_maps(network, images)
    np.testing.assert_allclose(found.logits, before, rtol=1e-4, atol=1e-5)
    assert found.maps.shape == (2, 2, 2) and np.isfinite(found.maps).all() and found.maps.any()
    assert all(p.grad is None for p in network.parameters())
    np.testing.assert_array_equal(network(images).numpy(), before)


@pytest.mark.parametrize(
    ("name", "far"), [("PPLCNet_x0_25", 1e-3), ("ResNet18", 1e-3), ("MobileNetV2_x0_25", 0.1)]
)
def test_forward_runs_find_the_same_maps(name: str, far: float) -> None:
    """Up to the kinks of a ReLU in the head, which a step may cross."""
    paddle.seed(1)
    network = create_model(name, class_num=4)
    network.eval()
    images = paddle.randn([2, 3, 64, 96])
    found = network.maps(images).numpy()
    assert found.shape == (2, 4, 2, 3)
    for chosen in range(4):
        expected = class_maps(network, images, [chosen, chosen]).maps
        error = np.abs(found[:, chosen] - expected).max()
        assert error <= far * np.abs(expected).max()


def test_what_has_no_map_says_so() -> None:
    class Boxes(Network):
        """Answers something else."""

    with pytest.raises(UserError, match="Boxes: has no map"):
        class_maps(Boxes(), paddle.zeros([1, 3, 4, 4]))
    assert Boxes().maps(paddle.zeros([1, 3, 4, 4])) is None
    with pytest.raises(UserError, match="classes 0 to 2"):
        class_maps(Known(), paddle.zeros([1, 3, 4, 4]), [3])
