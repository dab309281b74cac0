"""`ppcls-lite completion`: what a shell offers, tried in the shell."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from ppcls_lite import cli
from ppcls_lite.completion import choices_of, first_words_of, options_of, script

HELP = """\
usage: ppcls-lite x [-h] --model DIR

positional arguments:
  COMMAND
    digits    1,797 handwritten digits, not --real
    folder    yours

options:
  -h, --help            show this help
  -c, --config FILE     as -o and --override say
  --engine {paddle,auto}
                        the one that --model has
"""


@pytest.fixture(scope="module")
def bash() -> str:
    if shutil.which("bash") is None:
        pytest.skip("no bash on this machine")
    return script("bash")


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["pred"], ["predict", "predict-many"]),
        (["predict", "--eng"], ["--engine"]),
        (["predict", "--engine", ""], ["paddle", "openvino", "onnxruntime", "auto", "auto-p99"]),
        (["train", "--conf"], ["--config"]),
        (["train", "con"], []),  # the shell's own completion of file names follows
        (["prepare", "dig"], ["digits"]),
        (["completion", ""], ["bash", "zsh"]),
        (["nothing", "--x"], []),
    ],
)
def test_bash_offers(bash: str, words: list[str], offered: list[str]) -> None:
    line = " ".join(f"'{word}'" for word in ["ppcls-lite", *words])
    code = f"{bash}\nCOMP_WORDS=({line}); COMP_CWORD={len(words)}; _ppcls_lite\n"
    done = subprocess.run(
        ["bash", "-c", code + 'printf "%s\\n" "${COMPREPLY[@]}"'],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == offered


def test_every_command_is_known_to_both_shells() -> None:
    for shell in ("bash", "zsh"):
        text = script(shell)
        assert all(f" {name}) " in text for name in cli.COMMANDS)
    assert r"a recipe'\''s data" in text  # an apostrophe within zsh's quotes
    if shutil.which("zsh"):
        subprocess.run(["zsh", "-n"], input=text, text=True, check=True)


def test_options_are_those_of_the_list_and_not_of_its_prose() -> None:
    assert options_of(HELP) == ["-h", "--help", "-c", "--config", "--engine"]
    assert choices_of(HELP) == {"--engine": ["paddle", "auto"]}
    assert first_words_of(HELP) == ["digits", "folder"]
