"""The networks of a recipe with their weights: one from `Arch`, or those of a DistillationModel.

Training a DistillationModel builds all its networks and couples them (`build_task`); evaluation,
prediction and export build the student alone. Read before: start.py. Read next: engine/tasks.py,
distill/distillation_model.py.
"""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Sequence
from pathlib import Path

import paddle
from paddle import nn

from ppcls_lite import kernels
from ppcls_lite.config.complete import Tree, plain_copy
from ppcls_lite.config.image_size import component_at
from ppcls_lite.config.node import Inside
from ppcls_lite.config.schema import DISTILLATION_MODEL
from ppcls_lite.config.settings import RecipeSettings
from ppcls_lite.distill.distillation_model import DistillationModel, Member
from ppcls_lite.engine import checkpoint
from ppcls_lite.engine.distributed import World
from ppcls_lite.engine.sync_norm import synchronized
from ppcls_lite.engine.tasks import Distilled, Supervised
from ppcls_lite.errors import UserError
from ppcls_lite.losses.base import CombinedLoss
from ppcls_lite.models.create import load_inside
from ppcls_lite.models.network import Network
from ppcls_lite.models.weights.load import Taken, load_weights
from ppcls_lite.models.weights.pretrained import weights_file

logger = logging.getLogger("ppcls_lite")


def distillation_of(settings: RecipeSettings) -> DistillationModel | None:
    """The description of the networks, if the recipe has several."""
    return settings.Arch.build() if settings.Arch.entry.name == DISTILLATION_MODEL else None


def shipped(settings: RecipeSettings) -> Member:
    """The network that is saved, evaluated and exported: `Arch`, or a distillation's student."""
    distillation = distillation_of(settings)
    if distillation:
        return distillation.student
    arch = settings.Arch
    return Member(arch.entry.name, arch, "Arch", False, arch.extras.pretrained)


def build_model(settings: RecipeSettings, training: bool = False) -> Network:
    """The network that ships, with its weights: `Global.pretrained_model`, `pretrained`, or random.

    A training from `pretrained` may have other classes: a classifier that differs is left random,
    and the log says so. `Global.pretrained_model` has to fit unless `Global.replace_head` is set.
    With `Global.checkpoints` the trainer loads the state later.
    """
    member = shipped(settings)
    own = given_weights(settings)
    model = member.node.build(None if own else _inside(settings, member))
    if not training:
        model.clear_taps()  # its features are for training
    if own:
        keep = training and settings.Arch.extras.keep_classes
        replace = training and (settings.Global.replace_head or keep)
        load_weights(model, own, replace, member.name, taken_of(settings), keep)
    else:
        _load_pretrained(settings, model, member, replace_head=training)
    if training:
        freeze(model, settings.Arch.extras.freeze or ())
    return model


def _adopt(settings: RecipeSettings, model: nn.Layer) -> nn.Layer:
    """A network that the caller has built, with its weights.

    Raises UserError unless its layers are those that the recipe describes.
    """
    member = shipped(settings)
    if settings.Global.pretrained_model:
        raise UserError(
            "train(model=...) has its weights, and Global.pretrained_model names others: leave one "
            "of the two out"
        )
    if not isinstance(model, nn.Layer):
        raise UserError(f"train(model=...): expected a network, found {type(model).__name__}")
    wanted = {name: list(t.shape) for name, t in member.node.build().state_dict().items()}
    found = {name: list(t.shape) for name, t in model.state_dict().items()}
    other = [n for n in {**wanted, **found} if wanted.get(n) != found.get(n)]
    if other:
        one = other[0]
        raise UserError(
            f"train(model=...): {len(other)} arrays are not as in {member.path} "
            f"({member.node.entry.name}): {one} is {found.get(one, 'missing')} in the network, "
            f"{wanted.get(one, 'missing')} in the recipe. Let the recipe describe this network, or "
            "give it as many classes with model.reset_classifier(class_num)"
        )
    freeze(model, settings.Arch.extras.freeze or ())
    return model


def freeze(model: nn.Layer, patterns: Sequence[str]) -> None:
    """Let the parameters whose names fit shell patterns not learn.

    A pattern without a wildcard is a layer, with all that is inside. Raises UserError for one that
    fits nothing.
    """
    named = dict(model.named_parameters())
    frozen = set()
    for pattern in patterns:
        inside = [n for n in named if n == pattern or n.startswith(f"{pattern}.")]
        found = inside or [n for n in named if fnmatch.fnmatchcase(n, pattern)]
        if not found:
            raise UserError(
                f"Arch.freeze: no layer is called {pattern!r}; there are "
                f"{', '.join(name for name, _ in model.named_children())}"
            )
        frozen.update(found)
    for name in frozen:
        named[name].stop_gradient = True
    if frozen:
        count = sum(named[name].size for name in frozen)
        logger.info(f"frozen: {len(frozen)} of {len(named)} arrays, {count:,} numbers")


def build_task(
    settings: RecipeSettings, loss: CombinedLoss, world: World, given: nn.Layer | None = None
) -> Supervised:
    """What is trained: the network, or student and teachers, alike on all ranks.

    given: the network that ships, instead of one that is built.
    """
    model = build_model(settings, training=True) if given is None else _adopt(settings, given)
    model = _synchronized(settings, model, shipped(settings), world)
    task = coupled(settings, model, loss, world)
    task.still_statistics = settings.Global.freeze_statistics
    world.share(task.trained)
    return task


def coupled(
    settings: RecipeSettings, model: nn.Layer, loss: CombinedLoss, world: World
) -> Supervised:
    """A task in which `model` is the network that ships, with the recipe's others beside it."""
    distillation = distillation_of(settings)
    if distillation is None:
        return Supervised(model, loss)
    networks = {}
    for member in distillation.members:
        own = member.name == distillation.student.name
        networks[member.name] = model if own else _other_network(settings, member, world)
    frozen = [member.name for member in distillation.members if member.frozen]
    logger.info(_summary(distillation, networks))
    return Distilled(networks, loss, distillation.student.name, frozen)


def with_shipped(tree: Tree, member: Member, arch: Tree) -> Tree:
    """A copy of a recipe's tree in which `arch` is what ships, in the place of `member`."""
    tree = plain_copy(tree)
    own = component_at(tree, member.path)
    own.clear()
    own |= arch
    if files := tree["Arch"].get("pretrained_list"):
        names = [name for model in tree["Arch"]["models"] for name in model]
        files[names.index(member.name)] = None  # `arch` has its own
    return tree


def task_to_score(settings: RecipeSettings) -> Supervised:
    """What is evaluated without training: the network that ships."""
    model = build_model(settings)
    kernels.prepare_to_score(model, settings.Global.cpu_kernels, paddle.get_device())
    if distillation_of(settings) is None:
        return Supervised(model, None)
    student = shipped(settings).name
    return Distilled({student: model}, None, student)


def _other_network(settings: RecipeSettings, member: Member, world: World) -> nn.Layer:
    """A teacher, or a network that learns together with the student."""
    network = member.node.build(_inside(settings, member))
    parameters = network.parameters()
    if not member.frozen:
        if not parameters:
            raise UserError(
                f"{member.path}: {member.node.entry.name} has nothing to train; set its entry in "
                "Arch.freeze_params_list to true"
            )
        _load_pretrained(settings, network, member, replace_head=True)
        return _synchronized(settings, network, member, world)
    if parameters and not member.pretrained:
        raise UserError(
            f"{member.path}: this teacher is frozen and has no weights, so it would teach noise. "
            f"Give them with -o {member.path}.pretrained=PATH (true: the official ImageNet weights)"
        )
    if parameters:
        load_weights(network, weights_of(member), member=member.name)
    network.eval()
    return network


def _load_pretrained(
    settings: RecipeSettings, model: nn.Layer, member: Member, replace_head: bool
) -> None:
    if member.pretrained and not _resumed(settings):
        keep = replace_head and settings.Arch.extras.keep_classes
        load_weights(model, weights_of(member), replace_head, member.name, keep_classes=keep)


def _resumed(settings: RecipeSettings) -> bool:
    return settings.Global.checkpoints not in (None, "", checkpoint.AUTO)


def _inside(settings: RecipeSettings, member: Member) -> Inside | None:
    """`load_inside`; None where weights of the whole network follow."""
    return None if member.pretrained or _resumed(settings) else load_inside


def given_weights(settings: RecipeSettings) -> str | Path | None:
    """The file that `Global.pretrained_model` names, fetched where it is an address."""
    given = settings.Global.pretrained_model
    return weights_file("", given) if given else None


def taken_of(settings: RecipeSettings) -> Taken:
    """What is taken of the file that `Global.pretrained_model` names."""
    return Taken(settings.Global.weights_prefix, settings.Global.ignore_extra_weights)


def weights_of(member: Member) -> str | Path:
    """The file that a member's `pretrained` names."""
    try:
        entry, extras = member.node.entry, member.node.extras
        return weights_file(entry.name, member.pretrained, extras.use_ssld)
    except UserError as error:
        raise UserError(f"{member.path}.pretrained: {error}") from None


def _synchronized(
    settings: RecipeSettings, model: nn.Layer, member: Member, world: World
) -> nn.Layer:
    """`model` with batch normalisation over all ranks' images, where `use_sync_bn` asks so."""
    wanted = settings.Arch.extras.use_sync_bn or member.node.extras.use_sync_bn
    if not wanted or world.size == 1:
        return model
    if not paddle.get_device().startswith("gpu"):
        logger.info(
            f"Arch.use_sync_bn: batch normalisation over the images of all {world.size} processes; "
            "on CPUs it takes further messages and Paddle's operators, false is faster"
        )
        return synchronized(model, world)
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)


def _summary(distillation: DistillationModel, networks: dict[str, nn.Layer]) -> str:
    parts = [
        f"{member.name} {member.node.entry.name} ({'frozen' if member.frozen else 'trained'}"
        f"{', ships' if member is distillation.student else ''})"
        for member in distillation.members
    ]
    return f"networks: {', '.join(parts)}"
