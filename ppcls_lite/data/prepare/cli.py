"""`ppcls-lite prepare digits|folder|scenes|...`: writes the list files that training reads.

These are `train_list.txt` and `val_list.txt` (`path label` lines, paths relative to the image
folder) and, where the classes have names of their own, `labels.txt` (`id name` lines).
Read next: folders.py, masks.py, scenes.py, cityscapes.py, relabel.py, shrink.py, imagenet.py.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ppcls_lite.data.prepare.cifar10 import prepare_cifar10
from ppcls_lite.data.prepare.cityscapes import prepare_cityscapes
from ppcls_lite.data.prepare.digits import DIGITS_FOLDER, prepare_digits
from ppcls_lite.data.prepare.folders import prepare_folder
from ppcls_lite.data.prepare.imagenet import prepare_imagenet
from ppcls_lite.data.prepare.masks import prepare_camvid, prepare_masks
from ppcls_lite.data.prepare.objects import prepare_objects
from ppcls_lite.data.prepare.relabel import relabel
from ppcls_lite.data.prepare.scenes import SCENES_FOLDER, prepare_scenes
from ppcls_lite.data.prepare.shards import prepare_shards
from ppcls_lite.data.prepare.shrink import prepare_shrunk
from ppcls_lite.system.outputs import new_folder, output_folder

_SHARE = "for validation (0.2)"
_WRITTEN = "where images and lists go (%(default)s)"


def run(argv: Sequence[str]) -> int:
    """The command line; returns the exit status. UserError for what cannot be prepared."""
    options = argparse.ArgumentParser(
        prog="ppcls-lite prepare", description="Write the list files that training reads."
    )
    commands = options.add_subparsers(dest="command", required=True, metavar="COMMAND")

    digits = commands.add_parser("digits", help="1,797 handwritten digits, offline")
    _add_output(digits, _WRITTEN, default=DIGITS_FOLDER)
    digits.set_defaults(act=lambda a: prepare_digits(a.output))

    folder = commands.add_parser("folder", help="your images, one sub-folder per class")
    folder.add_argument("folder", metavar="DIR", help="holds a folder of images for each class")
    _add_output(folder)
    folder.add_argument("--val", type=float, default=0.2, metavar="SHARE", help=_SHARE)
    folder.add_argument("--seed", type=int, default=0, metavar="N", help="of the split (0)")
    folder.add_argument("--check", action="store_true", help="leave out unreadable images")
    folder.set_defaults(act=lambda a: prepare_folder(a.folder, a.output, a.val, a.seed, a.check))

    scenes = commands.add_parser("scenes", help="digits on canvases, with masks and boxes, offline")
    _add_output(scenes, _WRITTEN, default=SCENES_FOLDER)
    scenes.add_argument("--images", type=int, default=480, metavar="N", help="for training (480)")
    scenes.add_argument("--val", type=int, default=120, metavar="N", help="for validation (120)")
    text = "width and height of a canvas (160 128)"
    scenes.add_argument("--size", type=int, nargs=2, default=(160, 128), metavar="N", help=text)
    scenes.add_argument("--seed", type=int, default=0, metavar="N", help="of what is drawn (0)")
    scenes.add_argument("--cards", action="store_true", help="digits on cards, all of them theirs")
    scenes.set_defaults(
        act=lambda a: prepare_scenes(a.output, a.images, a.val, a.size, a.seed, a.cards)
    )

    for kind, about in {
        "coco": "boxes in COCO's JSON files",
        "voc": "boxes in Pascal VOC's XML files",
        "yolo": "boxes as YOLO has them, with a data.yaml",
        "labelme": "boxes and outlines drawn with LabelMe",
    }.items():
        boxes = commands.add_parser(kind, help=about)
        boxes.add_argument("folder", metavar="DIR", help="holds images and annotations")
        text = "share for validation, where there is no split (0.2)"
        boxes.add_argument("--val", type=float, default=0.2, metavar="SHARE", help=text)
        boxes.add_argument("--seed", type=int, default=0, metavar="N", help="of the split (0)")
        _add_output(boxes)
        boxes.set_defaults(
            act=lambda a, kind=kind: prepare_objects(kind, a.folder, a.output, a.val, a.seed)
        )

    masks = commands.add_parser("masks", help="your images, and masks of the same names")
    masks.add_argument("folder", metavar="DIR", help="holds images and masks")
    masks.add_argument("--images", default="images", metavar="DIR", help="below DIR (images)")
    masks.add_argument("--masks", default="masks", metavar="DIR", help="below DIR (masks)")
    masks.add_argument("--val", type=float, default=0.2, metavar="SHARE", help=_SHARE)
    masks.add_argument("--seed", type=int, default=0, metavar="N", help="of the split (0)")
    masks.add_argument("--ignore", type=int, metavar="N", help="a value that counts nowhere (255)")
    masks.add_argument("--palette", metavar="FILE", help="lines `r g b name`, for masks of colours")
    _add_output(masks)
    masks.set_defaults(
        act=lambda a: prepare_masks(
            *(a.folder, a.images, a.masks, a.val, a.seed, a.ignore, a.palette, a.output)
        )
    )

    camvid = commands.add_parser("camvid", help="CamVid with masks of 11 classes")
    camvid.add_argument("folder", metavar="DIR", help="holds the archive's folders")
    _add_output(camvid)
    camvid.set_defaults(act=lambda a: prepare_camvid(a.folder, a.output))

    cityscapes = commands.add_parser("cityscapes", help="Cityscapes as its archives unpack")
    cityscapes.add_argument("folder", metavar="DIR", help="holds leftImg8bit and gtFine")
    cityscapes.set_defaults(act=lambda a: prepare_cityscapes(a.folder))

    imagenet = commands.add_parser("imagenet", help="ImageNet-1k as unpacked from its archives")
    imagenet.add_argument("folder", metavar="DIR", help="holds train/ and val/")
    imagenet.add_argument("--devkit", metavar="DIR", help="ILSVRC2012_devkit_t12, for a flat val/")
    imagenet.set_defaults(act=lambda a: prepare_imagenet(a.folder, a.devkit))

    cifar10 = commands.add_parser("cifar10", help="CIFAR-10 from its binary archive")
    cifar10.add_argument("archive", metavar="FILE", help="cifar-10-binary.tar.gz")
    _add_output(cifar10, _WRITTEN, default="dataset/cifar10")
    cifar10.add_argument("--train", type=int, metavar="N", help="images per class (all)")
    cifar10.add_argument("--test", type=int, metavar="N", help="images per class (all)")
    cifar10.set_defaults(act=lambda a: prepare_cifar10(a.archive, a.output, a.train, a.test))

    other = commands.add_parser("relabel", help="lists with other classes or attributes")
    other.add_argument("lists", nargs="+", metavar="LIST", help="lines `path id`")
    other.add_argument("--map", required=True, metavar="YAML", help="class: class or [attribute]")
    _add_output(other, "where the new lists go", required=True)
    other.add_argument("--labels", metavar="FILE", help="names of the ids (labels.txt)")
    other.set_defaults(act=lambda a: relabel(a.lists, a.map, a.output, a.labels))

    shards = commands.add_parser("shards", help="a list's images in a few large tar files")
    _add_shrinking(shards, 0, "0: they stay as they are")
    each = "images in each file (1000)"
    shards.add_argument("--per-shard", type=int, default=1000, metavar="N", help=each)
    shards.add_argument("--seed", type=int, default=0, metavar="N", help="of the order (0)")
    shards.set_defaults(
        act=lambda a: prepare_shards(
            a.list, a.images, a.output, a.per_shard, a.size, a.quality, a.seed
        )
    )

    small = commands.add_parser("shrink", help="a list's images, no larger than training needs")
    _add_shrinking(small, 512, "512")
    small.set_defaults(act=lambda a: prepare_shrunk(a.list, a.images, a.output, a.size, a.quality))

    args = options.parse_args(argv)
    step = args.act(args)
    if step is not None:
        print(f"\nnext, for example:\n{step}")
    return 0


def _add_output(
    parser: argparse.ArgumentParser,
    text: str = "where the lists go (DIR)",
    kind: Callable[[str], Path] = output_folder,
    **more: Any,
) -> None:
    parser.add_argument("--output", type=kind, metavar="DIR", help=text, **more)


def _add_shrinking(parser: argparse.ArgumentParser, size: int, said: str) -> None:
    """What a command takes that writes a list's images anew, shrunk to `size` by default."""
    add = parser.add_argument
    add("list", metavar="LIST", help="lines `path id`")
    add("--images", default=".", metavar="DIR", help="that paths start from (.)")
    _add_output(parser, "a new folder for the files", new_folder, required=True)
    edge = f"shorter edge, in pixels, that larger images are shrunk to ({said})"
    add("--size", type=int, default=size, metavar="N", help=edge)
    quality = "of the JPEGs that shrinking makes, 1 to 100 (90)"
    add("--quality", type=int, default=90, metavar="N", help=quality)
