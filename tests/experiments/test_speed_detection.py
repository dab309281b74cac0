"""The benchmark of detection, on a small network and images."""

from __future__ import annotations

import re

import pytest

from experiments.speed import detection


@pytest.mark.parametrize("arch", ["picodet_PPLCNet_x0_25", "picodet_legacy_PPLCNet_x0_25"])
def test_it_compares_the_kernels_with_paddle(
    arch: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(detection.kernels, "prepare", lambda *given: asked.append(given[1:]))
    small = ["--arch", arch, "--batch-size", "2", "--sizes", "64", "32", "--rounds", "1"]
    assert detection.run([*small, "--threads", "--at-least", "1000"]) == 1
    assert asked == [("off", "cpu"), ("on", "cpu")]
    printed = capsys.readouterr().out
    assert "batches of 2 images, 64, 32 pixels" in printed
    assert len(re.findall(r"s an update", printed)) == 2
    assert re.search(r"kernels: \d+\.\d\dx by the clock, \d+\.\d\dx by processor", printed)


def test_each_number_of_threads_has_a_process(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def ran(command: list[str], env: dict[str, str]) -> object:
        calls.append((command[-3:], env["OMP_NUM_THREADS"]))
        return type("Done", (), {"returncode": len(calls) - 1})

    monkeypatch.setattr(detection.subprocess, "run", ran)
    assert detection.run(["--rounds", "1"]) == 1  # the worst one's
    assert calls == [(["--rounds", "1", "--threads"], count) for count in "12"]
