"""`ppcls-lite prepare masks|camvid`: lists for folders of images and of masks.

Read before: split.py, ../mask_pairs.py, ../mask_census.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from ppcls_lite.data.image_list import PathList, write_lines
from ppcls_lite.data.labels import read_label_file
from ppcls_lite.data.mask_census import NUMBERS, take_census
from ppcls_lite.data.mask_doctor import diagnose
from ppcls_lite.data.mask_file import read_palette
from ppcls_lite.data.mask_pairs import Pairs, pair
from ppcls_lite.data.mask_rules import MAX_CLASSES, MaskRules
from ppcls_lite.data.mask_shares import Masks
from ppcls_lite.data.prepare.next_step import NextStep, with_data
from ppcls_lite.errors import UserError

CAMVID_NAMES = (
    *("sky", "building", "pole", "road", "pavement", "tree", "sign_symbol", "fence", "car"),
    *("pedestrian", "bicyclist"),
)
CAMVID_VOID = 11
_RECIPE = "configs/segmentation/masks.yaml"
_NAMES = "Infer.PostProcess.Segmentation.class_id_map_file"  # in it
_LAYOUTS = (("images/{}", "labels/{}"), ("{}", "{}annot"))  # images and masks of a split


def prepare_masks(
    folder: str,
    images: str,
    masks: str,
    val: float,
    seed: int,
    ignore: int | None,
    palette: str | None,
    output: str | Path | None,
) -> NextStep:
    """Write lists for `folder`/`images` and `folder`/`masks`, a share `val` for validation.

    Also labels.txt, with the names of the folder's own if it has one; all masks are looked at.
    UserError where no image has a mask, or the masks are not class numbers.
    """
    if not 0 < val < 1:
        raise UserError(f"--val is {val:g}; expected a share between 0 and 1, e.g. 0.2")
    pairs = pair(str(Path(folder, images)), str(Path(folder, masks)))
    for problem in (*pairs.problems, *pairs.notes):
        print(f"warning: {problem}")
    if len(pairs.paths) < 2:
        raise UserError(f"{folder}: {len(pairs.paths)} images have a mask; expected two or more")
    colours = read_palette(palette) if palette else None
    census = take_census(pairs.paths, pairs.masks, colours, limit=None)
    if not (census.kinds == NUMBERS).all():
        problems = diagnose(Masks(pairs.masks, MaskRules(), None), census).errors
        raise UserError("\n  ".join(["the masks cannot be used as they are:", *problems]))
    values = [n for n in np.flatnonzero(census.counts.sum(axis=0)).tolist() if n != ignore]
    names, label_map = _classes([n for n in values if n != 255], 255 in values and ignore != 255)
    place = Path(output or folder)
    place.mkdir(parents=True, exist_ok=True)
    if colours is not None and colours.names and not label_map:
        names = colours.names
    file = place / "labels.txt"
    own = next((f for f in (file, Path(folder, "labels.txt")) if f.exists()), None)
    if own:
        names = read_label_file(own)
    if own != file:
        write_lines(file, [f"{i} {name}" for i, name in enumerate(names)])
    in_val = _own_split(pairs, Path(folder, images))
    own_split = in_val is not None
    if in_val is None:
        in_val = _chosen(len(pairs.paths), val, seed)
    _write(place, folder, pairs, {"train": ~in_val, "val": in_val})
    rules = MaskRules(len(names), 255 if ignore is None else ignore, label_map, palette=colours)
    found = diagnose(Masks(pairs.masks, rules, names), census)
    for text in (*found.errors, *found.warnings):
        print(f"warning: {text}")
    print("\n".join(found.facts))
    means: dict[str, object] = {}
    if ignore is not None:
        means["ignore_index"] = ignore
    if palette:
        means["palette"] = palette
    if label_map:
        means["label_map"] = f"{{{', '.join(f'{n}: {k}' for n, k in label_map.items())}}}"
    splits = {
        split: {"image_root": folder, "list_path": place / f"{name}_list.txt", **means}
        for split, name in (("Train", "train"), ("Eval", "val"))
    }
    more = f"Arch.class_num={len(names)}", f"{_NAMES}={file}"
    print(
        f"{len(pairs.paths):,} images with masks: {np.sum(~in_val):,} for training, "
        f"{np.sum(in_val):,} for validation; wrote train_list.txt, val_list.txt and labels.txt in "
        f"{place}"
    )
    return with_data(_RECIPE, splits, *more, own_split=own_split)


def prepare_camvid(folder: str, output: str | Path | None) -> None:
    """Write lists for CamVid with 11 classes, as it is passed on for comparisons.

    The splits lie in images/train and labels/train, or in train and trainannot. Raises UserError
    where there are neither.
    """
    place = Path(output or folder)
    layout = next((both for both in _LAYOUTS if _has(folder, both)), None)
    if layout is None:
        raise UserError(
            f"{folder}: found neither images/train with labels/train nor train with trainannot; "
            "expected CamVid with masks of 11 classes. Make them of the 32 colours of the original "
            "with `prepare masks --palette`, and a palette of those that you want"
        )
    place.mkdir(parents=True, exist_ok=True)
    counts = []
    for split in ("train", "val", "test"):
        folders = [str(Path(folder, part.format(split))) for part in layout]
        if not all(Path(part).is_dir() for part in folders):
            continue
        pairs = pair(*folders)
        if pairs.problems:
            raise UserError("\n  ".join([f"{split}:", *pairs.problems]))
        _write(place, folder, pairs, {split: np.ones(len(pairs.paths), bool)})
        counts.append(f"{split} {len(pairs.paths):,}")
    write_lines(place / "labels.txt", [f"{i} {name}" for i, name in enumerate(CAMVID_NAMES)])
    print(
        f"{', '.join(counts)} images with masks; wrote their lists and labels.txt in {place}. "
        f"The value {CAMVID_VOID} counts nowhere: ignore_index: {CAMVID_VOID}"
    )


def _has(folder: str, layout: tuple[str, str]) -> bool:
    return all(Path(folder, part.format("train")).is_dir() for part in layout)


def _classes(values: list[int], with_255: bool) -> tuple[list[str], dict[int, int]]:
    """Names for the values that occur, and the map that makes class numbers of them."""
    if values == [0] and with_255:
        return ["background", "foreground"], {255: 1}
    if len(values) > MAX_CLASSES or not values:
        raise UserError(f"the masks hold {len(values)} values; expected 1 to {MAX_CLASSES} classes")
    if values == list(range(len(values))):
        return [f"class_{n}" for n in values], {}
    return [f"value_{n}" for n in values], {n: i for i, n in enumerate(values)}


def _chosen(count: int, share: float, seed: int) -> np.ndarray:
    """Which of `count` samples are for validation, (count,) bool: at least one on each side."""
    number = min(max(round(count * share), 1), count - 1)
    chosen = np.zeros(count, bool)
    chosen[np.random.default_rng(seed).permutation(count)[:number]] = True
    return chosen


def _own_split(pairs: Pairs, images: Path) -> np.ndarray | None:
    """Which of the pairs are for validation, (n,) bool, by sub-folders train and val of the images.

    None where there is anything else, as a folder for tests.
    """
    tops = [Path(path).relative_to(images).parts[0] for path in pairs.paths]
    if {*tops} != {"train", "val"}:
        return None
    return np.array([top == "val" for top in tops])


def _write(place: Path, root: str, pairs: Pairs, splits: dict[str, np.ndarray]) -> None:
    """The list of each split with lines `image mask`, from `root` on."""
    for split, chosen in splits.items():
        places = np.flatnonzero(chosen)
        lines = zip(_below(root, pairs.paths, places), _below(root, pairs.masks, places))
        write_lines(place / f"{split}_list.txt", _joined(lines))


def _below(root: str, paths: PathList, places: Sequence[int] | np.ndarray) -> list[str]:
    return [Path(paths[i]).relative_to(Path(root)).as_posix() for i in places]


def _joined(pairs: Iterable[tuple[str, str]]) -> Iterable[str]:
    for image, mask in pairs:
        if " " in mask or "\t" in mask:
            raise UserError(
                f"{mask}: a list of `image mask` lines cannot hold a mask's name with a blank; "
                "rename it, or train from the folders (SegDataset without list_path)"
            )
        yield f"{image} {mask}"
