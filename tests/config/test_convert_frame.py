"""Reading a foreign recipe, keeping account of its keys, and finding out whose it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ppcls_lite.cli import main
from ppcls_lite.config.convert import dialects
from ppcls_lite.config.convert.dialects import SHOWN, Conversion, Dialect, convert
from ppcls_lite.config.convert.keys import Keys, Ledger
from ppcls_lite.config.convert.reader import read_foreign
from ppcls_lite.errors import ConfigError


def write(root: Path, **files: str) -> Path:
    for name, text in files.items():
        (root / f"{name}.yml").write_text(text, encoding="utf-8")
    return root / f"{next(iter(files))}.yml"


def test_bases_merge_map_by_map_and_lists_replace(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        own="_base_: [one.yml, two.yml]\nloss: {types: [c]}\n"
        "model: {_inherited_: false, type: X}\n",
        one="iters: 5\nloss: {types: [a, b], coef: [1, 1]}\nmodel: {type: Y, depth: 3}\n",
        two="_BASE_: three.yml\niters: 7\n",
        three="rate: 1e-4\niters: 9\n",
    )
    assert read_foreign(file) == {
        "iters": 7,
        "loss": {"types": ["c"], "coef": [1, 1]},
        "model": {"type": "X"},
        "rate": 1e-4,
    }


def test_tags_are_names(tmp_path: Path) -> None:
    file = write(tmp_path, own="schedulers:\n- !CosineDecay {max_epochs: 300}\n- !Flat\n")
    assert read_foreign(file)["schedulers"] == [
        {"name": "CosineDecay", "max_epochs": 300},
        {"name": "Flat"},
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("_base_: own.yml\n", "lead in a circle"),
        ("_base_: away.yml\n", "_base_ names away.yml, but there is no file"),
        ("_base_: [1]\n", r"_base_: expected a file or a list, found \[1\]"),
        ("- 1\n", r"expected keys and values, found \[1\]"),
        ("a: !!python/object/apply:os.system [x]\n", "not valid YAML"),
        ("a: !Tag [1]\n", "expected a map behind !Tag"),
        ("a: [" * 60 + "]" * 60, "lists and maps in one another"),
        ("a: b: c\n", r"own.yml:1:5: not valid YAML"),
    ],
)
def test_what_cannot_be_read(text: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=problem):
        read_foreign(write(tmp_path, own=text))


def test_a_missing_file_and_too_many_bases(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file"):
        read_foreign(tmp_path / "none.yml")
    chain = {f"f{i}": f"_base_: f{i + 1}.yml\n" for i in range(45)}
    with pytest.raises(ConfigError, match="more than 40 bases"):
        read_foreign(write(tmp_path, **chain, f45="a: 1\n"))


def test_every_key_is_accounted_for() -> None:
    keys = Keys({"iters": 7, "lr": {"rate": 0.1, "odd": 1}, "ops": [{"type": "A"}], "gone": 1})
    keys.ledger.notes.append("all is well")
    assert keys.number("iters", "Global.iters") == 7 and keys.take("none", "x", 5) == 5
    rate = keys.part("lr")
    assert rate.number("rate", "Optimizer.lr") == 0.1
    rate.close("nobody knows it")
    (op,) = keys.parts("ops")
    assert op.peek("type") == "A" and op.left() == ("type",)
    op.drop("type", "has no effect")
    op.drop("type", "is not there any more")
    keys.close()
    assert keys.ledger == Ledger(
        carried={"iters": "Global.iters", "lr.rate": "Optimizer.lr"},
        dropped={"ops.0.type": "has no effect"},
        lost={"lr.odd": "nobody knows it", "gone": "there is no counterpart here"},
        notes=["all is well"],
    )


def test_values_of_another_kind_are_named() -> None:
    keys = Keys({"lr": 3, "iters": "many", "flag": True})
    with pytest.raises(ConfigError, match="lr: expected a map, found 3"):
        keys.part("lr")
    for key in ("iters", "flag"):
        with pytest.raises(ConfigError, match=f"{key}: expected a number"):
            keys.number(key, "x")


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    def converted(keys: Keys) -> dict[str, Any]:
        name = keys.take("net", "Arch.name")
        return {"Arch": {"name": name, "class_num": keys.number("kinds", "Arch.class_num")}}

    monkeypatch.setattr(dialects, "DIALECTS", (Dialect("Toy", ("net",), converted),))


def test_the_command_writes_the_recipe_and_names_what_is_lost(
    toy: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, own="net: PPLCNet_x0_25\nkinds: 3\nmagic: 1\n")
    target = tmp_path / "new" / "mine.yaml"
    assert main(["convert-config", str(file), "--output", str(target)]) == 0
    text = target.read_text(encoding="utf-8")
    assert text.startswith("# Converted from own.yml (Toy)")
    assert "# Not carried: magic: there is no counterpart here\n" in text
    said = capsys.readouterr()
    assert "could not be carried (1):\n  magic : there is no counterpart" in said.err
    assert "net -> Arch.name" in said.err and not said.out
    assert main(["convert-config", str(target)]) == 2
    assert "runs as it is" in capsys.readouterr().err
    assert main(["convert-config", str(file), "--output", str(file)]) == 2
    capsys.readouterr()
    assert main(["convert-config", str(file), "--output", str(file / "mine.yaml")]) == 1
    assert capsys.readouterr().err == f"error: {file}: File exists; name another place\n"
    assert main(["convert-config", str(file)]) == 0
    assert capsys.readouterr().out == text


def test_a_recipe_that_does_not_run_yet_says_so(
    toy: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, own="net: PPLCNet_x9\nkinds: 3\n")
    assert main(["convert-config", str(file)]) == 1
    assert "there is no model 'PPLCNet_x9'" in capsys.readouterr().err


def test_an_unknown_language_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"not known whose.*PaddleSeg has model and.*found a, b"):
        convert(write(tmp_path, own="a: 1\nb: 2\n"))


def test_a_report_is_bounded() -> None:
    ledger = Ledger(lost={f"key{i}": "why" for i in range(SHOWN + 9)})
    report = Conversion("Toy", {}, ledger, None).report()
    assert f"could not be carried ({SHOWN + 9}):" in report and "and 9 more" in report
    assert len(report.splitlines()) == SHOWN + 2
