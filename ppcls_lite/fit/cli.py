"""`ppcls-lite fit PHOTOS`: the command line. Read next: run.py."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ppcls_lite.benchmark.budget import read_milliseconds
from ppcls_lite.config.shortcuts import add_shortcuts, overrides
from ppcls_lite.system import cores
from ppcls_lite.system.outputs import new_folder


def run(argv: Sequence[str]) -> int:
    """The command line; returns the exit status."""
    args = _parser().parse_args(argv)
    cores.claim()
    from ppcls_lite.fit.run import Wanted, fit

    changes = (*overrides(args), *args.override)
    more = args.latency, args.from_scratch, args.val, args.seed
    return fit(Wanted(args.photos, args.output, changes, *more))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ppcls-lite fit",
        description="From a folder of photographs to an exported network, and how good it is.",
    )
    add = parser.add_argument
    text = "a folder of sub-folders of classes, of images with boxes, or of images with masks"
    add("photos", metavar="PHOTOS", help=text)
    text = "a new folder for everything that is made (fit/PHOTOS, fit/PHOTOS-2, ...)"
    add("--output", type=new_folder, metavar="DIR", help=text)
    text = "the largest network that takes so long an image on this machine (the recipe's)"
    add("--latency", type=_milliseconds, metavar="2ms", help=text)
    add("--from-scratch", action="store_true", help="start from random weights")
    add("--val", type=_share, default=0.2, metavar="SHARE", help="for validation (0.2)")
    add("--seed", type=int, default=0, metavar="N", help="of the split (0)")
    add_shortcuts(parser)
    text = "change one value of the recipe, e.g. -o Global.seed=1; repeatable"
    add("-o", "--override", action="append", default=[], metavar="path.to.key=value", help=text)
    return parser


def _milliseconds(text: str) -> float:
    try:
        return read_milliseconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 < share < 1:
        raise argparse.ArgumentTypeError(f"expected a share between 0 and 1, found {text[:40]!r}")
    return share
