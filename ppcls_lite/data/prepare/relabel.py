"""Other questions to the same images: `prepare_data.py relabel` turns class lists into new lists.

A YAML file maps each class name to another class, or to the list of its attributes; null leaves the
images of a class out. New names are numbered in the order in which the file first has them.
Read before: image_list.py. Read next: datasets.py (MultiLabelDataset).
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml

from ppcls_lite.config.yaml_reader import in_file, read_yaml
from ppcls_lite.data.image_list import read_image_list
from ppcls_lite.data.labels import read_label_file
from ppcls_lite.errors import UserError, shown
from ppcls_lite.system.files import same_file, write_text

Answers = dict[str, list[str] | None]  # class name -> its class, its attributes, or left out


def relabel(
    lists: Sequence[str], map_file: str, output: str | Path, labels: str | None = None
) -> None:
    """Write each of `lists` (lines `path id`) into the folder `output` under its own name.

    The new lines are `path id` where the map names classes, and `path<TAB>0,1,0` where it names
    lists of attributes. `labels` holds the names of the old ids; default: the labels.txt beside the
    first list. Raises UserError where a file is missing or broken, the map lacks a class or has one
    too many, or a list would be overwritten.
    """
    source = labels or str(Path(lists[0]).with_name("labels.txt"))
    old = read_label_file(source, remedy="name the file with --labels")
    answers, has_attributes = _read_map(map_file, old, source)
    new = list(dict.fromkeys(name for found in answers.values() for name in found or ()))
    kind, least = ("attributes", 1) if has_attributes else ("classes", 2)
    if len(new) < least:
        raise UserError(f"{map_file}: names {len(new)} {kind}; expected {least} or more")
    place = Path(output)
    written: dict[Path, str] = {}
    for file in lists:
        target = place / Path(file).name
        if target in written:
            raise UserError(f"{file}: {target} is taken; give another --output or rename the list")
        written[target], counts = _relabelled(file, old, answers, new, has_attributes)
        numbers = ", ".join(f"{name} {count:,}" for name, count in zip(new, counts))
        print(f"{target}: {written[target].count(chr(10)):,} images: {numbers}")
    written[place / "labels.txt"] = "".join(f"{i} {name}\n" for i, name in enumerate(new))
    for target, read in itertools.product(written, (*lists, source, map_file)):
        if same_file(target, Path(read)):
            raise UserError(
                f"{read}: is read, and would be overwritten ({target}); give another --output"
            )
    place.mkdir(parents=True, exist_ok=True)
    for target, text in written.items():
        write_text(target, text)
    print(f"{len(new)} {kind}: set Arch.class_num to it; names: {place / 'labels.txt'}")


def _relabelled(
    file: str, old: list[str], answers: Answers, new: list[str], has_attributes: bool
) -> tuple[str, np.ndarray]:
    """The text of a new list, and how many images each new name has."""
    listed = read_image_list(file, "")  # no root: paths stay as they stand in the list
    wrong = [i for i, label in enumerate(listed.labels) if not 0 <= label < len(old)]
    problems = listed.problems + [
        f"{file}:{listed.lines[i]}: label {listed.labels[i]}, but there are {len(old)} names"
        for i in wrong[:1]
    ]
    if problems:
        raise UserError("\n".join(problems))
    lines, counts = [], np.zeros(len(new), np.int64)
    for path, label in zip(listed.paths, listed.labels):
        found = answers[old[label]]
        if found is None:
            continue
        present = np.array([name in found for name in new], np.int64)  # (len(new),)
        counts += present
        text = "\t" + ",".join(map(str, present)) if has_attributes else f" {present.argmax()}"
        lines.append(f"{path}{text}\n")
    return "".join(lines), counts


def _read_map(file: str, old: list[str], source: str) -> tuple[Answers, bool]:
    """The map, and whether its values are lists of attributes."""
    try:
        tree = read_yaml(Path(file).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"--map {file}: cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise UserError(in_file(file, error)) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: is not UTF-8 text ({error.reason})") from error
    if not isinstance(tree, dict):
        raise UserError(f"{file}: expected lines `class: new class` or `class: [attribute, ...]`")
    tree = {str(name): value for name, value in tree.items()}
    for name in tree:
        if name not in old:
            near = difflib.get_close_matches(name, old, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(old[:20])}"
            raise UserError(f"{file}: {source} has no class {name!r}; {hint}")
    missing = [name for name in old if name not in tree]
    if missing:
        raise UserError(
            f"{file}: says nothing about {', '.join(missing[:20])}; a class whose images should "
            "be left out is written `name: null`"
        )
    values = {name: value for name, value in tree.items() if value is not None}
    has_attributes = all(isinstance(value, list) for value in values.values())
    for name, value in values.items():
        items = value if has_attributes else [value]
        if not all(isinstance(item, str) for item in items):
            kind = "texts in its list" if has_attributes else "a text, as other classes have"
            raise UserError(f"{file}: {name}: expected {kind}, found {shown(value)} (quote it?)")
        values[name] = items
    return {name: values.get(name) for name in tree}, has_attributes
