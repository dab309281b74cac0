"""`ppcls-lite config`: print a resolved recipe, or every component. Read next: show.py."""

from __future__ import annotations

import argparse

from ppcls_lite.config import show


def run(argv: list[str]) -> None:
    """The command line. Raises ConfigError for a mistake in the recipe."""
    options = argparse.ArgumentParser(
        prog="ppcls-lite config", description="Print a resolved recipe, or every component."
    )
    options.add_argument("-c", "--config", metavar="FILE", help="the recipe (YAML)")
    text = "change one value, e.g. -o Global.epochs=20; repeatable"
    options.add_argument(
        "-o", "--override", action="append", default=[], metavar="KEY=VALUE", help=text
    )
    options.add_argument(
        "--list",
        nargs="?",
        const="",
        metavar="KIND",
        help="list all components, or those of a kind, with their arguments",
    )
    text = "with --list: files with components of one's own, beside those of the recipe"
    options.add_argument("--plugins", nargs="+", default=[], metavar="FILE", help=text)
    args = options.parse_args(argv)
    if args.list is None and args.config is None:
        options.error("one of -c FILE and --list is needed")
    if args.list is not None:
        own = show.plugins(args.config, args.override) if args.config else []
        print(show.components(args.list, [*own, *args.plugins]))
    else:
        print(show.resolved(args.config, args.override), end="")
