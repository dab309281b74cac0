"""Mutates recipes and overrides, and shows that each is a recipe or one short message.

    python -m experiments.config_fuzz --count 5000 --seed 0

Every case is one of the recipes of configs/ with one to three mutations, of its text, of its tree
or as overrides: typing mistakes, values of other types, numbers beyond all bounds, and what a
stranger would try (alias bombs, anchors in themselves, tags, endless brackets and names). It is
read and checked as `ppcls-lite config` does it, and the components that need no data are built. A
case fails if it raises anything but a UserError, takes more than 4 s, or if the message has 2,000
letters or more. The same seed gives the same cases; `--only N` repeats case N alone.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import functools
import logging
import random
import signal
import string
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paddle  # noqa: F401 (losses and metrics need it; before the clock runs)

from ppcls_lite.config.complete import Recipe
from ppcls_lite.config.file import dump, load_config
from ppcls_lite.config.node import Node
from ppcls_lite.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
TIMERS = {  # seconds of the processor, so that other work makes no difference, and by the clock
    signal.SIGPROF: (signal.ITIMER_PROF, 4.0),
    signal.SIGALRM: (signal.ITIMER_REAL, 120.0),
}
MAX_MESSAGE = 2000
BUILT = ("transform", "batch_transform", "sampler", "loss", "metric", "postprocess", "schedule")
CONTEXT = {"class_num": 10, "seed": 0, "epochs": 2, "step_each_epoch": 3}

_LAUGHS = "[&z [x, x, x, x, x, x, x, x], " + ", ".join(
    f"&z{i} [{', '.join([f'*z{i - 1}' if i else '*z'] * 8)}]" for i in range(9)
)
# As they stand in a YAML file.
SCALARS = (
    *("", "null", "~", "true", "yes", "0", "-1", "1", "1.5", "1e-4", "1e400", "-1e400", ".nan"),
    *(".inf", "-.inf", "1:30", "2020-13-45", "2020-01-31", "0x1F", "010", "0b2", "1_000", "²", "٣"),
    *("'²'", "'1/0'", "'1/3'", "'nan'", "'1e999'", "'++5'", "'0x1F'", "1" + "0" * 24, "1" * 400),
    *("9" * 6000, "0x" + "f" * 6000, f"'{'9' * 6000}'", f"1{'0' * 400}.0", "-0.0", "5e-324"),
    *("100000000000", "1000000000", "2147483648", "18446744073709551616", "a" * 5000, "'" * 3),
    *('"\\0"', '"\\ud800"', '"\\U0001F600"', "é", "~/x", "~nobody-at-all/x", "../..", "/", "."),
    *("!!int abc", "!!int ''", "!!float x", "!!bool abc", "!!timestamp abc", "!!binary x"),
    *("!!python/object:os.system x", "!!set {a, b}", "!!omap [a: 1]", "!!pairs [a: 1]", "!x y"),
    *("=", "<<", "*nowhere", "&a [*a]", "&a {b: *a}", "&a {<<: *a}", f"{_LAUGHS}]", "[" * 3000),
    *(
        "{" * 3000,
        "[]",
        "{}",
        "[[]]",
        "[null]",
        "[1, a, {}]",
        "{a: 1}",
        "{name: null}",
        "{name: []}",
    ),
    *(
        "{1: 2}",
        "{null: 1}",
        "{true: 1}",
        "{name: TopkAcc}",
        "{TopkAcc: {topk: [.nan]}}",
        "x: y: z",
    ),
    *("{? [1] : 2}", "[1, 2", "{a: 1, a: 2}", "|", ">", "%", "@", "`", "\t", "- - -", "---", "..."),
    *(f"[{'x, ' * 2000}]", f"{{{', '.join(f'k{i}: {i}' for i in range(500))}}}"),
)
KEYS = ("_base_", "_replace_", "<<", "name", "class_num", "1", "true", "²", "a" * 5000, "x.y", "''")
VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 1, 3, 0.5, -0.5, 10**9, 10**11, 10**24, 10**400, 2**63, 2**64),
    *(1e-320, 1e308, float("nan"), float("inf"), float("-inf"), "", "²", "nan", "1/0", "1e-4"),
    *(
        "a" * 5000,
        "~/x",
        "/",
        [],
        {},
        [[]],
        [None],
        [1],
        [1, 2, 3],
        [0.5, float("nan")],
        [10**9] * 2,
    ),
    *({"name": None}, {"a": 1}, {"name": "TopkAcc"}, "TopkAcc", "CropImage", "PPLCNet_x1_0"),
    *({"CropImage": {"size": 10**9}}, {"CELoss": {"weight": float("nan")}}, ["CELoss"] * 300),
)


@dataclass(frozen=True)
class Case:
    """A recipe's text and the overrides that are given with it."""

    text: str
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Failure:
    """What went wrong with a case."""

    number: int
    case: Case
    kind: str
    detail: str


class _TookTooLong(BaseException):
    """Passes every `except Exception`."""


def sources() -> list[Path]:
    """The recipes that are mutated."""
    return sorted(p for p in (ROOT / "configs").rglob("*.yaml") if p.parent.name != "_base_")


def make(number: int, seed: int, files: list[Path]) -> Case:
    """Case `number`, which depends on the seed alone."""
    rng = random.Random(f"{seed}/{number}")
    file = rng.choice(files)
    way = rng.choice((_mutated_text, _mutated_tree, _mutated_tree, _overridden))
    return way(rng, file)


def _mutated_text(rng: random.Random, file: Path) -> Case:
    lines = file.read_text(encoding="utf-8").splitlines()
    lines = [line.replace("_base_: ", f"_base_: {file.parent}/") for line in lines]
    for _ in range(rng.randint(1, 3)):
        rng.choice(_OF_LINES)(rng, lines)
    return Case("\n".join(lines) + "\n")


def _place(rng: random.Random, lines: list[str]) -> int:
    if not lines:
        lines.append("Global: {}")
    return rng.randrange(len(lines))


def _drop(rng: random.Random, lines: list[str]) -> None:
    del lines[_place(rng, lines)]


def _double(rng: random.Random, lines: list[str]) -> None:
    lines.insert(_place(rng, lines), lines[_place(rng, lines)])


def _indent(rng: random.Random, lines: list[str]) -> None:
    at = _place(rng, lines)
    lines[at] = (
        rng.choice((" ", "  ", "\t", "- ")) + lines[at] if rng.random() < 0.6 else lines[at][1:]
    )


def _letter(rng: random.Random, lines: list[str]) -> None:
    at = _place(rng, lines)
    column = rng.randint(0, len(lines[at]))
    letter = rng.choice(string.printable + "²é\0\ufeff")
    lines[at] = lines[at][:column] + letter + lines[at][column + rng.randint(0, 1) :]


def _value(rng: random.Random, lines: list[str]) -> None:
    at = _place(rng, lines)
    head, colon, _ = lines[at].rpartition(": ")
    lines[at] = f"{head}{colon or '- '}{rng.choice(SCALARS)}"


def _key(rng: random.Random, lines: list[str]) -> None:
    lines.insert(_place(rng, lines), f"{rng.choice(KEYS)}: {rng.choice(SCALARS)}")


def _end(rng: random.Random, lines: list[str]) -> None:
    del lines[_place(rng, lines) :]


_OF_LINES: tuple[Callable[[random.Random, list[str]], None], ...] = (
    *(_drop, _double, _indent, _letter, _value, _value, _value, _key, _end),
)


def _mutated_tree(rng: random.Random, file: Path) -> Case:
    tree = copy.deepcopy(_resolved(file))
    for _ in range(rng.randint(1, 2)):
        places = list(_places(tree))
        if places:
            holder, key = rng.choice(places)
            _change(rng, holder, key)
    return Case(dump(tree))


def _change(rng: random.Random, holder: Any, key: Any) -> None:
    value = holder[key]
    what = rng.randrange(6)
    if what == 0:
        del holder[key]
    elif what == 1 and isinstance(holder, dict):
        holder[_misspelt(rng, str(key))] = holder.pop(key)
    elif what == 2:
        holder[key] = [value] if rng.random() < 0.5 else {"name": value}
    elif what == 3 and isinstance(value, dict):
        value[rng.choice(KEYS)] = copy.deepcopy(rng.choice(VALUES))  # may be changed next
    elif what == 4 and isinstance(value, (int, float)) and not isinstance(value, bool):
        holder[key] = value * rng.choice((-1, 0, 0.5, 10**3, 10**9, 10**24))
    else:
        holder[key] = copy.deepcopy(rng.choice(VALUES))


def _misspelt(rng: random.Random, key: str) -> str:
    at = rng.randrange(len(key) + 1)
    return rng.choice((key[:at] + key[at + 1 :], key[:at] + "x" + key[at:], key.upper(), key * 40))


def _overridden(rng: random.Random, file: Path) -> Case:
    tree = _resolved(file)
    texts = []
    for _ in range(rng.randint(1, 3)):
        path = rng.choice(list(_paths(tree)))
        if rng.random() < 0.3:
            path = _misspelt(rng, path)
        if rng.random() < 0.1:
            path += rng.choice((".", ".0", ".²", ".name", ".x.y", ".a" * 200, "." + "a" * 5000))
        texts.append(rng.choice((f"{path}={rng.choice(SCALARS)}",) * 9 + (path,)))
    return Case(dump(tree), tuple(texts))


@functools.cache
def _resolved(file: Path) -> Any:
    return load_config(file)


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in list(items):
        yield tree, key
        if isinstance(value, (dict, list)):
            yield from _places(value)


def _paths(tree: Any, above: str = "") -> Iterator[str]:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in items:
        yield f"{above}{key}"
        if isinstance(value, (dict, list)):
            yield from _paths(value, f"{above}{key}.")


def run_case(case: Case, folder: Path) -> tuple[str, str]:
    """`("recipe", "")`, `("message", text)`, or a kind of failure and its details."""

    def stop(number: int, frame: Any) -> None:
        raise _TookTooLong

    path = folder / "recipe.yaml"
    path.write_text(case.text, encoding="utf-8", errors="surrogatepass")
    before = {number: signal.signal(number, stop) for number in TIMERS}
    for timer, seconds in TIMERS.values():
        signal.setitimer(timer, seconds)
    try:
        recipe = Recipe.of(load_config(path, case.overrides))
        dump(recipe.tree)
        for node in _nodes(recipe.settings):
            if node.entry.kind in BUILT:
                node.build(**CONTEXT)
    except UserError as error:
        long = len(str(error)) >= MAX_MESSAGE
        return ("long message" if long else "message"), str(error)
    except _TookTooLong:
        return "no answer", traceback.format_exc(limit=-4)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(last.filename).name}:{last.lineno}"
        return f"{type(error).__name__} in {place}", traceback.format_exc(limit=-6)
    finally:
        for number, (timer, _) in TIMERS.items():
            signal.setitimer(timer, 0)
            signal.signal(number, before[number])
    return "recipe", ""


def _nodes(value: Any) -> Iterator[Node]:
    """All components below `value`, the outer ones first."""
    if isinstance(value, Node):
        yield value
        inside: Any = [*value.arguments.values(), value.extras]
    elif isinstance(value, (list, tuple)):
        inside = value
    else:
        inside = vars(value).values() if dataclasses.is_dataclass(value) else ()
    for item in inside:
        yield from _nodes(item)


def fuzz(count: int, seed: int, first: int = 0) -> tuple[list[Failure], Counter[str]]:
    """The failures of `count` cases, and how many ended in which way."""
    files, failures, ends = sources(), [], Counter()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(first, first + count):
            case = make(number, seed, files)
            kind, detail = run_case(case, Path(folder))
            ends[kind] += 1
            if kind not in ("recipe", "message"):
                failures.append(Failure(number, case, kind, detail))
    return failures, ends


def main(argv: list[str]) -> int:
    """The command line; 1 if a case has failed."""
    logging.getLogger("ppcls_lite").setLevel(logging.ERROR)  # a schedule has remarks
    options = argparse.ArgumentParser(description="Mutate recipes; each must end well.")
    options.add_argument("--count", type=int, default=5000, help="cases (5000)")
    options.add_argument("--seed", type=int, default=0, help="another seed, other cases (0)")
    options.add_argument("--only", type=int, metavar="N", help="case N alone, shown in full")
    args = options.parse_args(argv)
    if args.only is not None:
        case = make(args.only, args.seed, sources())
        print(case.text, *(f"-o {text}" for text in case.overrides), sep="\n")
    start, count = (0, args.count) if args.only is None else (args.only, 1)
    failures, ends = fuzz(count, args.seed, start)
    for kind, found in Counter(failure.kind for failure in failures).most_common():
        example = next(failure for failure in failures if failure.kind == kind)
        print(f"{found} x {kind}, for example case {example.number}:\n{example.detail[:3000]}")
    print(", ".join(f"{found:,} {kind}" for kind, found in ends.most_common()))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
