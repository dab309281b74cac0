"""What the Python API gives a training: a network of one's own making, and callbacks."""

from __future__ import annotations

import numpy as np
import pytest

import ppcls_lite
from ppcls_lite.errors import UserError
from ppcls_lite.models.weights.load import read_state


class Count(ppcls_lite.Callback):
    def __init__(self) -> None:
        self.epochs = []

    def on_epoch(self, run, done):
        self.epochs.append((done["epoch"], done["eval"]["top1"], run.model.class_num))


def test_a_given_network_is_trained_in_place_and_its_callbacks_are_called(shades_recipe):
    model = ppcls_lite.create_model("PPLCNet_x0_25", class_num=5)
    model.reset_classifier(2)
    before = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    count = Count()
    result = ppcls_lite.train(shades_recipe, callbacks=[count], model=model)
    assert [epoch for epoch, _, classes in count.epochs if classes == 2] == [1, 2]
    assert count.epochs[-1][1] == result.last["top1"]
    saved = read_state(result.run_dir / "latest")
    after = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    assert all(np.array_equal(saved[name], after[name]) for name in after)
    assert not np.array_equal(before["fc.weight"], after["fc.weight"])

    shades_recipe["Optimizer"]["lr"]["learning_rate"] = 1e-12  # what it starts from is what it has
    ppcls_lite.train(shades_recipe, model=model)
    assert np.allclose(model.state_dict()["fc.weight"].numpy(), after["fc.weight"], atol=1e-6)


def test_a_network_that_the_recipe_does_not_describe_is_refused(shades_recipe):
    model = ppcls_lite.create_model("PPLCNet_x0_25", class_num=5)
    with pytest.raises(UserError, match=r"2 arrays are not as in Arch .*reset_classifier"):
        ppcls_lite.train(shades_recipe, model=model)
    with pytest.raises(UserError, match="expected a network, found str"):
        ppcls_lite.train(shades_recipe, model="PPLCNet_x0_25")
    shades_recipe["Global"]["pretrained_model"] = "weights"
    with pytest.raises(UserError, match="leave one of the two out"):
        ppcls_lite.train(shades_recipe, model=model)


def test_an_object_store_is_no_run_folder(shades_recipe):
    shades_recipe["Global"]["output_dir"] = "s3://bucket/runs"
    with pytest.raises(UserError, match="s3://bucket/runs is an address"):
        ppcls_lite.train(shades_recipe)
