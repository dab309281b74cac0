"""What each command imports before it has something to do with it: the time of a start."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("paddle", "cv2", "matplotlib", "visualdl", "PIL", "sklearn", "onnx")
RECIPE = ["-c", "configs/quickstart/digits.yaml"]
REPORT = """
import atexit, json, runpy, sys
heavy = %r
atexit.register(lambda: print("\\nIMPORTED", json.dumps([m for m in heavy if m in sys.modules])))
%s
"""


def imported(code: str, heavy: tuple[str, ...] = HEAVY) -> tuple[set[str], str]:
    """Which of `heavy` a process has imported that runs `code`, and what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", REPORT % (heavy, code)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    *_, last = done.stdout.strip().splitlines()
    assert last.startswith("IMPORTED"), done.stderr
    return set(json.loads(last.removeprefix("IMPORTED"))), done.stdout + done.stderr


def script(path: str, *arguments: str) -> str:
    return f"sys.argv = {[path, *arguments]!r}; runpy.run_path({path!r}, run_name='__main__')"


TRAIN = ["tools/train.py", "tools/eval.py", "tools/infer.py", "deploy/export.py"]
LIGHT = [
    *(([path, "--help"], "usage:") for path in [*TRAIN, "tools/show_config.py"]),
    *(([path, *RECIPE, "-o", "Global.epochz=1"], "epochz") for path in TRAIN),
    *(([path, *RECIPE, "-o", "Arch.name=Netz"], "Netz") for path in TRAIN[:2]),
    (["tools/train.py", "-c", "configs/none.yaml"], "no such file"),
    (["tools/train.py", *RECIPE, "-o", "Optimizer.lr.learning_rate=fast"], "learning_rate"),
    (["tools/show_config.py", *RECIPE], "PPLCNet_x0_25"),
    (["tools/benchmark.py"], "usage:"),
]


@pytest.mark.parametrize(("arguments", "text"), LIGHT, ids=lambda value: str(value)[:60])
def test_help_and_mistakes_need_nothing_heavy(arguments: list[str], text: str) -> None:
    found, output = imported(script(*arguments))
    assert text in output
    assert found == set()


def test_a_training_begins_without_what_only_its_end_needs() -> None:
    code = "import ppcls_lite.recipe.train, ppcls_lite.engine.trainer"
    assert imported(code)[0] == {"paddle", "cv2", "PIL"}


def test_a_picture_of_the_first_batch_needs_no_matplotlib(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; import numpy as np; "
        "from ppcls_lite.engine.record import Recorder; "
        "from ppcls_lite.report.pictures import RunPictures; "
        f"folder = Path({str(tmp_path)!r}); r = Recorder(folder); r.open(); "
        "grid = RunPictures(folder).first_batch({'image': np.random.rand(4, 3, 8, 8)}); "
        "r.show('train/first_batch', grid); "
        "r.write('step', 1, 1, {'loss': 1.0})"
    )
    found, output = imported(code)
    assert not found & {"matplotlib", "visualdl"}, output
    assert (tmp_path / "first_batch.png").stat().st_size > 0
    curves = (
        "from pathlib import Path; from ppcls_lite.report import pictures; "
        "entry = {'epoch': 1, 'lr': 0.1, 'train': {'loss': 1.0}, 'eval': None}; "
        f"pictures.curves([entry], Path({str(tmp_path)!r}, 'curves.png'))"
    )
    assert "matplotlib" in imported(curves)[0]  # what the test above would notice
