"""Lists for ImageNet-1k (ILSVRC2012) as its archives unpack; the images are not moved.

Class ids are the ranks of the sorted WordNet ids, as in PaddleClas. The validation images may lie
in class folders, or flat with their classes in the devkit or in Kaggle's LOC_val_solution.csv.
"""

from __future__ import annotations

import csv
from pathlib import Path

from ppcls_lite.data.files import class_folders, images_in, is_image_name
from ppcls_lite.data.image_list import write_lines
from ppcls_lite.data.prepare.next_step import with_lists
from ppcls_lite.errors import UserError

TRUTH = Path("data", "ILSVRC2012_validation_ground_truth.txt")
LAYOUT = "expected <folder>/train/n01440764/*.JPEG and <folder>/val, from https://image-net.org"


def prepare_imagenet(folder: str, devkit: str | None = None) -> None:
    """Write `train_list.txt` and `val_list.txt` into `folder`.

    Raises UserError where it does not look like ImageNet, or nothing says which class a validation
    image has.
    """
    root = Path(folder)
    if not (root / "train").is_dir() or not (root / "val").is_dir():
        raise UserError(f"{folder}: there is no train/ or no val/ in it; {LAYOUT}")
    classes = class_folders(root / "train")
    if not classes:
        raise UserError(f"{folder}/train has no class folders; {LAYOUT}")
    train = _lines(root, "train", classes)
    if class_folders(root / "val"):
        strange = sorted(set(class_folders(root / "val")) - set(classes))
        if strange:
            raise UserError(
                f"{folder}/val has class folders that train/ lacks: {', '.join(strange[:5])}"
            )
        val = _lines(root, "val", classes)
    else:
        val = _flat(root, classes, devkit)
    write_lines(root / "train_list.txt", train)
    write_lines(root / "val_list.txt", val)
    print(
        f"{len(classes):,} classes, {len(train):,} images for training, {len(val):,} for "
        f"validation; wrote {root / 'train_list.txt'} and val_list.txt there"
    )
    if (len(classes), len(train), len(val)) != (1000, 1281167, 50000):
        print("warning: the full ImageNet-1k has 1,000 classes, 1,281,167 and 50,000 images")
    print(f"next: {with_lists('configs/PPLCNet_x0_5.yaml', root, root)}")


def _lines(root: Path, split: str, classes: list[str]) -> list[str]:
    return [
        f"{split}/{name}/{image} {label}"
        for label, name in enumerate(classes)
        for image in images_in(root / split, name)
    ]


def _flat(root: Path, classes: list[str], devkit: str | None) -> list[str]:
    """Lines for validation images that lie in one folder."""
    ids = {name: label for label, name in enumerate(classes)}
    images = sorted(f.name for f in (root / "val").iterdir() if is_image_name(f.name))
    table = root / "LOC_val_solution.csv"
    kit = Path(devkit) if devkit else root / "ILSVRC2012_devkit_t12"
    if (kit / TRUTH).is_file():
        names = _names_from_devkit(kit)
        if len(names) != len(images):
            raise UserError(
                f"{kit / TRUTH} has {len(names):,} lines, but {root / 'val'} has {len(images):,} "
                "images; both should be 50,000"
            )
        found = dict(zip(images, names))
    elif table.is_file():
        with table.open(encoding="utf-8", newline="") as stream:
            rows = [row for row in csv.reader(stream) if len(row) == 2]
        named = {image: prediction.split(" ")[0] for image, prediction in rows}
        found = {image: named.get(Path(image).stem, "") for image in images}
    else:
        raise UserError(
            f"{root / 'val'} has no class folders, and neither {kit / TRUTH} nor {table} exists to "
            "say which class each image has; unpack ILSVRC2012_devkit_t12.tar.gz into "
            f"{root} or name its folder with --devkit"
        )
    unknown = [image for image, name in found.items() if name not in ids]
    if unknown:
        raise UserError(
            f"{len(unknown):,} validation images have a class without a folder in train/, for "
            f"example {unknown[0]} ({found[unknown[0]] or 'not listed'}); is train/ complete?"
        )
    return [f"val/{image} {ids[name]}" for image, name in found.items()]


def _names_from_devkit(kit: Path) -> list[str]:
    """The WordNet id of each validation image; the devkit numbers the classes in its own order."""
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise UserError(
            "reading the devkit's meta.mat needs SciPy: pip install scipy (or sort val/ into class "
            "folders)"
        ) from error
    synsets = loadmat(str(kit / "data" / "meta.mat"), squeeze_me=True)["synsets"]
    names = {int(row[0]): str(row[1]) for row in synsets}
    truth = (kit / TRUTH).read_text(encoding="ascii").split()
    return [names[int(number)] for number in truth]
