"""The contract of the zoo: stages on request, a head that can be left out, flat state keys.

Trunk and classifier live in one Layer, so that the state dict keeps the official names;
`class_num=0` builds the trunk alone for detection and segmentation heads, which take
`forward_stages` and read `channels` and `strides`. Read next: pplcnet.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Mapping
from typing import Any, Literal

from paddle import Tensor, nn

from ppcls_lite.errors import UserError
from ppcls_lite.models.layers import activation
from ppcls_lite.models.network import Network
from ppcls_lite.models.weights import torch_names


class Backbone(Network):
    """Base class of the zoo.

    `head_layers` are absent with `class_num=0`.
    """

    strides: tuple[int | tuple[int, int], ...] = (4, 8, 16, 32)  # of its stages, or (h, w)
    stage_names: tuple[str, ...] = ()  # sublayers that PaddleClas calls stages (`return_stages`)
    head_layers: tuple[str, ...] = ("fc",)

    def __init__(self, class_num: int) -> None:
        super().__init__()
        self.class_num = class_num
        self._taps: list = []
        self._tapped: dict[str, Tensor] = {}

    def forward_stages(self, x: Tensor) -> list[Tensor]:
        """Images (N, 3, H, W) -> features [(N, channels[i], H / strides[i], W / strides[i])]."""
        raise NotImplementedError

    def outputs_at(
        self, ends: Container[int], layers: Iterable[nn.Layer], x: Tensor
    ) -> list[Tensor]:
        """Run `layers`, as `InOrder` does; the outputs of those at the places `ends`."""
        outputs = []
        for i, layer in enumerate(layers):
            x = layer(x)
            if i in ends:
                outputs.append(x)
        return outputs

    def forward_head(self, feature: Tensor) -> Tensor:
        """Last feature (N, channels[-1], h, w) -> logits (N, class_num)."""
        return self.fc(self.avg_pool(feature).flatten(1))

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        """Images (N, 3, H, W) -> logits (N, class_num); the last feature when `class_num` is 0.

        After `tap`, a dict: `logits` and one entry for each tapped sublayer.
        """
        feature = self.forward_stages(x)[-1]
        output = self.forward_head(feature) if self.class_num else feature
        if not self._taps:
            return output
        tapped, self._tapped = self._tapped, {}
        return {"logits": output, **tapped}

    def evidence(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]] | None:
        return (self.forward_stages(x)[-1], self.forward_head) if self.class_num else None

    def own_state(self, state: Mapping[str, Any]) -> Mapping[str, Any]:
        return torch_names.to_ours(self, state) if torch_names.of_torch(state) else state

    def deployed(self, x: Tensor) -> list[Tensor]:
        output = self(x)
        return [output["logits"] if self._taps else output]

    def tap(
        self, patterns: list[str] | None = None, stages: bool | list[int] | None = None
    ) -> None:
        """Make `forward` return the outputs of named sublayers too (PaddleClas's `return_*`).

        patterns: sublayer paths, `blocks3` or `blocks[5]`. stages: `True` for all of
        `stage_names`, or indices into them; used when `patterns` is not given.
        Raises `UserError` for a name or an index that the network does not have.
        """
        if patterns is None and stages:
            indices = range(len(self.stage_names)) if stages is True else stages
            if not all(0 <= i < len(self.stage_names) for i in indices):
                raise UserError(
                    f"return_stages: {type(self).__name__} has the stages "
                    f"0..{len(self.stage_names) - 1}, got {list(indices)}"
                )
            patterns = [self.stage_names[i] for i in indices]
        sublayers = dict(self.named_sublayers())
        for name in patterns or []:
            path = re.sub(r"\[(\d+)\]", r".\1", name)
            if path not in sublayers:
                raise UserError(
                    f"return_patterns: {type(self).__name__} has no sublayer {name!r}; "
                    f"it has {', '.join(n for n, _ in self.named_children())}"
                )

            def keep(layer: nn.Layer, inputs: tuple, output: Tensor, name: str = name) -> None:
                self._tapped[name] = output

            self._taps.append(sublayers[path].register_forward_post_hook(keep))

    def clear_taps(self) -> None:
        """Undo `tap`: `forward` returns the logits alone again (done before an export)."""
        for tap in self._taps:
            tap.remove()
        self._taps, self._tapped = [], {}


class ExpandHeadBackbone(Backbone):
    """A network whose head widens the pooled feature by a 1x1 convolution before the classifier.

    GAP -> 1x1 conv (no batch norm) -> activation -> dropout -> linear: section 3.4 of PP-LCNet
    (https://arxiv.org/abs/2109.15099), after MobileNetV3. With `use_last_conv=False` the
    classifier follows the pooling directly.
    """

    head_layers = ("last_conv", "fc")

    def _build_head(
        self,
        in_channels: int,
        class_expand: int,
        act: str,
        dropout_prob: float | None,
        use_last_conv: bool = True,
        last_conv_bias: bool = False,
        dropout_mode: Literal["downscale_in_infer", "upscale_in_train"] = "downscale_in_infer",
    ) -> None:
        """last_conv_bias, dropout_mode: other toolkits' weights come with a bias, and were trained
        with the 1 / (1 - p) of the usual dropout."""
        if not self.class_num:
            return
        self.use_last_conv = use_last_conv
        self.avg_pool = nn.AdaptiveAvgPool2D(1)
        if use_last_conv:
            self.last_conv = nn.Conv2D(
                in_channels, class_expand, 1, bias_attr=None if last_conv_bias else False
            )
            self.act = activation(act)
            # The official weights were trained without the 1 / (1 - p) upscale in training, so
            # inference multiplies by (1 - p).
            self.dropout = nn.Dropout(dropout_prob or 0.0, mode=dropout_mode)
        self.fc = nn.Linear(class_expand if use_last_conv else in_channels, self.class_num)

    def forward_head(self, feature: Tensor) -> Tensor:
        x = self.avg_pool(feature)  # (N, C, 1, 1)
        if self.use_last_conv:
            x = self.dropout(self.act(self.last_conv(x)))  # (N, class_expand, 1, 1)
        return self.fc(x.flatten(1))
