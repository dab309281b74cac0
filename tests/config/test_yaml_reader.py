"""YAML within bounds: what a few hostile bytes stand for, and numbers as YAML 1.2 has them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ppcls_lite.config.file import load_config
from ppcls_lite.config.yaml_reader import MAX_BYTES, read_yaml
from ppcls_lite.errors import ConfigError, UserError
from ppcls_lite.inference.spec import InferenceSpec

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]\n" for i in range(9)
)
MERGE_BOMB = "a0: &a0 {k: 1}\n" + "".join(
    f"a{i + 1}: &a{i + 1} {{<<: [{', '.join([f'*a{i}'] * 9)}]}}\n" for i in range(9)
)
CHAIN = "a0: &a0 [x]\n" + "".join(f"a{i + 1}: &a{i + 1} [*a{i}]\n" for i in range(100))
HOSTILE = {
    "alias bomb": (BOMB, "more than [20,5]+000 values"),
    "merge bomb": (MERGE_BOMB, "more than [20,5]+000 values"),
    "deep by aliases": (CHAIN, "more than 50 lists and maps"),
    "list in itself": ("a: &a [*a]", "inside itself"),
    "map in itself": ("&a {b: *a}", "inside itself"),
    "merged in itself": ("&a {<<: *a}", "inside itself"),
    "brackets": ("a: " + "[" * 3000, "more than 50 lists and maps"),
    "dashes": ("- " * 3000, "more than 50 lists and maps"),
    "digits": ("a: " + "9" * 6000, "kind int, found '9999"),
    "hexadecimal": ("a: 0x" + "f" * 6000, "an integer of more than 300 digits"),
    "no int": ("a: !!int abc", "kind int, found 'abc'"),
    "empty int": ("a: !!int ''", "kind int, found ''"),
    "no bool": ("a: !!bool abc", "kind bool, found 'abc'"),
    "no time": ("a: !!timestamp abc", "kind timestamp, found 'abc'"),
    "no digits": ("a: 0x_", "kind int, found '0x_'"),
    "nul": ('a: "x\\0y"', "a character that no file may hold"),
    "surrogate": ('a: "\\ud800"', "a character that no file may hold"),
    "map as key": ("? {a: 1}\n: 2", "cannot be a key"),
    "key twice": ("a: {k: 1, k: 2}", "'k' is given twice"),
    "code": ("a: !!python/object:os.system x", "could not determine a constructor"),
}


@pytest.mark.parametrize(("text", "says"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_yaml_is_one_short_message_for_both_readers(
    text: str, says: str, tmp_path: Path
) -> None:
    path = tmp_path / "inference.yml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=says) as recipe:
        load_config(path)
    with pytest.raises(UserError, match=says) as spec:
        InferenceSpec.read(tmp_path)
    assert max(len(str(recipe.value)), len(str(spec.value))) < 600
    assert f"{path}:" in str(recipe.value)


def test_a_text_beyond_the_bound_is_not_read() -> None:
    with pytest.raises(yaml.YAMLError, match="of which at most"):
        read_yaml("#" * (MAX_BYTES + 1))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1:30", "1:30"),
        ("1:30.5", "1:30.5"),
        ("2020-13-45", "2020-13-45"),
        ("2020-01-31", "2020-01-31"),
        ("-1_000", -1000),
        ("0x1F", 31),
        (".5", 0.5),
        ("-1.5e+3", -1500.0),
        ("on", True),
        ("9" * 300, int("9" * 300)),
    ],
)
def test_scalars(text: str, value: object) -> None:
    found = read_yaml(text)
    assert found == value and type(found) is type(value)


def test_merge_keys(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(
        "first: {inner: &a {one: 1, two: 1, <<: &z {one: 0, six: 0}}}\n"
        "second: {<<: *a, one: 2}\n"
        "third: {<<: [*z, {ten: 0}], ten: 3}\n",
        encoding="utf-8",
    )
    assert load_config(path) == {
        "first": {"inner": {"one": 1, "two": 1, "six": 0}},
        "second": {"one": 2, "two": 1, "six": 0},
        "third": {"one": 0, "six": 0, "ten": 3},
    }


@pytest.mark.parametrize("sizes", ["[3, 1000000000000, 224]", "[3, 16384, 100000]", "[0, 1, 1]"])
def test_an_inference_yml_with_a_size_that_no_image_has(sizes: str, tmp_path: Path) -> None:
    (tmp_path / "inference.yml").write_text(
        f"Global: {{image_shape: {sizes}}}\nPreProcess: {{transform_ops: []}}\n", encoding="utf-8"
    )
    with pytest.raises(UserError, match=r"image_shape: expected .* between 1 and 16,384, found"):
        InferenceSpec.read(tmp_path)
