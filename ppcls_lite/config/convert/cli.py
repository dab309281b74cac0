"""`ppcls-lite convert-config FILE [--output FILE]`. Read next: dialects.py."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ppcls_lite.config.convert.dialects import DIALECTS, convert
from ppcls_lite.errors import ConfigError


def run(argv: list[str]) -> int:
    """The command line; returns 1 if the recipe does not run yet.

    The recipe goes to the output file, or to stdout; the report on each key to stderr.
    """
    toolkits = " or ".join(dialect.name for dialect in DIALECTS)
    options = argparse.ArgumentParser(
        prog="ppcls-lite convert-config",
        description=f"Convert a recipe of {toolkits}; names each key that it could not carry.",
    )
    options.add_argument("file", metavar="FILE", help="the YAML file, beside its bases")
    options.add_argument("--output", metavar="FILE", help="where the recipe goes (printed)")
    args = options.parse_args(argv)
    conversion = convert(args.file)
    text = conversion.text(Path(args.file).name)
    if args.output:
        path = Path(args.output)
        if path.exists() and path.resolve() == Path(args.file).resolve():
            raise ConfigError(f"--output {path}: is the file that is converted; name another one")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    else:
        print(text, end="")
    print(conversion.report(), file=sys.stderr)
    return 1 if conversion.problems else 0
