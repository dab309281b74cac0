"""`check`: a folder of images, or a recipe and its data, looked through without a training.

The fast parts run before every training (../data/scan.py); here every annotation is read and every
image looked at as well. Read before: parts.py, ../data/scan.py, ../data/image_doctor.py.
Read next: new_lists.py, ../report/samples.py.
"""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ppcls_lite.config.complete import Recipe
from ppcls_lite.config.file import is_file, load_config
from ppcls_lite.data.class_table import ClassTable
from ppcls_lite.data.dataset_base import ImageDataset
from ppcls_lite.data.datasets import ImageNetDataset
from ppcls_lite.data.image_doctor import Examined, Finding, examine, findings, sizes
from ppcls_lite.data.prepare.folders import left_out
from ppcls_lite.data.prepare.next_step import NextStep
from ppcls_lite.data.prepare.recognise import recognise
from ppcls_lite.data.scan import ScanReport, scan
from ppcls_lite.engine import log
from ppcls_lite.errors import ConfigError, joined
from ppcls_lite.recipe.classes import count_classes_in_data
from ppcls_lite.recipe.names import class_num_of, compare_names, labels_of
from ppcls_lite.recipe.parts import seed_of
from ppcls_lite.report.samples import write_samples
from ppcls_lite.system.files import write_text
from ppcls_lite.system.outputs import require_new

_LIMIT = 20_000  # letters of each kind in the report
_WARNING = "warning: "  # how `prepare` begins one
SHARE, SEED = 0.2, 0  # of a split that is made by chance


@dataclass
class Checked:
    """All that was found. warnings and mistakes: texts; the latter stop a training.

    facts: by split; examined: None where no image was looked at. step: writes what a training on
    the data needs beside them into a folder and says how to train; None: there is no recipe.
    folder: that was looked through, if it has no lists of its own.
    """

    datasets: dict[str, ImageDataset]
    table: ClassTable | None
    facts: dict[str, list[str]] = field(default_factory=dict)
    about_recipe: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    mistakes: list[str] = field(default_factory=list)
    examined: Examined | None = None
    findings: list[Finding] = field(default_factory=list)
    step: Callable[[Path], NextStep] | None = None
    folder: Path | None = None

    def as_dict(self) -> dict[str, Any]:
        """For check.json: everything, with the whole lists of images."""
        return {
            "splits": {
                split: {"source": data.source, "images": len(data)}
                for split, data in self.datasets.items()
            },
            "classes": self.table.as_dict() if self.table else None,
            "facts": self.facts,
            "mistakes": self.mistakes,
            "warnings": self.warnings,
            "about_recipe": self.about_recipe,
            "images": [
                {"kind": f.kind, "wrong": f.wrong, "text": f.text, "items": list(f.items)}
                for f in self.findings
            ],
        }

    @property
    def has_classes(self) -> bool:
        """Whether the images that were looked at have one class each."""
        return self.examined is not None and bool((self.examined.labels >= 0).any())

    @property
    def is_wrong(self) -> bool:
        return bool(self.mistakes) or any(finding.wrong for finding in self.findings)

    @property
    def is_clean(self) -> bool:
        return not (self.mistakes or self.warnings or self.findings)


def check_recipe(
    recipe: Recipe, images: int | None, split: bool = True, step: NextStep | None = None
) -> Checked:
    """The data of a recipe.

    images: how many of each split are looked at; 0: none, None: all. split: whether the splits say
    something; else copies in both are none of their faults. step: where the recipe comes from.
    """
    settings = recipe.settings
    if settings.DataLoader is None:
        raise ConfigError("DataLoader: is missing; there are no data to check")
    sections = {"Train": settings.DataLoader.Train, "Eval": settings.DataLoader.Eval}
    context = {"class_num": class_num_of(settings), "seed": seed_of(settings)}
    datasets = {split: s.dataset.build(**context) for split, s in sections.items() if s is not None}
    if "Train" in datasets:
        compare_names(settings, datasets["Train"])
        if "Eval" in datasets:
            datasets["Eval"].number_as(datasets["Train"])
    about = [*recipe.notes, *recipe.warnings]
    made = _look_through(datasets, images, about, split, names_in(recipe))
    made.step = None if step is None else lambda place: step
    return made


def names_in(recipe: Recipe) -> list[str] | None:
    """The classes' names that a recipe states, where they are as many as its data have."""
    try:
        return labels_of(count_classes_in_data(recipe).settings)
    except ConfigError:  # the data do not tell how many there are
        return None


def check_data(place: str, images: int | None) -> Checked:
    """A folder of images, or a list of them. Raises UserError for what is neither."""
    if is_file(place):
        return _look_through(
            {"Images": ImageNetDataset(str(Path(place).parent), place, [])}, images
        )
    kind = recognise(place)
    print(f"{place}: {kind.about}")
    if kind.sets is not None:
        checked = _look_through(kind.sets(place), images)
        for data in checked.datasets.values():
            checked.warnings += _left_out(data)
        return checked
    said = io.StringIO()
    with tempfile.TemporaryDirectory() as room:
        with contextlib.redirect_stdout(said):
            step = kind.prepare(place, room, SHARE, SEED)
        recipe = Recipe.of(load_config(step.recipe, step.overrides))
        checked = check_recipe(recipe, images, step.own_split)
    lines = said.getvalue().splitlines()
    checked.warnings += [s.removeprefix(_WARNING) for s in lines if s.startswith(_WARNING)]
    checked.about_recipe = []
    checked.step = lambda output: kind.prepare(place, str(output), SHARE, SEED)
    checked.folder = None if checked.has_classes else Path(place)
    for split, data in checked.datasets.items():  # the lists are gone
        data.source = data.source if Path(data.source).exists() else f"{place} ({split})"
    return checked


def _left_out(data: ImageDataset) -> list[str]:
    others, loose = left_out(Path(data.source), list(data.class_keys or ()))
    found = []
    if others:
        found.append(f"{data.source}: {others:,} files in the sub-folders are no images we read")
    if loose:
        found.append(f"{data.source}: {loose:,} images lie in no sub-folder, so in no class")
    return found


def _look_through(
    datasets: dict[str, ImageDataset],
    images: int | None,
    about: list[str] | None = None,
    split: bool = True,
    names: Sequence[str] | None = None,
) -> Checked:
    report: ScanReport = scan(datasets, thorough=True)
    made = Checked(datasets, ClassTable.of(datasets, names), report.facts, about or [])
    made.mistakes, made.warnings = report.errors, report.warnings
    if made.table:
        made.warnings += made.table.warnings()
    if images != 0 and not report.errors:
        total = sum(min(len(d), images or len(d)) for d in datasets.values())
        with log.bar("images", total) as bar:
            made.examined = examine(datasets, images, lambda _: bar.update(), names)
        if not split:
            made.examined.splits = ["Images"] * len(made.examined.splits)
        made.findings = findings(made.examined)
    return made


def show(checked: Checked) -> None:
    """Print what is in the data, what looks strange and what is wrong."""
    found = checked.examined
    for split, data in checked.datasets.items():
        count = "" if data.class_num is None else f", {data.class_num:,} classes"
        print(f"{split}: {data.source}: {len(data):,} images{count}")
        for line in checked.facts.get(split, ()):
            print(f"  {line}")
    for split in dict.fromkeys(found.splits) if found else ():
        mine = [look for look, its in zip(found.census.looks, found.splits) if its == split]
        if words := sizes(mine):
            print(f"{split}: {len(mine):,} images looked at: {words}")
    if checked.table:
        print(f"\n{checked.table.counted} by class:")
        for line in checked.table.lines():
            print(f"  {line}")
    warnings = checked.warnings + [str(f) for f in checked.findings if not f.wrong]
    mistakes = checked.mistakes + [str(f) for f in checked.findings if f.wrong]
    kinds = {
        "about the recipe": checked.about_recipe,
        "warnings": warnings,
        "mistakes, which stop a training": mistakes,
    }
    for name, texts in kinds.items():
        if texts:
            print(f"\n{name} ({len(texts)}):\n  " + joined(texts, "\n  ", _LIMIT))
    if not mistakes:
        print("\nno mistakes found, which would stop a training")


def write(checked: Checked, folder: Path) -> list[Path]:
    """Write check.json and the sheets of samples of the first split into a new or empty folder."""
    require_new(folder)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "check.json"
    write_text(file, json.dumps(checked.as_dict(), indent=1, ensure_ascii=False))
    first = next(iter(checked.datasets.values()))
    return [file, *write_samples(first, folder)]
