"""The roofline of a training step, on a small network and image."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from experiments.speed import roofline, train
from ppcls_lite import kernels
from ppcls_lite.kernels import build
from ppcls_lite.kernels.library import FUNCTIONS, DenseShape, DepthwiseShape, NormShape
from ppcls_lite.kernels.tensors import POINTWISE, Window


def test_the_work_of_a_call_is_counted() -> None:
    depthwise = Window((3, 3), (2, 2), (1, 1))
    one = DepthwiseShape(2, 8, 10, 10, 5, 5, *depthwise.numbers())
    assert roofline.work_of(False, one) == roofline.Work(
        bytes=4 * (2 * 8 * (100 + 25) + 8 * 9), products=2 * 8 * 25 * 9
    )
    two = DenseShape(2, 8, 5, 5, 16, 5, 5, *POINTWISE.numbers())
    assert roofline.work_of(True, two) == roofline.Work(
        bytes=4 * (2 * 2 * (8 + 16) * 25 + 8 * 16), products=2 * 2 * 25 * 8 * 16
    )
    assert roofline.work_of(False, NormShape(2, 8, 25)).bytes == 4 * 2 * 2 * 8 * 25


class Idle:
    """A library whose functions compute nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        assert name in FUNCTIONS
        return lambda *arguments: None


def test_every_call_of_a_step_is_printed_with_its_bound(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        train.kernels, "prepare", lambda model, *rest: kernels.convert(model, Idle())
    )
    small = ["--arch", "PPLCNet_x0_25", "--batch-size", "2", "--image-size", "32", "--steps", "1"]
    assert roofline.run([*small, "--bandwidth", "10", "--peak", "50"]) == 0
    printed = capsys.readouterr().out
    rows = re.findall(r"^\| (\S+) \| (\w+) \|.*\| (memory|products) \|$", printed, re.MULTILINE)
    assert {function for _, function, _ in rows} <= set(FUNCTIONS)
    calls = {(layer, function) for layer, function, _ in rows}
    for name in ("conv1.conv", "blocks3.0.pw_conv.conv"):
        assert {(name, "dense_norm_forward"), (name, "dense_norm_backward")} <= calls
    assert ("fc", "dense_backward") in calls
    assert re.search(
        r"step \d+\.\d+ ms, kernels \d+\.\d+, rest -?\d+\.\d+; .* their bound", printed
    )


def test_bandwidth_and_peak_are_measured() -> None:
    try:
        build.find_compiler()
    except build.KernelsError as error:
        pytest.skip(str(error))
    assert roofline.bandwidth(megabytes=1, rounds=2) > 1e8
    assert roofline.peak(rounds=2, repeats=10_000) > 1e8
