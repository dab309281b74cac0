"""What a search has found out outlives it."""

from pathlib import Path

import pytest

from ppcls_lite.errors import UserError
from ppcls_lite.search.journal import NAME, Journal, read


def test_a_line_that_is_cut_off_is_left_out_and_removed(tmp_path: Path) -> None:
    Journal(tmp_path, {"target": 1.0}).put("score", "a", 0.5)
    file = tmp_path / NAME
    whole = file.read_text()
    file.write_text(whole + '{"kind": "score", "key": "b", "va')
    values, cut = read(file)
    assert values[("score", "a")] == 0.5 and ("score", "b") not in values
    assert cut.startswith('{"kind"') and whole + cut == file.read_text()
    Journal(tmp_path, {"target": 1.0}, writes=False)
    assert file.read_text() != whole  # rank 0 alone writes
    assert Journal(tmp_path, {"target": 1.0}).get("score", "a") == 0.5
    assert file.read_text() == whole


def test_what_is_no_entry_is_named(tmp_path: Path) -> None:
    Journal(tmp_path, {"target": 1.0})
    with (tmp_path / NAME).open("a") as file:
        file.write("[1, 2]\n")
    with pytest.raises(UserError, match=r"journal.jsonl, line 2: is no entry of a search"):
        Journal(tmp_path, {"target": 1.0})


def test_the_folder_of_another_search_is_refused(tmp_path: Path) -> None:
    Journal(tmp_path, {"target": 1.0, "seed": 1})
    with pytest.raises(UserError, match=r"\(seed: 1 there, 2 now; fill: None there, 0.8 now\)"):
        Journal(tmp_path, {"target": 1.0, "seed": 2, "fill": "0.8"})
