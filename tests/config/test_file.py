"""YAML, bases and overrides to one tree."""

from __future__ import annotations

from pathlib import Path

import pytest

from ppcls_lite.config.file import dump, load_config, parse_value
from ppcls_lite.errors import ConfigError


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_numbers_in_scientific_notation_are_numbers(tmp_path: Path) -> None:
    path = write(tmp_path, "a.yaml", "a: 1e-4\nb: 3e-05\nc: '1e-4'\nd: 1.0/255.0\ne: 1E3\n")
    assert load_config(path) == {"a": 1e-4, "b": 3e-5, "c": "1e-4", "d": "1.0/255.0", "e": 1000.0}


def test_bases_merge_in_order_and_lists_are_replaced(tmp_path: Path) -> None:
    write(tmp_path, "base/one.yaml", "A: {x: 1, y: 1, l: [1, 2]}\nB: {k: 1}\n")
    write(tmp_path, "base/two.yaml", "A: {y: 2}\n")
    path = write(
        tmp_path,
        "own.yaml",
        "_base_: [base/one.yaml, base/two.yaml]\nA: {l: [3]}\nB: {_replace_: true, z: 9}\n",
    )
    assert load_config(path) == {"A": {"x": 1, "y": 2, "l": [3]}, "B": {"z": 9}}


def test_a_base_of_a_base_is_relative_to_its_own_folder(tmp_path: Path) -> None:
    write(tmp_path, "deep/er/root.yaml", "A: {x: 1}\n")
    write(tmp_path, "deep/mid.yaml", "_base_: er/root.yaml\nA: {y: 2}\n")
    path = write(tmp_path, "own.yaml", "_base_: deep/mid.yaml\nA: {z: 3}\n")
    assert load_config(path) == {"A": {"x": 1, "y": 2, "z": 3}}


def test_overrides_walk_lists_and_empty_maps(tmp_path: Path) -> None:
    text = "ops:\n  - Crop: {size: 224}\n  - ToCHW:\n  - Flip\nG: {e: 1}\n"
    overrides = ["ops.0.Crop.size=192", "ops.1.ToCHW.k=1", "ops.2.Flip.code=0", "G.lr=1e-4"]
    overrides += ["M.a.b.c=1", "M.a.b.d=2"]  # neither loses the other
    tree = load_config(write(tmp_path, "a.yaml", text), [*overrides, "N.a=[1]"])
    assert tree["ops"] == [{"Crop": {"size": 192}}, {"ToCHW": {"k": 1}}, {"Flip": {"code": 0}}]
    assert tree["G"] == {"e": 1, "lr": 1e-4}
    assert tree["N"] == {"a": [1]}
    assert tree["M"] == {"a": {"b": {"c": 1, "d": 2}}}


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("G.e", "expected path.to.key=value"),
        ("=3", "expected path.to.key=value"),
        ("G..e=3", "expected path.to.key=value"),
        ("ops.4.Crop.size=3", r"expected an index \(0 to 0\), found '4'"),
        ("ops.x=3", "ops is a list"),
        ("G.e.deeper=3", "G.e is 1, which has nothing below it"),
        ("G.ops.1.Crop.size=3", "G.ops is no list in this recipe, so it has no item 1"),
        ("G.e=[1", "not valid YAML"),
    ],
)
def test_a_wrong_override_is_named(tmp_path: Path, override: str, says: str) -> None:
    path = write(tmp_path, "a.yaml", "ops:\n  - Crop: {size: 224}\nG: {e: 1}\n")
    with pytest.raises(ConfigError, match=says) as caught:
        load_config(path, [override])
    assert override in str(caught.value)


def test_all_wrong_overrides_are_reported_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, "a.yaml", "G: {e: 1}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path, ["G.e.x=1", "nothing"])
    assert "G.e.x" in str(caught.value) and "nothing" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: {b: 1, b: 2}", "a.yaml:1:11: .*'b' is given twice"),
        ("a: [1, 2", "a.yaml:.*not valid YAML"),
        ("- 1\n", "found a list"),
        ("", "found nothing"),
        ("_base_: gone.yaml\n", "names gone.yaml, but there is no file"),
        ("_base_: a.yaml\n", "circle"),
    ],
)
def test_a_broken_file_is_named_with_its_place(tmp_path: Path, text: str, says: str) -> None:
    path = write(tmp_path, "a.yaml", text)
    with pytest.raises(ConfigError, match=says):
        load_config(path)


def test_a_missing_file_suggests_its_neighbour(tmp_path: Path) -> None:
    write(tmp_path, "PPLCNet_x0_5.yaml", "a: 1\n")
    with pytest.raises(ConfigError, match=r"no such file.*did you mean PPLCNet_x0_5\.yaml"):
        load_config(tmp_path / "PPLCNet_x05.yaml")


def test_a_recipe_of_the_package_is_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config("configs/PPLCNet_x0_5.yaml")["Arch"]["name"] == "PPLCNet_x0_5"


def test_a_base_of_the_package_is_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, "mine.yaml", "_base_: configs/_base_/pplcnet.yaml\nArch: {name: X}\n")
    assert load_config(path)["Optimizer"]["name"] == "Momentum"


def test_dump_reads_back_equal(tmp_path: Path) -> None:
    path = write(tmp_path, "a.yaml", "n: &n {m: [0.5, 1e-4]}\na: *n\nb: *n\nc: ''\nd: null\n")
    tree = load_config(path)
    copy = write(tmp_path, "copy.yaml", dump(tree))
    assert "*" not in copy.read_text(encoding="utf-8")
    assert load_config(copy) == tree


def test_values_are_yaml() -> None:
    assert [parse_value(v) for v in ("1", "1e-4", "true", "null", "a/b", "[1, x]")] == [
        1,
        1e-4,
        True,
        None,
        "a/b",
        [1, "x"],
    ]
