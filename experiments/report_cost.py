"""What the page at the end of a training costs, beside the training, in one run.

    python -m experiments.report_cost -c configs/quickstart/digits.yaml -o Global.epochs=3

Trains the recipe and prints the processor time of the page, of the whole command, and their ratio;
the exit status is 1 above 1 %. Read before: ppcls_lite/report/page.py.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from ppcls_lite.config.file import load_config
from ppcls_lite.recipe import train
from ppcls_lite.recipe.cli import parser
from ppcls_lite.system import cores

LIMIT = 0.01


def main(argv: list[str]) -> int:
    """Train as `ppcls-lite train` does, with the page timed."""
    args = parser("train", "Train, and time the page.").parse_args(argv)
    cores.claim()
    spent: list[float] = []
    write = train.write_page

    def timed(run_dir: Path) -> Path:
        start = time.process_time()
        path = write(run_dir)
        spent.append(time.process_time() - start)
        return path

    train.write_page = timed
    start = time.process_time()
    train.train(load_config(args.config, args.override))
    whole = time.process_time() - start
    page = sum(spent)
    if not spent:
        print("the training was stopped: there is no page to time")
        return 1
    ratio = page / (whole - page)
    print(f"page {page:.3f} s, training {whole - page:.2f} s of processor time: {ratio:.2%}")
    return int(ratio > LIMIT)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
