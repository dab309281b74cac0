"""Label files: the names of a network's classes, one line each, in a user's file or ours.

Bundled are the lists that PaddleClas's recipes name by its paths: ImageNet-1k, NUS-WIDE-SCENE (33
scenes), COCO (80 classes), the attributes of PA100K and VeRi, and those of its PULC tasks.
Read next: folder.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from ppcls_lite.config.file import is_file
from ppcls_lite.data.image_list import read_text
from ppcls_lite.errors import UserError, shown

BUNDLED = Path(__file__).resolve().parent.parent / "label_lists"
NO_NAMES = "in a recipe, -o Infer.PostProcess.class_id_map_file=null answers without names"


def find_label_file(path: str | Path, remedy: str = NO_NAMES) -> Path:
    """The file at `path`, or else the bundled list of the same file name.

    Raises UserError with `remedy` where there is neither.
    """
    if is_file(path):
        return Path(path)
    bundled = BUNDLED / PurePosixPath(str(path).replace("\\", "/")).name
    if is_file(bundled):
        return bundled
    known = ", ".join(sorted(file.name for file in BUNDLED.glob("*.txt")))
    raise UserError(
        f"label file {shown(str(path))} does not exist. Give the path of a text file with one "
        f"class a line, `id name` or only the name, or one of the bundled lists: {known}; {remedy}"
    )


def read_label_file(
    path: str | Path, delimiter: str | None = None, remedy: str = NO_NAMES
) -> list[str]:
    """The class names in the order of their ids.

    A line is `id name`, divided by `delimiter` (default: the first white space), or only the name
    of the class whose id is the line's number, from 0. Names may hold spaces; the text is UTF-8.
    Raises UserError for an empty file, an empty line, or ids that are not 0 .. n-1, each once.
    """
    file = find_label_file(path, remedy)
    lines = [line.strip() for line in read_text(file).rstrip().split("\n")]
    if "" in lines:
        empty = lines.index("") + 1
        raise UserError(f"{file}:{empty}: the line is empty; expected `id name` or a name")
    pairs = [line.split(delimiter, 1) for line in lines]
    if not all(len(pair) == 2 and pair[0].strip().isdecimal() for pair in pairs):
        return lines
    names = {int(number): name.strip() for number, name in pairs}
    if sorted(names) != list(range(len(lines))):
        missing = next((i for i in range(len(lines)) if i not in names), len(lines))
        raise UserError(
            f"{file}: every line begins with a number, but the numbers are not the class ids "
            f"0 .. {len(lines) - 1}, each once (id {missing} is missing)"
        )
    return [names[i] for i in range(len(names))]


def caption_of(label: np.ndarray, one_class: bool, names: Sequence[str] | None) -> str:
    """What a batch says of an image, in words.

    label: a class id, shares of the classes (C,), or attributes, (C,) or in the first of several
    rows; one_class: whether the images have one class each. `cat`; `cat 0.70 dog 0.30` of mixed
    images; of attributes those that are there.
    """

    def name(number: int) -> str:
        return names[number] if names and number < len(names) else str(number)

    if label.size == 1:
        return name(int(label.item())) if label.item() >= 0 else "no label"
    row = label.reshape(-1, label.shape[-1])[0]
    if not one_class:
        return ", ".join(map(name, np.flatnonzero(row > 0.5).tolist())) or "none"
    largest = np.argsort(-row, kind="stable")[:2].tolist()
    if row[largest[0]] > 0.995:
        return name(largest[0])
    return " ".join(f"{name(i)} {row[i]:.2f}" for i in largest if row[i] > 0)
