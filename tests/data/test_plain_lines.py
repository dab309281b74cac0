"""Lists as arrays: the same as line by line, whatever stands in them and wherever blocks end."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from ppcls_lite.data import image_list
from ppcls_lite.data.dataset_base import digest_of
from ppcls_lite.data.image_list import PathList, read_image_list
from ppcls_lite.data.plain_lines import plain_lines

PLAIN = "a/b.jpg 0\n\nc d.jpg 17\r\n/e.png\t123456789012345678\nf,g.jpg 007\nlast.jpg 3"
ODD = [
    "a.jpg",  # no label
    "a.jpg x",
    "a.jpg -1",
    "a.jpg +1",
    "a.jpg 1234567890123456789",
    " a.jpg 1",
    "a.jpg 1 ",
    "a.jpg  1",
    "a.jpg, 1",
    '"a.jpg" 1',
    "猫.jpg 1",
    "a.jpg\x0b1",
    "a\rb.jpg 1",
    " 1",
    "a.jpg\u30001",
]


def read(file: Path, delimiter: str | None) -> tuple[object, ...]:
    listed = read_image_list(str(file), "root", delimiter)
    return list(listed.paths), list(listed.labels), listed.lines.tolist(), listed.problems


@pytest.mark.parametrize("block", [1, 16, 1 << 22])
@pytest.mark.parametrize("delimiter", [None, " ", "\t", ",", ", "])
@pytest.mark.parametrize("odd", ["", *ODD])
def test_both_ways_of_reading_give_the_same(
    odd: str, delimiter: str | None, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("root").mkdir()
    text = PLAIN if delimiter is None else PLAIN.replace(" ", delimiter).replace("\t", delimiter)
    file = tmp_path / "list.txt"
    file.write_bytes(f"\ufeffx.jpg{delimiter or ' '}5\n{odd}\n{text}".encode())
    monkeypatch.setattr(image_list, "_BLOCK", block)
    found = read(file, delimiter)
    monkeypatch.setattr(image_list, "plain_lines", lambda *_: None)
    assert found == read(file, delimiter)
    assert len(found[0]) >= 5 or found[3]


def test_plain_lines_are_read_as_arrays_and_odd_ones_are_not() -> None:
    found = plain_lines(PLAIN.encode(), None)
    assert found is not None
    assert found.paths == b"a/b.jpgc d.jpg/e.pngf,g.jpglast.jpg"
    assert found.labels.tolist() == [0, 17, 123456789012345678, 7, 3]
    assert found.places.tolist() == [0, 2, 3, 4, 5]
    assert [odd for odd in ODD if plain_lines(f"b.jpg 1\n{odd}\n".encode(), None)] == []


def test_a_mistake_is_named_with_its_line_wherever_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_list, "_BLOCK", 32)
    file = tmp_path / "list.txt"
    file.write_bytes(b"a.jpg 1\n" * 20 + "ä.jpg 1\n".encode("latin-1"))
    with pytest.raises(image_list.UserError, match=r"list.txt:21: not UTF-8 text"):
        read_image_list(str(file), str(tmp_path))
    file.write_text("a.jpg 1\n" * 20 + "b.jpg\n")
    (problem,) = read_image_list(str(file), str(tmp_path)).problems
    assert "list.txt:21: expected a path, a space and a label" in problem


def test_paths_are_the_same_one_by_one_and_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_list, "_TOGETHER", 3)
    names = ["a.jpg", "", "/b.jpg", "猫/c.jpg", "d\udce4.jpg", "e.jpg", "", ""]
    paths = PathList(names, "root/")
    wanted = [name if name.startswith("/") else f"root/{name}" for name in names]
    assert list(paths) == wanted == [paths[i] for i in range(len(names))] == paths[:]
    assert list(PathList([])) == [] and list(PathList(names)) == names


def test_the_check_sum_of_names_does_not_depend_on_the_parts() -> None:
    names = [f"/data/{i % 7}/{i}.jpg" for i in range(40_000)]
    whole = "\n".join(name.removeprefix("/data/") for name in names)
    assert digest_of(names) == hashlib.sha256(whole.encode()).hexdigest()
    assert digest_of(PathList(names)) == digest_of(names)
    assert digest_of([]) == hashlib.sha256(b"").hexdigest()
