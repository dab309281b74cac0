"""`Global.cpu_processes: N`: one command, N ranks, the recipe's batch as the total."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ppcls_lite.engine import ranks
from ppcls_lite.errors import ConfigError

ROOT = Path(__file__).resolve().parents[3]


def start(home: Path, output: Path, *overrides: str) -> subprocess.Popen:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PADDLE_")}
    command = [sys.executable, ROOT / "tools" / "train.py", "-c", home / "recipe.yaml"]
    for value in (f"Global.output_dir={output}", "Global.cpu_processes=2", *overrides):
        command += ["-o", value]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=kept | {"GLOG_minloglevel": "2", "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
    )


def steps(output: Path) -> list[dict]:
    (path,) = output.glob("*/metrics.jsonl")
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line["kind"] == "step"]


def test_two_processes_share_the_batch_of_the_recipe(home: Path, tmp_path: Path) -> None:
    process = start(home, tmp_path, "Global.epochs=1", "DataLoader.Train.sampler.batch_size=16")
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 0, printed
    assert "processes 2" in printed and "2 processes train on 8 images each" in printed
    assert "meant for" not in printed  # total_batch_size of the recipe is 16
    assert "FLAGS" not in printed  # stray lines of Paddle
    assert len(steps(tmp_path)) == 6  # of 94 images


def test_a_signal_saves_and_keeps_the_exit_status(home: Path, tmp_path: Path) -> None:
    process = start(home, tmp_path, "Global.epochs=100")
    end = time.monotonic() + 90
    while not any(tmp_path.glob("*/metrics.jsonl")) or len(steps(tmp_path)) < 3:
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGUSR1)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 75, printed
    assert "Stopped by SIGUSR1" in printed and "Traceback" not in printed
    assert list(tmp_path.glob("*/latest.pdstate"))


def test_a_mistake_ends_all_with_its_message_and_status(home: Path, tmp_path: Path) -> None:
    process = start(home, tmp_path, "Global.pretrained_model=/nowhere/weights")
    printed, _ = process.communicate(timeout=90)
    assert process.returncode == 1, printed
    assert "/nowhere/weights" in printed and "Traceback" not in printed


def test_a_batch_that_cannot_be_shared_is_a_configuration_mistake(
    home: Path, tmp_path: Path
) -> None:
    process = start(home, tmp_path, "DataLoader.Train.sampler.batch_size=9")
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 2 and "cannot share a batch of 9" in printed


def test_a_rank_that_is_killed_ends_the_others() -> None:
    code = (
        "import os, signal, time\n"
        "os.kill(os.getpid(), signal.SIGKILL) if os.environ['PADDLE_TRAINER_ID'] == '1' "
        "else time.sleep(1)"
    )
    assert ranks.run(2, [sys.executable, "-c", code]) == 75  # try again


@pytest.mark.parametrize(
    ("wanted", "batch", "cores", "found"),
    [("auto", 64, 2, 2), ("auto", 64, 8, 2), ("auto", 48, 2, 1), ("auto", 96, 4, 3), (4, 8, 2, 4)],
)
def test_auto_takes_what_pays(wanted: str | int, batch: int, cores: int, found: int) -> None:
    assert ranks.resolve(wanted, batch, cores) == found


def test_a_remainder_is_refused() -> None:
    with pytest.raises(ConfigError, match="divides"):
        ranks.resolve(3, 64, 4)
