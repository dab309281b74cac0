"""Mutated recipes and overrides: each is a recipe or one short message, at once."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from experiments import config_fuzz
from experiments.config_fuzz import Case, fuzz, run_case
from ppcls_lite.data.image_list import read_image_list
from ppcls_lite.data.labels import read_label_file
from ppcls_lite.errors import UserError
from ppcls_lite.inference.inputs import find_images
from ppcls_lite.models.weights.load import find_weights


def test_two_hundred_cases() -> None:
    failures, ends = fuzz(200, seed=3)
    assert failures == []
    assert ends["recipe"] > 5 and ends["message"] > 100


def endless(*arguments: object) -> None:
    while True:
        pass


def test_a_failure_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(config_fuzz, "load_config", fails)
    assert run_case(Case("Global: {}"), tmp_path)[0].startswith("KeyError in test_config_fuzz.py:")
    monkeypatch.setattr(
        config_fuzz,
        "load_config",
        lambda *_: (_ for _ in ()).throw(UserError("x" * config_fuzz.MAX_MESSAGE)),
    )
    assert run_case(Case("Global: {}"), tmp_path)[0] == "long message"
    shorter = config_fuzz.TIMERS | {signal.SIGPROF: (signal.ITIMER_PROF, 0.01)}
    monkeypatch.setattr(config_fuzz, "TIMERS", shorter)
    monkeypatch.setattr(config_fuzz, "load_config", endless)
    assert run_case(Case("Global: {}"), tmp_path)[0] == "no answer"


@pytest.mark.parametrize(
    ("text", "overrides", "says"),
    [
        ("_base_:\n", (), "_base_: expected a file or a list"),
        ("_base_: true\n", (), "_base_: expected a file or a list"),
        ("_base_: ''\n", (), "_base_: expected a file or a list"),
        (f"_base_: {'a' * 5000}\n", (), "but there is no file"),
        (f"Global: {{epochs: '{'9' * 6000}'}}\n", (), "Global.epochs: expected an integer"),
        ("Global: {epochs: '²'}\n", (), "found '²'"),
        ("Global: {epochs: 1:30}\n", (), "found '1:30'"),
        (
            "Global: {max_minutes: 1" + "0" * 300 + "}\n",
            (),
            "Global.max_minutes: expected a number",
        ),
        (f"Global: {{{'a' * 1000}: 1}}\n", (), "Global has no key 'aaa"),
        ("Arch: {name: X}\n", ("Metric.²=1",), "Metric.²"),
        ("Arch: [{name: X}]\n", ("Arch.²=1",), "expected an index .0 to 0., found '²'"),
        ("Arch: {name: X}\n", ("a." * 60 + "a=1",), "expected path.to.key=value"),
        ("Arch: {name: X}\n", (f"Arch={'[' * 3000}",), "more than 50 lists and maps"),
        (f"Arch: [{', '.join(['x'] * 5000)}]\n", (), "Arch: expected one model"),
        (f"Global: {{{', '.join(f'k{i}: 1' for i in range(3000))}}}\n", (), "more"),
        ("Arch: {name: PPLCNet_x0_5}\nGlobal: {plugins: [" + "b" * 5000 + "]}", (), "no such file"),
    ],
)
def test_what_once_had_a_traceback_or_no_end(
    text: str, overrides: tuple[str, ...], says: str, tmp_path: Path
) -> None:
    kind, message = run_case(Case(text, overrides), tmp_path)
    assert kind == "message", message
    assert says.replace(".0 to 0.", "(0 to 0)") in message


def test_a_name_that_no_file_can_have_is_a_missing_file(tmp_path: Path) -> None:
    name = "a" * 5000
    for read in (
        lambda: read_label_file(name),
        lambda: read_image_list(name, "."),
        lambda: read_image_list(str(Path(__file__)), name),
        lambda: find_images([name], "--input"),
        lambda: find_weights(name),
        lambda: find_weights("/"),
    ):
        with pytest.raises(UserError, match=r"no (such|file|image folder|weights)|does not exist"):
            read()
