"""`ppcls-lite runs`: the runs below a folder as a table, JSON or CSV. Read next: run_list.py."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import shutil
import sys
from pathlib import Path

from ppcls_lite.engine import run_list
from ppcls_lite.system.terminal import printable


def run(argv: list[str]) -> None:
    """The command."""
    about = "List the runs below a folder, best first: how far they are, their best scores."
    options = argparse.ArgumentParser(prog="ppcls-lite runs", description=about)
    help_text = "where to look: Global.output_dir of recipes (./output)"
    options.add_argument("folder", nargs="?", type=Path, default=Path("output"), help=help_text)
    form = options.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="write JSON, for programs")
    form.add_argument("--csv", action="store_true", help="write CSV, for spreadsheets")
    args = options.parse_args(argv)
    found = run_list.find_runs(args.folder)
    if args.json:
        print(json.dumps(run_list.as_records(found), indent=2))
    elif args.csv:
        names = [field.name for field in dataclasses.fields(run_list.Run)]
        table = csv.DictWriter(sys.stdout, names, lineterminator="\n")
        table.writeheader()
        table.writerows(run_list.as_records(found))
    elif found:
        text = run_list.table(found, shutil.get_terminal_size((160, 24)).columns)
        print(printable(text, lines=True))
    else:
        print(f"no runs in {args.folder}: train writes them into Global.output_dir")
