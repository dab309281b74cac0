"""`ppcls-lite prepare digits|folder|imagenet|...`: writes the list files that training reads.

These are `train_list.txt` and `val_list.txt` (`path label` lines, paths relative to the image
folder) and, where the classes have names of their own, `labels.txt` (`id name` lines).
Read next: relabel.py, cifar10.py, imagenet.py, ppcls_lite/data/datasets.py.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from ppcls_lite.data.files import class_folders, images_in, is_image_name, walk_files
from ppcls_lite.data.image_list import require_folder, write_lines
from ppcls_lite.data.prepare.cifar10 import prepare_cifar10
from ppcls_lite.data.prepare.imagenet import prepare_imagenet
from ppcls_lite.data.prepare.next_step import train_command
from ppcls_lite.data.prepare.relabel import relabel
from ppcls_lite.data.transforms.image_file import decode_rgb, read_file
from ppcls_lite.errors import ImageError, UserError

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DIGITS_FOLDER = "dataset/digits"  # where the quick start's recipe looks
SHOWN = 5


def run(argv: Sequence[str]) -> int:
    """The command line; returns the exit status. UserError for what cannot be prepared."""
    options = argparse.ArgumentParser(
        prog="ppcls-lite prepare", description="Write the list files that training reads."
    )
    commands = options.add_subparsers(dest="command", required=True, metavar="COMMAND")
    digits = commands.add_parser("digits", help="1,797 handwritten digits, offline")
    digits.add_argument("--output", default=DIGITS_FOLDER, metavar="DIR")
    folder = commands.add_parser("folder", help="your images, one sub-folder per class")
    folder.add_argument("folder", metavar="DIR")
    folder.add_argument("--output", metavar="DIR", help="where the lists go; default: DIR")
    folder.add_argument("--val", type=float, default=0.2, help="share for validation (0.2)")
    folder.add_argument("--seed", type=int, default=0, help="of the split (0)")
    folder.add_argument("--check", action="store_true", help="leave out unreadable images")
    imagenet = commands.add_parser("imagenet", help="ImageNet-1k as unpacked from its archives")
    imagenet.add_argument("folder", metavar="DIR", help="holds train/ and val/")
    imagenet.add_argument("--devkit", metavar="DIR", help="ILSVRC2012_devkit_t12, for a flat val/")
    cifar10 = commands.add_parser("cifar10", help="CIFAR-10 from its binary archive")
    cifar10.add_argument("archive", metavar="FILE", help="cifar-10-binary.tar.gz")
    cifar10.add_argument("--output", default="dataset/cifar10", metavar="DIR")
    cifar10.add_argument("--train", type=int, metavar="N", help="images per class (all)")
    cifar10.add_argument("--test", type=int, metavar="N", help="images per class (all)")
    other = commands.add_parser("relabel", help="lists with other classes or attributes")
    other.add_argument("lists", nargs="+", metavar="LIST", help="lines `path id`")
    other.add_argument("--map", required=True, metavar="YAML", help="class: class or [attribute]")
    other.add_argument("--output", required=True, metavar="DIR", help="where the new lists go")
    other.add_argument("--labels", metavar="FILE", help="names of the ids; default: labels.txt")
    args = options.parse_args(argv)
    if args.command == "digits":
        prepare_digits(args.output)
    elif args.command == "folder":
        prepare_folder(args.folder, args.output, args.val, args.seed, args.check)
    elif args.command == "cifar10":
        prepare_cifar10(args.archive, args.output, args.train, args.test)
    elif args.command == "relabel":
        relabel(args.lists, args.map, args.output, args.labels)
    else:
        prepare_imagenet(args.folder, args.devkit)
    return 0


def prepare_digits(output: str) -> None:
    """Write scikit-learn's handwritten digits (UCI, 8x8 pixels, 17 grays) as 32x32 PNG files.

    A file's name ends in its digit. A fifth of each digit's images is for validation. Raises
    UserError where scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UserError(
            "the digits come with scikit-learn, which is not installed: "
            'pip install "scikit-learn>=1.3"'
        ) from error
    data = load_digits()
    root = Path(output)
    in_val = stratified_split(data.target, 0.2, seed=0)
    for split, chosen in (("train", ~in_val), ("val", in_val)):
        (root / split).mkdir(parents=True, exist_ok=True)
        lines = []
        for i in np.flatnonzero(chosen):
            gray = np.rint(data.images[i] * (255 / 16)).astype(np.uint8)  # (8, 8)
            name = f"{split}/{i:04d}_{data.target[i]}.png"
            large = cv2.resize(gray, (32, 32), interpolation=cv2.INTER_LINEAR)
            (root / name).write_bytes(cv2.imencode(".png", large)[1].tobytes())
            lines.append(f"{name} {data.target[i]}")
        write_lines(root / f"{split}_list.txt", lines)
    write_lines(root / "labels.txt", [f"{i} {name}" for i, name in enumerate(DIGITS)])
    print(
        f"{len(data.target):,} images of 10 digits in {root}: {np.sum(~in_val):,} for training, "
        f"{np.sum(in_val):,} for validation\n"
        f"next: {_train_digits(root)}"
    )


def _train_digits(root: Path) -> str:
    """The quick start's command, with the paths where they are not the recipe's own."""
    recipe = "configs/quickstart/digits.yaml"
    if root == Path(DIGITS_FOLDER):
        return f"ppcls-lite train -c {recipe}"
    return train_command(recipe, root, root, _labels_at(root), f"Infer.infer_imgs={root / 'val'}")


def _labels_at(folder: Path) -> str:
    return f"Infer.PostProcess.class_id_map_file={folder / 'labels.txt'}"


def prepare_folder(folder: str, output: str | None, val: float, seed: int, check: bool) -> None:
    """Write lists for `folder`/<class>/<image>, a share `val` of each class for validation.

    UserError for no such folder, fewer than two classes, or a share that is not in [0, 1).
    """
    if not 0 <= val < 1:
        raise UserError(f"--val is {val:g}; expected a share of at least 0 and below 1, e.g. 0.2")
    require_folder(folder)
    classes = class_folders(folder)
    names, labels, others = [], [], 0
    for label, name in enumerate(classes):
        images = images_in(folder, name)
        others += sum(1 for _ in walk_files(Path(folder, name), hidden=True)) - len(images)
        names += [f"{name}/{image}" for image in images]
        labels += [label] * len(images)
    if len(set(labels)) < 2:
        raise UserError(
            f"{folder}: found {len(names):,} images in {len(classes)} sub-folders; expected at "
            f"least two sub-folders with images, one per class, as in {folder}/cat/1.jpg and "
            f"{folder}/dog/2.jpg"
        )
    if others:
        print(f"{others:,} other files in the sub-folders are left out")
    loose = sum(1 for f in Path(folder).iterdir() if f.is_file() and is_image_name(f.name))
    if loose:
        print(f"warning: {loose:,} images lie in {folder} itself, in no class; they are left out")
    if check:
        names, labels = _readable(folder, names, labels)
    kept = np.array(labels)
    counts = np.bincount(kept, minlength=len(classes))
    for name, count in zip(classes, counts):
        if count < 2:
            print(f"warning: class {name!r} has {count} images; it needs two or more to validate")
    in_val = stratified_split(kept, val, seed)
    place = Path(output or folder)
    place.mkdir(parents=True, exist_ok=True)
    lines = [f"{name} {label}" for name, label in zip(names, labels)]
    for split, chosen in (("train", ~in_val), ("val", in_val)):
        write_lines(place / f"{split}_list.txt", [lines[i] for i in np.flatnonzero(chosen)])
    write_lines(place / "labels.txt", [f"{i} {name}" for i, name in enumerate(classes)])
    more = f"Arch.class_num={len(classes)}", _labels_at(place)
    command = train_command("configs/quickstart/photos.yaml", folder, place, *more)
    print(
        f"{len(names):,} images of {len(classes)} classes: {np.sum(~in_val):,} for training, "
        f"{np.sum(in_val):,} for validation; wrote {place / 'train_list.txt'}, val_list.txt and "
        f"labels.txt there\n\nnext, for example:\n{command}"
    )


def stratified_split(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Which samples are for validation: `share` of every class, (n,) bool.

    A class with two or more images has at least one on each side; the choice depends on `seed`.
    """
    rng = np.random.default_rng(seed)
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        places = rng.permutation(np.flatnonzero(labels == label))
        count = round(len(places) * share)
        if share > 0 and len(places) > 1:
            count = min(max(count, 1), len(places) - 1)
        chosen[places[: count if len(places) > 1 else 0]] = True
    return chosen


def _readable(folder: str, names: list[str], labels: list[int]) -> tuple[list[str], list[int]]:
    """The images that can be decoded; prints which cannot."""

    def reason(name: str) -> str | None:
        path = str(Path(folder, name))
        try:
            decode_rgb(read_file(path), path)
        except ImageError as error:
            return str(error)
        return None

    with ThreadPoolExecutor() as pool:  # decoding runs outside the interpreter's lock
        reasons = list(pool.map(reason, names))
    bad = [text for text in reasons if text is not None]
    if bad:
        more = f"\n  and {len(bad) - SHOWN:,} more" if len(bad) > SHOWN else ""
        print(
            f"warning: {len(bad):,} unreadable images are left out:\n  "
            + "\n  ".join(bad[:SHOWN])
            + more
        )
    good = [i for i, text in enumerate(reasons) if text is None]
    return [names[i] for i in good], [labels[i] for i in good]
