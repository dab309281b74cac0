"""Rates that fall from the classifier to the stem."""

from __future__ import annotations

import pytest
from paddle import nn

from ppcls_lite.config.check import build
from ppcls_lite.errors import UserError
from ppcls_lite.models.create import create_model
from ppcls_lite.optim.layer_decay import levels
from ppcls_lite.optim.optimizers import AdamW

RUNS = {  # where the number of stages from a layer to the last changes
    "PPLCNet_x0_25": {"conv1": 5, "blocks2": 5, "blocks3": 4, "blocks6": 1, "last_conv": 0},
    "FasterNet_T0": {"patch_embed": 4, "stages.0": 4, "stages.1": 3, "stages.6": 1, "head": 0},
    "MobileNetV4_conv_small": {"conv_stem": 4, "blocks.1.": 4, "blocks.2.": 3, "conv_head": 0},
    "deeplabv3p_PPLCNet_x0_25": {"backbone.conv1": 5, "backbone.blocks6": 1, "head": 0},
}


@pytest.mark.parametrize("name", RUNS)
def test_stages_are_counted_from_the_last(name: str) -> None:
    found = levels(create_model(name))
    for start, below in RUNS[name].items():
        own = {count for key, count in found.items() if key.startswith(start)}
        assert own == {below}, start


def test_rates_follow() -> None:
    network = create_model("PPLCNet_x0_25", lr_mult_list=[0.1, 1, 1, 1, 1, 1])
    tree = {"AdamW": {"lr": 0.1, "layer_decay": 0.5, "lr_mult": {"fc": 3.0}}}
    tree["AdamW"]["lr"] = {"learning_rate": 0.1}
    description = build(tree, "optimizer", epochs=1, step_each_epoch=1)
    assert description.layer_decay == 0.5
    description.build(network)
    rates = {n: p.optimize_attr["learning_rate"] for n, p in network.named_parameters()}
    assert rates["conv1.conv.weight"] == pytest.approx(0.1 * 0.5**5)
    assert rates["blocks6.1.pw_conv.bn.bias"] == 0.5
    assert rates["last_conv.weight"] == 1 and rates["fc.weight"] == 3


def test_a_network_without_stages_is_refused() -> None:
    with pytest.raises(UserError, match="layer_decay: the network has no stages"):
        AdamW(lambda step: 0.1, layer_decay=0.5).build(nn.Linear(2, 2))
