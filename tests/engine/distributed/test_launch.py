"""`paddle.distributed.launch tools/train.py` as a user meets it: it ends, dies, stops, resumes."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppcls_lite.cli import main
from ppcls_lite.data.samplers import DistributedBatchSampler
from ppcls_lite.system import safe_pickle

ROOT = Path(__file__).resolve().parents[3]


def command(tool: str, home: Path, output: Path, *overrides: str) -> list[str]:
    options = [item for o in (f"Global.output_dir={output}", *overrides) for item in ("-o", o)]
    return [str(ROOT / "tools" / f"{tool}.py"), "-c", str(home / "recipe.yaml"), *options]


def rank_process(launcher: subprocess.Popen, rank: int) -> int:
    """The process id of a rank."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    for child in children:
        if f"PADDLE_TRAINER_ID={rank}\0" in Path(f"/proc/{child}/environ").read_text():
            return int(child)
    raise AssertionError(f"the launcher has no rank {rank} among {children}")


def wait_for(log: Path, text: str, launcher: subprocess.Popen) -> None:
    end = time.monotonic() + 150
    while not (log.exists() and text in log.read_text(encoding="utf-8")):
        assert time.monotonic() < end and launcher.poll() is None, launcher.communicate()[0]
        time.sleep(0.01)


def records(run_dir: Path) -> list[dict[str, Any]]:
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    times = ("batch_cost", "reader_cost", "ips", "peak_rss_mb")
    return [{k: v for k, v in json.loads(s).items() if k not in times} for s in lines]


@pytest.fixture(scope="module")
def whole(home: Path, launch: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of an uninterrupted run in two processes, and what the launcher printed."""
    folder = tmp_path_factory.mktemp("whole")
    process = launch(folder / "log", *command("train", home, folder))
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed
    return folder, printed


def test_rank_0_reports_and_writes(whole: tuple[Path, str]) -> None:
    folder, printed = whole
    run_dir = folder / "PPLCNet_x0_25"
    assert "processes 2" in printed
    assert "[Epoch 6/6][Iter: 6/6]" in printed
    assert "batch normalisation over the images of all 2 processes" in printed
    assert "Iter:" not in (folder / "log" / "workerlog.1").read_text(encoding="utf-8")
    left = {path.name for path in run_dir.iterdir()}
    assert {"latest.pdstate", "best_model.pdparams", "curves.png"} <= left
    assert len(records(run_dir)) == 6 * 7 + 2
    log = (run_dir / "train.log").read_text(encoding="utf-8")
    assert log.count("[Epoch 6/6][Iter: 6/6]") == 1


def test_evaluation_in_two_processes_equals_that_in_one(
    home: Path, launch: Any, whole: tuple[Path, str], tmp_path: Path
) -> None:
    weights = f"Global.pretrained_model={whole[0]}/PPLCNet_x0_25/best_model"
    process = launch(tmp_path / "log", *command("eval", home, tmp_path / "two", weights))
    assert main(["eval", *command("eval", home, tmp_path / "one", weights)[1:]]) == 0
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed
    one, two = (
        json.loads((tmp_path / n / "PPLCNet_x0_25" / "eval.json").read_text())
        for n in ("one", "two")
    )
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert two[name] == (pytest.approx(value, rel=1e-4) if "oss" in name else value)


def test_a_signal_to_one_rank_stops_all_and_a_relaunch_resumes_exactly(
    home: Path, launch: Any, whole: tuple[Path, str], tmp_path: Path
) -> None:
    process = launch(tmp_path / "log", *command("train", home, tmp_path))
    wait_for(tmp_path / "log" / "workerlog.0", "[Epoch 2/6][Iter: 3/6]", process)
    os.kill(rank_process(process, 1), signal.SIGTERM)
    printed, _ = process.communicate(timeout=150)
    assert process.returncode == 128 + signal.SIGTERM  # the ranks' own, whichever ends first
    assert "Stopped by SIGTERM in epoch" in printed
    assert "Traceback" not in printed
    run_dir = tmp_path / "PPLCNet_x0_25"
    resume = f"Global.checkpoints={run_dir}/latest"
    process = launch(tmp_path / "log2", *command("train", home, tmp_path, resume))
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed
    first, second = (safe_pickle.load(d / "latest.pdparams") for d in (folder_of(whole), run_dir))
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert records(folder_of(whole)) == records(run_dir)


def test_a_signal_to_the_launcher_saves_and_another_number_of_ranks_goes_on(
    home: Path, launch: Any, whole: tuple[Path, str], tmp_path: Path
) -> None:
    process = launch(tmp_path / "log", *command("train", home, tmp_path))
    wait_for(tmp_path / "log" / "workerlog.0", "[Epoch 2/6][Iter: 2/6]", process)
    process.terminate()
    process.communicate(timeout=150)
    assert process.returncode == signal.SIGTERM
    run_dir = tmp_path / "PPLCNet_x0_25"
    log = (run_dir / "train.log").read_text(encoding="utf-8")
    assert "Stopped by SIGTERM in epoch" in log and "[Epoch 6/6]" not in log
    one = [f"Global.checkpoints={run_dir}/latest", "DataLoader.Train.sampler.batch_size=16"]
    assert main(["train", *command("train", home, tmp_path, *one)[1:]]) == 0
    assert (
        "written by 2 processes, continued by 1"
        in (run_dir / "train.log").read_text(encoding="utf-8")[len(log) :]
    )
    # the same steps with the same images, though sums and batch statistics differ
    steps = [
        [(r["kind"], r["epoch"], r["step"]) for r in records(d)]
        for d in (folder_of(whole), run_dir)
    ]
    assert steps[0] == steps[1]


def folder_of(whole: tuple[Path, str]) -> Path:
    return whole[0] / "PPLCNet_x0_25"


def test_a_killed_rank_ends_the_others_within_seconds(
    home: Path, launch: Any, tmp_path: Path
) -> None:
    process = launch(tmp_path / "log", *command("train", home, tmp_path, "Global.epochs=100"))
    wait_for(tmp_path / "log" / "workerlog.0", "[Epoch 2/100]", process)
    other = rank_process(process, 0)
    os.kill(rank_process(process, 1), signal.SIGKILL)
    killed = time.monotonic()
    printed, _ = process.communicate(timeout=150)
    assert time.monotonic() - killed < 30
    assert process.returncode != 0
    assert "code -9" in printed
    assert not Path(f"/proc/{other}").exists()
    assert "has ended without a message: killed" in read_logs(tmp_path / "log")


def read_logs(folder: Path) -> str:
    return "".join(path.read_text(encoding="utf-8") for path in folder.glob("workerlog.*"))


def test_the_error_of_a_rank_is_shown(home: Path, launch: Any, tmp_path: Path) -> None:
    sampler = DistributedBatchSampler(8, shuffle=True, seed=42).bind(94, 2, rank=1)
    bad = list(sampler.batches(1))[2][0].index
    lines = (home / "list.txt").read_text(encoding="utf-8").splitlines()
    (tmp_path / "bad.png").write_bytes(b"no image")
    lines[bad] = f"{tmp_path}/bad.png {bad % 2}"
    (tmp_path / "list.txt").write_text("\n".join(lines), encoding="utf-8")
    overrides = [f"DataLoader.Train.dataset.cls_label_path={tmp_path}/list.txt"]
    process = launch(
        tmp_path / "log", *command("train", home, tmp_path, *overrides, "Global.max_bad_ratio=0")
    )
    printed, _ = process.communicate(timeout=150)
    assert process.returncode != 0
    assert "bad.png" in printed and "max_bad_ratio" in printed
    assert "Traceback" not in printed
    log = (tmp_path / "PPLCNet_x0_25" / "train.log").read_text(encoding="utf-8")
    assert re.search(r"rank 1 on .* has stopped this run: .*\n.*bad.png", log)


def test_two_launchers_form_one_run(
    home: Path, launch: Any, whole: tuple[Path, str], tmp_path: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        master = f"127.0.0.1:{free.getsockname()[1]}"
    nodes = []
    for node in range(2):
        options = ("--nnodes", "2", "--master", master, "--rank", str(node))
        arguments = command("train", home, tmp_path)
        nodes.append(launch(tmp_path / f"log{node}", *arguments, processes=1, options=options))
    outputs = [node.communicate(timeout=300)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], "".join(outputs)
    run_dir = tmp_path / "PPLCNet_x0_25"
    first, second = (safe_pickle.load(d / "latest.pdparams") for d in (folder_of(whole), run_dir))
    assert all(np.array_equal(first[name], second[name]) for name in first)
