"""`check`: a recipe and all of its data, looked through without a training.

Read before: parts.py, ../data/scan.py.
"""

from __future__ import annotations

from ppcls_lite.config.complete import Recipe
from ppcls_lite.data.scan import ScanReport, scan
from ppcls_lite.errors import ConfigError, joined
from ppcls_lite.recipe.parts import class_num_of, compare_names, seed_of

_LIMIT = 20_000  # letters of each kind in the report


def check(recipe: Recipe) -> int:
    """Print what is in the data, what looks strange and what is wrong; returns 1 for the latter.

    More thorough than the scan before a training: every annotation file is read.
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
    report = scan(datasets, thorough=True)
    for split, dataset in datasets.items():
        count = "" if dataset.class_num is None else f", {dataset.class_num:,} classes"
        print(f"{split}: {dataset.source}: {len(dataset):,} images{count}")
        for line in report.facts.get(split, ()):
            print(f"  {line}")
    _print(report, [*recipe.notes, *recipe.warnings])
    return 1 if report.errors else 0


def _print(report: ScanReport, of_recipe: list[str]) -> None:
    kinds = {
        "about the recipe": of_recipe,
        "warnings": report.warnings,
        "mistakes, which stop a training": report.errors,
    }
    for name, texts in kinds.items():
        if texts:
            print(f"\n{name} ({len(texts)}):\n  " + joined(texts, "\n  ", _LIMIT))
    if not report.errors:
        print("\nno mistakes found in the recipe and its data")
