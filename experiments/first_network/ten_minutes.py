"""A newcomer's ten minutes, timed: 300 photographs with planted faults become a served network.

    python -m experiments.first_network.ten_minutes --output ten_minutes

check and suspects have to name everything that was planted; then the wrong labels are corrected in
new lists, `fit` trains from random weights, and the network answers over HTTP. Ends with 1 where
anything is missing. Read before: photographs.py.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

from experiments.first_network.photographs import Planted, keep, make
from ppcls_lite.system.processes import toolkit_command

PORT = 8766
FIT = ("--from-scratch", "--model", "PPLCNet_x0_5", "--size", "64")


def run(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", required=True, type=Path, help="a new folder")
    parser.add_argument("--images", type=int, default=300, help="photographs (300)")
    parser.add_argument("--epochs", type=int, help="of fit (its own choice)")
    args = parser.parse_args(argv)
    place, photos = args.output, args.output / "photos"
    planted = make(photos, args.images)
    keep(planted, place / "planted.json")
    start, missing = time.monotonic(), []

    with timed("check"):
        said = command("check", str(photos), "--output", str(place / "check"))
    missing += not_named(planted, said)
    with timed("suspects"):
        command("suspects", str(photos), "--output", str(place / "suspects"))
    missing += not_suspected(planted, photos, place / "suspects" / "suspects.csv")
    decide(planted, photos, place / "suspects" / "suspects.csv")
    with timed("fit"):
        epochs = ("--epochs", str(args.epochs)) if args.epochs else ()
        said = command("fit", str(photos), "--output", str(place / "fit"), *FIT, *epochs)
    print(said[said.rindex("done in") :])
    with timed("serve and answer"), served(place / "fit" / "export"):
        picture = next(p for p in sorted((photos / "zero").iterdir()) if "broken" not in p.name)
        print(f"{picture}: {ask(picture)}")
    print(f"everything: {time.monotonic() - start:.0f} s")
    print("everything planted was named" if not missing else f"not named: {missing}")
    return int(bool(missing))


@contextlib.contextmanager
def timed(what: str) -> Iterator[None]:
    """Say how long the block took."""
    start = time.monotonic()
    yield
    print(f"{what}: {time.monotonic() - start:.0f} s", flush=True)


def command(*words: str) -> str:
    """What a command of the toolkit prints; an error ends it all."""
    asked = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    done = subprocess.run(toolkit_command([*words]), check=False, **asked)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: exit status {done.returncode}\n{done.stdout}")
    return done.stdout


def not_named(planted: Planted, said: str) -> list[str]:
    """What `check` has not named: copies, the class of one image, the broken file."""
    lines = said.splitlines()
    missing = [
        copy
        for copy, original in planted.copies.items()
        if not any(f"/{copy}" in line and f"/{original}" in line for line in lines)
    ]
    if f"classes with 1 of the images: {planted.lonely}" not in said:
        missing.append(planted.lonely)
    return missing + [planted.broken] * (f"{planted.broken}: truncated" not in said)


def not_suspected(planted: Planted, photos: Path, table: Path) -> list[str]:
    """Wrong labels that are not among twice as many first suspects, with their true class."""
    with table.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))[: 2 * len(planted.wrong)]
    found = {row["file"]: row["looks_like"] for row in rows}
    return [f for f, truth in planted.wrong.items() if found.get(str(photos / f)) != truth]


def decide(planted: Planted, photos: Path, table: Path) -> None:
    """Write into the table what a person decides who looks at the pictures, and apply it."""
    with table.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    wrong = {str(photos / file) for file in planted.wrong}
    decided = table.with_name("decided.csv")
    with decided.open("w", encoding="utf-8", newline="") as stream:
        out = csv.DictWriter(stream, rows[0].keys())
        out.writeheader()
        out.writerows(row | {"decision": "yes" if row["file"] in wrong else ""} for row in rows)
    print(command("suspects", str(photos), "--apply", str(decided)).splitlines()[0])


@contextlib.contextmanager
def served(model: Path) -> Iterator[None]:
    """A server of an exported folder, while the block runs."""
    words = ["serve", "--model", str(model), "--engine", "auto", "--port", str(PORT)]
    with subprocess.Popen(toolkit_command(words), stdout=subprocess.DEVNULL) as process:
        try:
            for _ in range(600):
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"http://127.0.0.1:{PORT}/healthz", timeout=2).read()
                    break
                time.sleep(0.1)
            yield
        finally:
            process.terminate()


def ask(picture: Path) -> str:
    """The server's answer to a picture."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{PORT}/predict", picture.read_bytes(), {"Content-Type": "image/jpeg"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.dumps(json.load(answer))[:200]


if __name__ == "__main__":
    raise SystemExit(run())
