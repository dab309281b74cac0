"""`ppcls-lite`: every command can be called, by its name and by its script."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ppcls_lite import cli
from ppcls_lite.completion import first_words_of, help_of, options_of
from ppcls_lite.system import installed

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(path for folder in ("tools", "deploy") for path in (ROOT / folder).glob("*.py"))


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_a_help_text_of_its_name(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main([name, "--help"])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: ppcls-lite {name} ")


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_help_text_says_what_each_option_is(name: str) -> None:
    words = [[], *([word] for word in first_words_of(help_of(name)) if name == "prepare")]
    for word in words:
        text, _, _ = help_of(name, *word).partition("\nexample:\n")
        parts = re.split(r"^  (?=[-a-zA-Z{])", text, flags=re.M)[1:]  # an option, or an argument
        for part in parts:
            head, _, about = part.replace("\n", "  ").partition("  ")
            assert re.search(r"[a-z]{2}", about) or "COMMAND" in head, f"{name}: {part}"
            option = re.search(r"--([\w-]+) ([A-Z_]+)", head)
            shouted = option and option[1].upper().replace("-", "_") == option[2]
            assert not shouted or len(option[2]) < 6, f"{name}: say what kind of value: {part}"


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_help_text_ends_with_an_example_that_it_knows(name: str) -> None:
    text, example = help_of(name), cli.EXAMPLES[name]
    assert text.endswith(f"\nexample:\n  ppcls-lite {name} {example}\n")
    known = {*options_of(text), *options_of(help_of(name, example.split()[0]))}
    assert {word for word in example.split() if word.startswith("-")} <= known
    for recipe in re.findall(r"-c (configs\S+)", example):
        assert (ROOT / recipe).is_file()


def test_the_overview_has_a_line_for_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    listed = re.findall(r"^  ([\w-]+) ", capsys.readouterr().out, flags=re.M)
    assert listed == list(cli.COMMANDS)
    assert cli.main(["trian"]) == 2
    assert "there is no command 'trian'; did you mean train?" in capsys.readouterr().err
    assert cli.main(["tarin"]) == 2 and "did you mean train?" in capsys.readouterr().err
    assert cli.main(["nothing"]) == 2 and "ppcls-lite COMMAND" in capsys.readouterr().err


def test_every_script_of_a_command_names_one_that_exists() -> None:
    called = {}
    for path in SCRIPTS:
        found = re.search(r'main\(\["([\w-]+)", \*sys\.argv\[1:\]\]\)', path.read_text())
        if found:
            called[path.name] = found[1]
    # deploy/benchmark.py adds the published tables, which are in experiments/; completion is of
    # the installed command
    assert set(called.values()) == set(cli.COMMANDS) - {"benchmark", "completion"}
    assert called["zoo.py"] == "zoo" and called["convert_weights.py"] == "convert"


def test_the_quick_start_names_its_tasks() -> None:
    script = ["bash", str(ROOT / "tools" / "quickstart.sh"), "nonsense"]
    done = subprocess.run(script, check=False, capture_output=True, text=True)
    assert done.returncode == 2 and "segmentation" in done.stderr


def test_a_package_that_is_missing_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(ROOT / "setup.py", tmp_path / "a.safetensors")
    monkeypatch.setattr(installed.importlib.util, "find_spec", lambda name: None)
    arguments = ["convert", str(tmp_path / "a.safetensors"), str(tmp_path / "a.pdparams")]
    assert cli.main(arguments) == 1
    assert 'safetensors is not installed: pip install ".[convert]"' in capsys.readouterr().err
