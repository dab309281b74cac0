"""From a name to a network, `create_model("PPLCNet_x0_5", class_num=10)`, and what it costs.

Read next: ../config/zoo.py (the names), weights/pretrained.py (where weights come from),
backbone.py (what a network offers).
"""

from __future__ import annotations

import difflib
import fnmatch
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import paddle
from paddle import Tensor, nn

from ppcls_lite.config import registry
from ppcls_lite.config.check import checked
from ppcls_lite.config.node import Node
from ppcls_lite.config.registry import Entry
from ppcls_lite.config.schema import DISTILLATION_MODEL
from ppcls_lite.config.timm import options_for
from ppcls_lite.config.zoo import OVER_TRUNKS, TRUNK, ZOO
from ppcls_lite.errors import UserError
from ppcls_lite.models.network import Network
from ppcls_lite.models.weights.load import load_weights
from ppcls_lite.models.weights.pretrained import weights_file


class Cost(NamedTuple):
    """What a network costs for one image.

    `tool_...` is what `paddle.flops` reports, the convention of the PP-LCNet tables. It adds the
    running statistics of batch normalisation to the parameters, and to the operations the biases
    of convolutions, two for each element of a batch normalisation, and the additions of global
    pooling.
    """

    params: int  # numbers that training changes
    flops: int  # multiply-adds of convolutions and linear layers
    tool_params: int
    tool_flops: int


def list_models(pattern: str = "*") -> list[str]:
    """The names that `create_model` knows, filtered by a shell pattern (`PPLCNet*`)."""
    over = (f"{prefix}_{trunk}" for prefix in OVER_TRUNKS for trunk in ZOO)
    return [name for name in (*ZOO, *over) if fnmatch.fnmatchcase(name, pattern)]


def create_model(
    name: str,
    class_num: int = 1000,
    pretrained: str | Path | bool | None = None,
    use_ssld: bool = False,
    plugins: Sequence[str | Path] = (),
    **args: Any,
) -> Network:
    """Build a network of the zoo, in training mode, with random or given weights.

    name: one of `list_models()`, or a family (`PPLCNet`) with its arguments as `args`.
    plugins: files with networks of one's own.
    class_num: classes; 0 builds the trunk alone (`forward` returns the last feature), which names
    like `PPLCNetV3_det_x0_75` are in any case.
    pretrained: a path with or without `.pdparams`, `True` for the official ImageNet weights
    (`use_ssld`: the distilled ones), or what else `weights_file` understands; timm's choose the
    options that make the network timm's. A classifier of another class count stays random, and the
    log says so.
    Of a network over a trunk, as `deeplabv3p_PPLCNet_x0_5`, arguments that it does not have itself
    are the trunk's (`output_stride`), and so are the weights of `pretrained=True`.

    Raises `UserError` for an unknown name, an unknown argument or weights that do not fit.
    """
    table = registry.entries(plugins)
    entry = registry.find("model", name, table)
    if entry is None:
        known = [*registry.names("model", table), *list_models()]
        hint = _near(name, known) or "list_models() gives all names"
        raise UserError(f"unknown model {name!r}; {hint}")
    if entry.stands_for:
        return _over_trunk(entry, class_num, pretrained, use_ssld, plugins, args)
    if name == DISTILLATION_MODEL:
        raise UserError(f"{name} stands for the several networks of a recipe; name one of them")
    args = options_for(name, pretrained) | args
    if "class_num" in (argument.name for argument in entry.arguments):
        args["class_num"] = class_num
    for argument in entry.arguments:
        if argument.default is registry.REQUIRED and argument.name not in args:
            raise UserError(f"{name} needs the argument {argument.name!r}")
    for key in args:
        if key in entry.fixed:
            raise UserError(
                f"{name} stands for {key}={entry.fixed[key]}; "
                f"use the family {ZOO[name].family!r} to choose {key} freely"
            )
        if key not in (allowed := [a.name for a in entry.arguments]):
            hint = _near(key, allowed) or f"it has {', '.join(allowed)}"
            raise UserError(f"{name} has no argument {key!r}; {hint}")
    model = entry.load()(**entry.fixed, **args)
    if pretrained:
        load_weights(model, weights_file(name, pretrained, use_ssld), replace_head=True)
    return model


def _over_trunk(
    entry: Entry,
    class_num: int,
    pretrained: str | Path | bool | None,
    use_ssld: bool,
    plugins: Sequence[str | Path],
    args: dict[str, Any],
) -> Network:
    own = {argument.name for argument in entry.arguments}
    trunk = args.pop(TRUNK, {}) | {key: args.pop(key) for key in [*args] if key not in own}
    if pretrained is True:
        trunk |= {"pretrained": True, "use_ssld": use_ssld}
    node = checked({"name": entry.name, TRUNK: trunk, **args}, "model", plugins)
    model = node.build(load_inside, class_num=class_num)
    if pretrained and pretrained is not True:
        load_weights(model, pretrained, replace_head=True)
    return model


def load_inside(node: Node, network: Network) -> None:
    """Give a network that stands inside another component the weights of its `pretrained`."""
    if node.entry.kind == "model" and node.extras.pretrained:
        name, extras = node.entry.name, node.extras
        try:
            load_weights(network, weights_file(name, extras.pretrained, extras.use_ssld))
        except UserError as error:
            raise UserError(f"{node.path}.pretrained: {error}") from None


def _near(name: str, known: Sequence[str]) -> str | None:
    near = difflib.get_close_matches(name, known, 1, 0.5)
    return f"did you mean {near[0]!r}?" if near else None


def cost(model: nn.Layer, image_shape: tuple[int, int, int] = (3, 224, 224)) -> Cost:
    """Count parameters and operations for one image of `image_shape` (C, H, W).

    Runs the network once, in eval mode.
    """
    flops = extra = 0

    def count(layer: nn.Layer, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal flops, extra
        if isinstance(layer, nn.Linear):
            flops += output.size * layer.weight.shape[0]  # weight (in, out)
        elif isinstance(layer, nn.Conv2D):
            flops += output.size * math.prod(layer.weight.shape[1:])  # (out, in / groups, kh, kw)
            extra += output.size if layer.bias is not None else 0
        elif isinstance(layer, nn.BatchNorm2D):
            extra += 2 * output.size
        else:
            extra += inputs[0].size + output.size

    counted = nn.Linear | nn.Conv2D | nn.BatchNorm2D | nn.AdaptiveAvgPool2D
    layers = [layer for layer in model.sublayers() if isinstance(layer, counted)]
    hooks = [layer.register_forward_post_hook(count) for layer in layers]
    was_training = model.training
    model.eval()
    with paddle.no_grad():
        model(paddle.zeros([1, *image_shape]))
    if was_training:
        model.train()
    for hook in hooks:
        hook.remove()
    statistics = ("._mean", "._variance")
    sizes = {name: parameter.size for name, parameter in model.named_parameters()}
    params = sum(size for name, size in sizes.items() if not name.endswith(statistics))
    return Cost(params, flops, sum(sizes.values()), flops + extra)
