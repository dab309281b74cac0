"""The contract of every network that a recipe trains and ships, whatever it answers.

A trunk inside a network is an argument of the type `TrunkSpec`: a network of the zoo without its
classifier, built and with its weights. Read next: backbone.py (networks that end in a classifier).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paddle import Tensor, nn


class Network(nn.Layer):
    """Base class of the registered models."""

    outputs: tuple[str, ...] = ("logits",)  # the names of what `deployed` and an export give
    # The names of what `raw` gives, for devices that decode by themselves; none: it is not offered.
    raw_outputs: tuple[str, ...] = ()
    head_layers: tuple[str, ...] = ()  # depend on the class count; a file may have others
    class_num: int = 0  # classes of these; 0 where there are none
    channels: tuple[int, ...] = ()  # of the outputs of its stages, where it can be a trunk
    stride_layers: tuple[str, ...] = ()  # whose strides its argument `stride_list` states
    from_file: bool = False  # runs a file, which says itself how images are normalised (`expect`)

    def deployed(self, x: Tensor) -> list[Tensor]:
        """Images (N, 3, H, W) -> a tensor (N, ...) for each name of `outputs`: what is exported."""
        return [self(x)]

    def raw(self, x: Tensor) -> list[Tensor]:
        """Images (N, 3, H, W) -> what leaves the last layers, for each name of `raw_outputs`."""
        raise NotImplementedError

    @classmethod
    def classes_in(cls, state: Mapping[str, Any]) -> int | None:
        """How many classes a file of weights knows; None if it does not say."""
        bias = state.get(f"{cls.head_layers[-1]}.bias") if cls.head_layers else None
        return None if bias is None else len(bias)

    def own_state(self, state: Mapping[str, Any]) -> Mapping[str, Any]:
        """The entries of a file of weights under this network's names.

        Overridden where other toolkits name them otherwise, or keep more than is of use.
        """
        return state

    def reparameterize(self) -> int:
        """Merge parallel branches into single convolutions for inference, in place.

        Returns how many places were merged: those of the networks inside this one, 0 without any.
        """
        inside = [layer for layer in self.sublayers() if isinstance(layer, Network)]
        return sum(network.reparameterize() for network in inside)

    def unmerged(self, state: Mapping[str, Any]) -> Mapping[str, Any]:
        """Weights for this network, not merged, that compute what `state` does after the merge.

        Overridden with `reparameterize`; what branches cannot be told apart starts at nothing.
        """
        return state

    def clear_taps(self) -> None:
        """Forget what only a training asks of `forward` (done before an export)."""
