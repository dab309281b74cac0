"""Another number of classes for a network that exists: only its classifier changes."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from ppcls_lite.errors import UserError
from ppcls_lite.models.create import create_model

NAMES = ["PPLCNet_x0_25", "MobileNetV2_x0_25", "LeViT_128S", "deeplabv3p_PPLCNet_x0_25"]


@pytest.mark.parametrize("name", NAMES)
def test_it_becomes_a_network_of_so_many_classes(name: str) -> None:
    model = create_model(name, class_num=7)
    before = {key: tensor.numpy() for key, tensor in model.state_dict().items()}
    model.reset_classifier(5)
    wanted = {k: t.shape for k, t in create_model(name, class_num=5).state_dict().items()}
    found = model.state_dict()
    assert {key: tensor.shape for key, tensor in found.items()} == wanted
    kept = [key for key in found if found[key].shape == list(before[key].shape)]
    assert 0 < len(found) - len(kept) < 10  # those of the classifier
    assert all(np.array_equal(before[key], found[key].numpy()) for key in kept)


def test_no_classes_and_some_again() -> None:
    model = create_model("MobileNetV3_small_x0_35", class_num=7)
    model.eval()
    image = paddle.zeros([1, 3, 64, 64])
    feature = model.forward_stages(image)[-1].numpy()
    model.reset_classifier(0)
    assert model.class_num == 0 and np.array_equal(model(image).numpy(), feature)
    model.reset_classifier(3)
    assert model(image).shape == [1, 3] and not any(x.training for x in model.sublayers())
    assert np.array_equal(model.forward_stages(image)[-1].numpy(), feature)


@pytest.mark.parametrize("wrong", [-1, 2.5, True, "3"])
def test_what_is_no_number_of_classes_is_refused(wrong: object) -> None:
    with pytest.raises(UserError, match="expected a number of classes"):
        create_model("PPLCNet_x0_25", class_num=7).reset_classifier(wrong)
