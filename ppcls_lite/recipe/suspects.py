"""`suspects`: images whose labels are likely wrong, to look at; and new lists by what was decided.

Read before: ../data/label_suspects.py, check.py.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import paddle

from ppcls_lite.config.complete import Recipe
from ppcls_lite.config.file import is_file, load_config
from ppcls_lite.data.dataset_base import ImageDataset
from ppcls_lite.data.datasets import ImageNetDataset
from ppcls_lite.data.label_suspects import FOLDS, Suspects, out_of_fold, suspects
from ppcls_lite.data.patch_features import patch_features, small_picture
from ppcls_lite.data.prepare.next_step import NextStep
from ppcls_lite.data.prepare.recognise import recognise
from ppcls_lite.data.prepare.split import stratified_split
from ppcls_lite.data.transforms.compose import Compose
from ppcls_lite.data.transforms.crop import CropImage
from ppcls_lite.data.transforms.decode import DecodeImage
from ppcls_lite.data.transforms.normalize import NormalizeImage
from ppcls_lite.data.transforms.resize import ResizeImage
from ppcls_lite.engine import log
from ppcls_lite.errors import ImageError, UserError
from ppcls_lite.models.create import create_model
from ppcls_lite.recipe.check import names_in
from ppcls_lite.recipe.new_lists import common_root, write_beside
from ppcls_lite.report.pictures import write_image
from ppcls_lite.report.sheets import lines, sheet, thumbnail
from ppcls_lite.system.files import atomic_text
from ppcls_lite.system.machine import usable_cores
from ppcls_lite.system.outputs import require_new

COLUMNS = ("file", "labelled", "looks_like", "certainty", "decision")
KEEP, YES, DROP = "keep", "yes", "drop"  # decisions; any other one is the name of a class
SHEET = 48  # pictures
_BATCH = 32


@dataclass
class Labelled:
    """Images with one class each, of all splits. in_val: (n,) whether each is for validation; None
    where there is no split."""

    paths: list[str]
    labels: np.ndarray
    names: list[str]
    in_val: np.ndarray | None
    root: Path
    source: str

    @classmethod
    def of(
        cls, datasets: Mapping[str, ImageDataset], known: Sequence[str] | None = None
    ) -> Labelled:
        """known: the classes' names, where the data sets do not know them.

        Raises UserError for mistakes in the lists, and images without one class each.
        """
        problems = [text for data in datasets.values() for text in data.problems]
        if problems:
            raise UserError("\n  ".join(["mistakes in the data:", *problems]))
        first = next(iter(datasets.values()))
        if any(data.labels is None or data.labels.ndim != 1 for data in datasets.values()):
            raise UserError(
                f"{first.source}: suspects looks for wrong labels of images with one class each"
            )
        labels = np.concatenate([data.labels for data in datasets.values()])
        count = int(labels.max(initial=0)) + 1
        keys = list(known or (first.class_keys if first.class_keys is not None else ()))
        names = [str(keys[i]) if i < len(keys) else str(i) for i in range(max(count, len(keys)))]
        splits = [np.full(len(data), split == "Eval") for split, data in datasets.items()]
        return cls(
            [path for data in datasets.values() for path in data.paths],
            labels,
            names,
            np.concatenate(splits) if "Eval" in datasets else None,
            common_root(datasets.values()),
            first.source,
        )


def labelled(place: str | None, recipe: Recipe | None) -> Labelled:
    """The images of a folder or a list, or of a recipe."""
    if recipe is not None:
        return _of_recipe(recipe)
    if is_file(place):
        return Labelled.of({"Images": ImageNetDataset(str(Path(place).parent), place, [])})
    kind = recognise(place)
    if kind.sets is not None:
        return Labelled.of(kind.sets(place))
    if kind.name != "folder":
        raise UserError(f"{place}: {kind.about}: suspects is for images with one class each")
    step = kind.prepare(place, "", 0.2, 0)
    return _of_recipe(Recipe.of(load_config(step.recipe, step.overrides)))


def _of_recipe(recipe: Recipe) -> Labelled:
    data = recipe.settings.DataLoader
    sections = {"Train": data.Train, "Eval": data.Eval} if data else {}
    found = {split: s.dataset.build(seed=0) for split, s in sections.items() if s is not None}
    if not found:
        raise UserError("DataLoader: is missing; there are no data to look at")
    if {"Train", "Eval"} <= found.keys():
        found["Eval"].number_as(found["Train"])
    return Labelled.of(found, names_in(recipe))


def find(data: Labelled, network: str | None, weights: str | None) -> Suspects:
    """The images in doubt.

    network: of the zoo, whose trunk gives the features, with the weights of a file or the official
    ones; None: features of patches, which no network has to be trained for.
    Raises UserError for too few images, and for weights that are not there.
    """
    counts = np.bincount(data.labels[data.labels >= 0], minlength=len(data.names))
    if (counts >= FOLDS).sum() < 2:
        raise UserError(
            f"{data.source}: two classes of {FOLDS} images or more are needed to compare; found "
            f"{', '.join(f'{n}: {c}' for n, c in zip(data.names[:10], counts))}"
        )
    features, readable = _features(data.paths, network, weights)
    labels = np.where(readable, data.labels, -1)
    return suspects(out_of_fold(features, labels, len(data.names)), labels)


def _features(
    paths: Sequence[str], network: str | None, weights: str | None
) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, d), and which images can be read (n,)."""
    if network is None:
        prepare = Compose([DecodeImage()], to_chw=False)
        read = lambda path: small_picture(prepare({"image": path})["image"])  # noqa: E731
    else:
        if weights is None:
            model = create_model(network, pretrained=True)
        else:
            model = create_model(network, pretrained=weights)
        model.eval()
        steps = [DecodeImage(), ResizeImage(resize_short=256), CropImage(size=224)]
        chain = Compose([*steps, NormalizeImage(order="")])
        read = lambda path: chain({"image": path})["image"]  # noqa: E731

    def tried(path: str) -> np.ndarray | None:
        try:
            return read(path)
        except ImageError:
            return None

    found: list[np.ndarray | None] = []
    with log.bar("images", len(paths)) as bar, ThreadPoolExecutor(usable_cores()) as pool:
        for start in range(0, len(paths), _BATCH):
            batch = list(pool.map(tried, paths[start : start + _BATCH]))
            bar.update(len(batch))
            found += batch if network is None else _trunk(model, batch)
    readable = np.array([item is not None for item in found])
    if not readable.any():
        raise UserError("no image can be read")
    blank = np.zeros_like(found[int(readable.argmax())])
    known = np.stack([blank if item is None else item for item in found])
    return (patch_features(known) if network is None else known), readable


def _trunk(model: paddle.nn.Layer, batch: Sequence[np.ndarray | None]) -> list[np.ndarray | None]:
    """The pooled last feature of each image (3, 224, 224)."""
    there = [i for i, image in enumerate(batch) if image is not None]
    found: list[np.ndarray | None] = [None] * len(batch)
    if there:
        with paddle.no_grad():
            images = paddle.to_tensor(np.stack([batch[i] for i in there]).astype(np.float32))
            pooled = model.forward_stages(images)[-1].mean([2, 3]).numpy()  # (N, channels)
        for i, feature in zip(there, pooled):
            found[i] = feature
    return found


def write(data: Labelled, found: Suspects, folder: Path) -> list[Path]:
    """Write suspects.csv and suspects.png into a new or empty folder."""
    require_new(folder)
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / "suspects.csv"
    with atomic_text(table, newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(COLUMNS)
        for place, other, certainty in zip(found.places, found.looks_like, found.certainty):
            own = data.names[data.labels[place]]
            rows.writerow([data.paths[place], own, data.names[other], f"{certainty:.4f}", ""])
    pictures = []
    for place, text in zip(found.places[:SHEET], in_words(data, found)):
        picture = thumbnail(data.paths[place])
        if picture is not None:
            pictures.append((picture, lines(data.paths[place], text)))
    if not pictures:
        return [table]
    picture = folder / "suspects.png"
    write_image(sheet(pictures), picture)
    return [table, picture]


def in_words(data: Labelled, found: Suspects) -> list[str]:
    """`labelled dog, looks like cat 0.97`, for each image in doubt."""
    return [
        f"labelled {data.names[data.labels[place]]}, looks like {data.names[other]} {certainty:.2f}"
        for place, other, certainty in zip(found.places, found.looks_like, found.certainty)
    ]


def apply(data: Labelled, table: Path, place: Path | None = None) -> tuple[NextStep, str]:
    """New lists by the decisions of a CSV file; the old ones stay.

    A decision is empty or `keep`, `yes` (it is what it looks like), `drop`, or a class's name.
    Raises UserError for a file without these columns, unknown images and decisions.
    """
    numbers = {name: number for number, name in enumerate(data.names)}
    where = {path: i for i, path in enumerate(data.paths)}
    labels, kept = data.labels.copy(), np.ones(len(data.paths), bool)
    problems = []
    for number, row in _rows(table):
        decision = row["decision"].strip()
        named = row["looks_like"] if decision == YES else decision
        i = where.get(row["file"])
        if i is None and decision == DROP:
            continue  # as an earlier list has it
        if i is None:
            problems.append(f"{table}:{number}: {row['file']} is none of the images")
        elif decision in ("", KEEP):
            continue
        elif decision == DROP:
            kept[i] = False
        elif named in numbers:
            labels[i] = numbers[named]
        else:
            problems.append(
                f"{table}:{number}: expected {KEEP}, {YES}, {DROP} or a class, found {decision!r}"
            )
    if problems:
        raise UserError("\n  ".join(["no lists were written:", *problems[:20]]))
    changed, dropped = int((labels != data.labels)[kept].sum()), int((~kept).sum())
    in_val = data.in_val if data.in_val is not None else stratified_split(labels, 0.2, 0)
    root = data.root
    texts = [
        f"{Path(path).relative_to(root).as_posix()} {label}"
        for path, label, keep in zip(data.paths, labels, kept)
        if keep
    ]
    written, step = write_beside(place or root, root, texts, in_val[kept], data.names)
    return step, f"{changed:,} labels changed, {dropped:,} images dropped; wrote {written}"


def _rows(table: Path) -> list[tuple[int, dict[str, str]]]:
    """The rows of a CSV file with their line numbers."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            rows = [(reader.line_num, {k: v or "" for k, v in row.items() if k}) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"--apply {table}: cannot be read: {error}") from error
    if not rows or not {*COLUMNS} <= rows[0][1].keys():
        raise UserError(f"--apply {table}: expected the columns {', '.join(COLUMNS)}, and rows")
    return rows
