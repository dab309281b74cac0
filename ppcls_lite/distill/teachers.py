"""Frozen teachers meet the training: the data's normalisation, their engine, the cache of logits.

Read before: ../recipe/networks.py (how they are built). Read next: teacher_engine.py,
teacher_cache.py.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from paddle import nn

from ppcls_lite.config.node import Node
from ppcls_lite.config.registry import REQUIRED
from ppcls_lite.config.settings import RecipeSettings
from ppcls_lite.data.transforms.normalize import NormalizeImage, Normalizer
from ppcls_lite.distill.teacher_cache import TeacherCache, open_cache
from ppcls_lite.distill.teacher_engine import engine_teachers
from ppcls_lite.engine.distributed import World
from ppcls_lite.engine.tasks import Distilled
from ppcls_lite.errors import ConfigError, UserError

logger = logging.getLogger("ppcls_lite")


def fix_views(settings: RecipeSettings, dataset: Any) -> None:
    """With `Global.teacher_cache`, let the epochs take turns among its views.

    Called before the loader is made. ConfigError where teachers see more than image and view.
    """
    run, section = settings.Global, settings.DataLoader.Train
    if not run.teacher_cache:
        return
    where = "Global.teacher_cache: "
    if settings.Arch.entry.name != "DistillationModel":
        raise ConfigError(f"{where}there is no teacher; Arch.name is {settings.Arch.entry.name}")
    if section.dataset.extras.batch_transform_ops:
        raise ConfigError(
            f"{where}DataLoader.Train.dataset.batch_transform_ops mix each image with others, so "
            "its logits cannot be kept: remove one of the two"
        )
    if section.sampler.entry.load().changes_size:
        raise ConfigError(
            f"{where}{section.sampler.entry.name} shows an image in changing sizes, so its logits "
            "cannot be kept: use DistributedBatchSampler, or remove teacher_cache"
        )
    if section.sampler.entry.load().copies:
        raise ConfigError(
            f"{where}{section.sampler.entry.name} shows an image in several ways in an epoch, of "
            "which only one could be kept: use DistributedBatchSampler, or remove teacher_cache"
        )
    dataset.fix_views(run.teacher_cache_views)


def prepare_teachers(
    settings: RecipeSettings,
    task: Any,
    dataset: Any,
    world: World,
    class_names: Sequence[str] | None = None,
    images: int = 0,
) -> TeacherCache | None:
    """Tell teachers from files how images are normalised; give the task its cache, if it has one.

    class_names: the recipe's, in the order of the ids; those of a teacher's folder must be theirs.
    images: how many this process shows to teachers in the whole run.
    The caller flushes the cache that is returned when the training ends.
    """
    if not isinstance(task, Distilled):
        return None
    for network in task.frozen.values():
        if network.from_file:
            own = task.model.class_num
            if network.class_num != own:
                raise UserError(
                    f"{network.path}: gives {network.class_num} classes, the student {own}; a "
                    "teacher has to know the student's classes"
                )
            _require_same_names(network, class_names)
            logger.info(network.expect(normalizer_of(dataset)))
    task.teacher_runs |= engine_teachers(settings.Arch.build(), task.frozen, images)
    run = settings.Global
    if not run.teacher_cache:
        return None
    if not task.frozen:
        raise ConfigError(
            "Global.teacher_cache: no network is frozen (Arch.freeze_params_list), so the logits "
            "change in every step: remove teacher_cache"
        )
    hosts = set(world.gather(socket.gethostname()))
    if len(hosts) > 1:
        raise UserError(
            f"Global.teacher_cache: the processes of one machine can share a cache, but this run "
            f"has {len(hosts)} ({', '.join(sorted(hosts))}): remove teacher_cache"
        )
    parts = world.from_main(lambda: _parts(settings, task, dataset))
    classes = {name: network.class_num for name, network in task.frozen.items()}
    sizes = (run.teacher_cache_views, len(dataset.paths), classes, parts)
    world.from_main(lambda: open_cache(Path(run.teacher_cache), *sizes).share)  # makes the files
    cache = open_cache(Path(run.teacher_cache), *sizes)
    logger.info(
        f"teacher cache {run.teacher_cache}: {cache.share:.1%} filled; epochs take turns among "
        f"{run.teacher_cache_views} augmentations of each image"
    )
    task.teacher_outputs = lambda batch: cache.outputs(batch, task.run_teachers)
    return cache


def _require_same_names(network: Any, names: Sequence[str] | None) -> None:
    """Raise UserError where a teacher's folder has the recipe's class names in another order.

    Names that are others altogether may be another spelling: they are worth a warning.
    """
    theirs, ours = network.class_names or [], [str(name) for name in names or ()]
    different = [i for i, pair in enumerate(zip(theirs, ours)) if pair[0] != pair[1]]
    if not different:
        return
    first = different[0]
    found = (
        f"{network.path}: {len(different)} classes have other names than in the recipe "
        f"(Infer.PostProcess.class_id_map_file), the first is {first}: {theirs[first]!r} there, "
        f"{ours[first]!r} here"
    )
    if sorted(theirs) == sorted(ours):
        raise UserError(f"{found}. The names are the same in another order: correct one of them")
    logger.warning(found)


def normalizer_of(dataset: Any) -> Normalizer | None:
    """How the images of a data set are normalised, wherever in its transforms that happens."""
    ops = [op for op in dataset.transforms.ops if isinstance(op, NormalizeImage)]
    return ops[-1].normalizer if ops else None


def weights_checksum(network: nn.Layer) -> str:
    """SHA-256 of a network's weights and statistics, or of the file that it runs."""
    if network.from_file:
        return network.checksum()
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        array = np.ascontiguousarray(tensor.astype("float32").numpy())
        digest.update(f"{name} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _parts(settings: RecipeSettings, task: Distilled, dataset: Any) -> dict[str, str]:
    """What the logits of a view depend on.

    An image that changes under its name and keeps its size in bytes goes unnoticed.
    """
    images = hashlib.sha256()
    for path in dataset.paths:
        images.update(f"{path}\0{_bytes_of(path)}\n".encode("utf-8", "surrogateescape"))
    chain = _plain(settings.DataLoader.Train.dataset.arguments.get("transform_ops"))
    text = json.dumps(chain, sort_keys=True)
    amp = settings.AMP
    precision = f"{amp.level} {amp.dtype}" if amp and amp.use_amp else "float32"
    networks = settings.Arch.build()
    if networks.teacher_precision != "fp32":
        precision += f", teachers {networks.teacher_precision}"
    nodes = {member.name: member.node for member in networks.members}
    parts = {}
    for name, network in task.frozen.items():
        parts[f"network of {name}"] = nodes[name].entry.name
        parts[f"weights of {name}"] = weights_checksum(network)
        own = network.reading() if network.from_file else _arguments(nodes[name])
        parts |= {f"{key} of {name}": value for key, value in own.items()}
    return parts | {
        "list of images": images.hexdigest(),
        "transforms": hashlib.sha256(text.encode()).hexdigest(),
        "seed": str(dataset.seed),
        "precision": precision,
    }


def _bytes_of(path: str) -> int:
    """The size of a file; -1 where there is none: it is among the unreadable images then."""
    try:
        return os.stat(path).st_size  # noqa: PTH116
    except OSError:
        return -1


def _arguments(node: Node) -> dict[str, str]:
    """All arguments of a network, those that the recipe leaves out too; each as a text."""
    values = {a.name: node.get(a.name) for a in node.entry.arguments if a.default is not REQUIRED}
    return {
        name: json.dumps(_plain(value), sort_keys=True, default=str)
        for name, value in {**values, **node.entry.fixed, **node.arguments}.items()
    }


def _plain(value: Any) -> Any:
    """Checked components as lists and maps."""
    if isinstance(value, Node):
        return {value.entry.name: _plain(dict(value.arguments))}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
