"""Which images judge the candidates: a part of the training list, never the evaluation's own.

A network that was chosen by the evaluation's images would be scored too well on them. Read next:
run.py.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from ppcls_lite.config.complete import Recipe, Tree, plain_copy
from ppcls_lite.config.image_size import component_at
from ppcls_lite.data.image_list import read_lines
from ppcls_lite.errors import ConfigError, UserError
from ppcls_lite.system.files import write_text

logger = logging.getLogger("ppcls_lite")
_LIST = "cls_label_path"


def split(
    recipe: Recipe, share: float, seed: int, folder: Path, writes: bool = True
) -> tuple[Tree, str]:
    """The recipe's tree with `share` of each class of the training list in `DataLoader.Eval`, and
    which images these are.

    Two lists are written into `folder`. Data sets without a list file are left as they are: then
    the evaluation's images judge, and the log says so.

    Raises UserError where the training list cannot be read or is too short.
    """
    data, tree = recipe.settings.DataLoader, plain_copy(recipe.tree)
    if data.Eval is None:
        raise ConfigError("DataLoader.Eval: is missing; its transforms prepare the judging images")
    source = data.Train.dataset.get(_LIST)
    if source is None or data.Eval.dataset.get(_LIST) is None:
        logger.warning(
            f"search: {data.Train.dataset.entry.name} has no list to hold images out of, so those "
            "of DataLoader.Eval judge the candidates: score the winner on images of its own"
        )
        return tree, "those of DataLoader.Eval: score the winner on images of its own"
    try:
        lines = [line for _, line in read_lines(source)]
    except UserError as error:
        raise UserError(f"{data.Train.dataset.path}.{_LIST}: {error}") from None
    kept, held = _parts(lines, data.Train.dataset.get("delimiter"), share, seed)
    if not kept or not held:
        raise ConfigError(f"{source}: has {len(lines)} images, too few to hold some out")
    paths = {"Train": folder / "train.txt", "Eval": folder / "held_out.txt"}
    if writes:
        folder.mkdir(parents=True, exist_ok=True)
        for path, chosen in zip(paths.values(), (kept, held)):
            write_text(path, "".join(f"{line}\n" for line in chosen))
    root = data.Train.dataset.get("image_root")
    for name, path in paths.items():
        dataset = component_at(tree, getattr(data, name).dataset.path)
        dataset[_LIST], dataset["image_root"] = str(path), root
        if data.Train.dataset.get("delimiter") is not None:
            dataset["delimiter"] = data.Train.dataset.get("delimiter")
    return tree, "held out of the training list, not those of DataLoader.Eval"


def _parts(
    lines: list[str], delimiter: str | None, share: float, seed: int
) -> tuple[list[str], list[str]]:
    """The lines that train and those that judge, in their order; `share` of each label's."""
    groups: dict[str, list[int]] = {}
    for place, line in enumerate(lines):
        groups.setdefault(line.rsplit(delimiter, 1)[-1], []).append(place)
    rng, held = np.random.default_rng(seed), set()
    for places in groups.values():
        count = min(len(places) - 1, max(1, round(share * len(places))))
        held.update(rng.permutation(places)[:count].tolist())
    return (
        [line for place, line in enumerate(lines) if place not in held],
        [line for place, line in enumerate(lines) if place in held],
    )
