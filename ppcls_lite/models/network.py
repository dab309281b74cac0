"""The contract of every network that a recipe trains and ships, whatever it answers.

A trunk inside a network is an argument of the type `TrunkSpec`: a network of the zoo without its
classifier, built and with its weights. Read next: backbone.py (networks that end in a classifier).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from paddle import Tensor, nn

from ppcls_lite.errors import UserError
from ppcls_lite.models.map_program import maps_of


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

    def __new__(cls, *args: Any, **kwargs: Any) -> Network:
        network = super().__new__(cls)
        vars(network)["_made_of"] = args, kwargs
        return network

    def deployed(self, x: Tensor) -> list[Tensor]:
        """Images (N, 3, H, W) -> a tensor (N, ...) for each name of `outputs`: what is exported."""
        return [self(x)]

    def raw(self, x: Tensor) -> list[Tensor]:
        """Images (N, 3, H, W) -> what leaves the last layers, for each name of `raw_outputs`."""
        raise NotImplementedError

    def evidence(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]] | None:
        """Images (N, 3, H, W) -> the last feature (N, C, h, w), and what makes logits of it.

        For class_map.py; None: the network has no such place.
        """
        return None

    def maps(self, x: Tensor) -> Tensor | None:
        """Images (N, 3, H, W) -> where each class is found, (N, classes, h, w): map_program.py.

        None: the network has no last feature of places.
        """
        found = self.evidence(x)
        return None if found is None or found[0].ndim != 4 else maps_of(*found)

    @classmethod
    def classes_in(cls, state: Mapping[str, Any]) -> int | None:
        """How many classes a file of weights knows; None if it does not say."""
        bias = state.get(f"{cls.head_layers[-1]}.bias") if cls.head_layers else None
        return None if bias is None else len(bias)

    def reset_classifier(self, class_num: int) -> None:
        """Give the network `class_num` classes, in place; 0 leaves the trunk alone.

        What depends on the class count gets random weights, everything else keeps its own. An
        optimizer is to be made afterwards. Raises UserError for a network without classes.
        """
        args, kwargs = self._made_of
        given = inspect.signature(type(self)).bind(*args, **kwargs).arguments
        if "class_num" not in inspect.signature(type(self)).parameters:
            raise UserError(f"{type(self).__name__} has no argument class_num: it has no classes")
        if type(class_num) is not int or class_num < 0:
            raise UserError(f"reset_classifier: expected a number of classes, found {class_num!r}")
        given = {**given, "class_num": class_num}
        twin = type(self)(**given)
        own = self.state_dict()
        for name, tensor in twin.state_dict().items():
            if name in own and own[name].shape == tensor.shape:
                tensor.set_value(own[name])
        known = [name for name, _ in self.named_children()]
        more = [name for name, _ in twin.named_children() if name not in known]
        for path in (*self.head_layers, *more):
            _move(path, twin, self)
        self.class_num, self._made_of = class_num, ((), given)
        if not self.training:
            self.eval()

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


def _move(path: str, source: nn.Layer, target: nn.Layer) -> None:
    """Put the layer `path` (a.b.c) of `source` into `target`; take it away if there is none."""
    *way, name = path.split(".")
    for part in way:
        source, target = getattr(source, part), getattr(target, part)
    layer = getattr(source, name, None)
    if layer is not None:
        setattr(target, name, layer)
    elif hasattr(target, name):
        delattr(target, name)
