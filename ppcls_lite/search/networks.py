"""From a candidate to the recipe's network: the arguments of `Arch`, and the built network."""

from __future__ import annotations

from typing import Any

import paddle
from paddle import nn

from ppcls_lite import kernels
from ppcls_lite.config.check import checked
from ppcls_lite.config.complete import Recipe, Tree, plain_copy
from ppcls_lite.config.image_size import component_at
from ppcls_lite.config.node import Node
from ppcls_lite.errors import ConfigError, UserError
from ppcls_lite.recipe.networks import shipped, with_shipped
from ppcls_lite.search.space import SIZE, Candidate, Piece, Shape, Space, digest, size_of

_DROPPED = ("name", "scale", "pretrained", "use_ssld")  # of the recipe's Arch


def trainable(model: nn.Layer) -> int:
    """How many numbers a network learns."""
    return sum(p.size for p in model.parameters() if not p.stop_gradient)


class Networks:
    """Makes the networks of a space's candidates with the recipe's other arguments.

    They take the place of the network that ships: of `Arch`, or of a distillation's student.

    shape: (C, H, W) of the recipe's images.
    """

    def __init__(self, recipe: Recipe, space: Space, shape: Shape) -> None:
        settings = recipe.settings
        self.member = shipped(settings)
        entry, own = self.member.node.entry, dict(self.member.node.arguments)
        if space.network not in (entry.name, entry.class_name):
            raise ConfigError(
                f"{self.member.path}.name: is {entry.name}, but {type(space).__name__} has "
                f"networks of the family {space.network}; name {space.network}, or another "
                "Search.space"
            )
        written = component_at(plain_copy(recipe.tree), self.member.path)
        stated = {k: v for k, v in written.items() if k in own and k not in _DROPPED}
        chosen = space.arch(space.smallest())
        self.arguments = {k: v for k, v in stated.items() if k not in chosen}
        if own.get("class_num") is not None:
            self.arguments["class_num"] = own["class_num"]
        self.space, self.shape = space, shape
        self.plugins = settings.Global.plugins
        first = self.build(space.smallest())
        run, device = settings.Global, paddle.get_device()
        self._native = kernels.prepare(first, run.cpu_kernels, device, run.cpu_kernels_dtype)

    def arch(self, candidate: Candidate) -> Tree:
        """`Arch` of a recipe for the candidate."""
        return {"name": self.space.network, **self.arguments, **self.space.arch(candidate)}

    def node(self, candidate: Candidate) -> Node:
        return checked(self.arch(candidate), "model", self.plugins)

    def build(self, candidate: Candidate) -> nn.Layer:
        """The network, with random weights."""
        with paddle.utils.unique_name.guard():
            return self.node(candidate).build()

    def build_to_train(self, candidate: Candidate) -> nn.Layer:
        """The same with the CPU kernels, as the recipe wants them."""
        model = self.build(candidate)
        if self._native is not None:
            kernels.convert(model, self._native)
        return model

    def parameters(self, candidate: Candidate) -> int:
        """How many trainable numbers it has."""
        return trainable(self.build(candidate))

    def pieces(self, candidate: Candidate) -> list[Piece]:
        """What the candidate's estimate is the sum of; nothing where it has to be measured."""
        shape = size_of(candidate, self.shape)
        return self.space.pieces(candidate, shape, self.arguments)

    def whole(self, candidate: Candidate) -> Piece:
        """The candidate as a piece of its own."""
        shape = size_of(candidate, self.shape)
        size = "x".join(map(str, shape))
        name = f"{self.space.network} {digest({'arch': self.arch(candidate)})} at {size}"
        return Piece(name, shape, lambda: self.build(candidate), feature=False)

    def named(self, name: str) -> Piece:
        """A network that has a name, with those of the recipe's arguments that it knows.

        Components (a head, a neck) are its own. Raises UserError for a name that no network has.
        """
        try:
            entry = checked({"name": name}, "model", self.plugins).entry
            known = {argument.name for argument in entry.arguments} - {*entry.fixed}
            own = {k: v for k, v in self.arguments.items() if not isinstance(v, dict)}
            given = {key: value for key, value in own.items() if key in known}
            node = checked({"name": name, **given}, "model", self.plugins)
        except ConfigError as error:
            raise UserError(f"--latency: {error}") from None
        return Piece(name, self.shape, node.build, feature=False)

    def recipe(self, tree: Tree, candidate: Candidate, weights: str | None) -> Tree:
        """`tree` as a recipe that trains the candidate from `weights`."""
        arch: dict[str, Any] = self.arch(candidate)
        if weights:
            arch["pretrained"] = weights
        tree = with_shipped(tree, self.member, arch)
        tree.pop("Search", None)
        if candidate.get(SIZE) is not None:
            tree.setdefault("Global", {})["image_size"] = candidate[SIZE]
        return tree
