"""The examples for clusters, as far as they can be checked without one."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from paddle.distributed.launch.context import args_envs

from ppcls_lite.config.check import check
from ppcls_lite.config.file import load_config

ROOT = Path(__file__).resolve().parents[3]
SLURM = ROOT / "deploy" / "cluster" / "slurm.sh"
PADDLEJOB = ROOT / "deploy" / "cluster" / "paddlejob.yaml"
JOB = ROOT / "deploy" / "cluster" / "job.yaml"
KEEP_RUNNING = ROOT / "deploy" / "cluster" / "keep_running.sh"

STAND_INS = {
    "getent": '[ "$*" = "hosts ppcls-lite-0.ppcls-lite" ] && echo "10.0.0.9 ppcls-lite-0"',
    "hostname": "echo 10.0.0.7 fd00::7",
    "scontrol": 'echo "$*" >> scontrol.log',
    "scancel": '[ "$*" = "--signal=TERM 17" ] && kill -TERM "$(cat srun.pid)"',
    "srun": 'shift; echo $$ > srun.pid; export SLURM_NODEID=1 SLURM_NNODES=2; exec "$@"',
    "python": 'printf "%s\\n" "$@" > python.log\n'
    'trap "echo saved >> python.log; exit 15" TERM\n'
    'while [ "$WAITS" = yes ]; do sleep 0.05; done; exit "${STATUS:-0}"',
}


@pytest.fixture
def cluster(tmp_path: Path) -> dict[str, str]:
    """An environment in which Slurm's commands and python only note their arguments."""
    (tmp_path / "bin").mkdir()
    for name, text in STAND_INS.items():
        path = tmp_path / "bin" / name
        path.write_text(f"#!/usr/bin/env bash\n{text}\n", encoding="utf-8")
        path.chmod(0o755)
    return os.environ | {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_NODELIST": "node-[a-b]",
        "SLURM_JOB_ID": "17",
        "WAITS": "no",
    }


def sbatch(environment: dict[str, str]) -> subprocess.Popen:
    command = ["bash", str(SLURM), "configs/PPLCNet_x1_0.yaml", "-o", "Global.output_dir=/a b"]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def test_slurm_starts_one_launcher_a_machine(
    cluster: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = sbatch(cluster)
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, "")
    arguments = (tmp_path / "python.log").read_text(encoding="utf-8").splitlines()
    assert arguments[:2] == ["-m", "paddle.distributed.launch"]
    parsed = launcher_arguments(arguments[2:], monkeypatch)
    assert (parsed.nnodes, parsed.rank, parsed.master) == ("2", 1, "10.0.0.7:6170")
    assert parsed.host == "10.0.0.7"
    assert parsed.training_script == "tools/train.py"
    assert parsed.training_script_args[-2:] == ["-o", "Global.output_dir=/a b"]
    checked(parsed.training_script_args)
    assert not (tmp_path / "scontrol.log").exists()


def test_slurm_hands_the_signal_on_and_requeues(cluster: dict[str, str], tmp_path: Path) -> None:
    process = sbatch(cluster | {"WAITS": "yes"})
    log, end = tmp_path / "python.log", time.monotonic() + 20
    while not (log.exists() and "Global.output_dir" in log.read_text()):
        assert time.monotonic() < end
        time.sleep(0.02)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert log.read_text().splitlines()[-1] == "saved"
    assert (tmp_path / "scontrol.log").read_text() == "requeue 17\n"


@pytest.mark.parametrize(("status", "again"), [(75, True), (1, False)])
def test_slurm_requeues_what_is_not_finished(
    cluster: dict[str, str], tmp_path: Path, status: int, again: bool
) -> None:
    process = sbatch(cluster | {"STATUS": str(status)})
    process.communicate(timeout=20)
    assert process.returncode == status
    assert (tmp_path / "scontrol.log").exists() == again


def test_paddlejob_has_the_fields_of_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    job = yaml.safe_load(PADDLEJOB.read_text(encoding="utf-8"))
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "PaddleJob")
    assert job["metadata"]["name"]
    assert set(job["spec"]) == {"runPolicy", "paddleReplicaSpecs"}
    assert job["spec"]["runPolicy"]["cleanPodPolicy"] in ("All", "Running", "None")
    worker = job["spec"]["paddleReplicaSpecs"]["Worker"]
    assert set(worker) == {"replicas", "restartPolicy", "template"}
    assert worker["restartPolicy"] == "OnFailure"
    pod = worker["template"]["spec"]
    (container,) = pod["containers"]
    assert container["name"] == "paddle"
    assert container["ports"] == [{"containerPort": 37777, "name": "master"}]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    assert container["command"] == ["python", "-m", "paddle.distributed.launch"]
    parsed = launcher_arguments(container["args"], monkeypatch)
    assert parsed.training_script == "tools/train.py"
    settings = checked(parsed.training_script_args)
    assert settings.Global.output_dir.startswith("/shared/")


@pytest.mark.parametrize(("index", "master"), [("0", "10.0.0.8"), ("1", "10.0.0.9")])
def test_a_pod_of_the_job_starts_a_launcher(
    cluster: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    index: str,
    master: str,
) -> None:
    _, job = yaml.safe_load_all(JOB.read_text(encoding="utf-8"))
    (container,) = job["spec"]["template"]["spec"]["containers"]
    pod = cluster | {"JOB_COMPLETION_INDEX": index, "POD_IP": "10.0.0.8"}
    command = [*container["command"], *container["args"]]
    subprocess.run(command, env=pod, cwd=tmp_path, check=True, timeout=20)
    arguments = (tmp_path / "python.log").read_text(encoding="utf-8").splitlines()
    parsed = launcher_arguments(arguments[2:], monkeypatch)
    assert (parsed.nnodes, parsed.rank) == ("2", int(index))
    assert parsed.master == f"{master}:6170"
    assert checked(parsed.training_script_args).Global.output_dir.startswith("/shared/")


def test_kubernetes_accepts_the_job_and_the_pods_of_the_paddlejob() -> None:
    reason = "pip install kubernetes-validate, which has the schemas"
    schemas = pytest.importorskip("kubernetes_validate", reason=reason)
    service, job = yaml.safe_load_all(JOB.read_text(encoding="utf-8"))
    paddlejob = yaml.safe_load(PADDLEJOB.read_text(encoding="utf-8"))
    worker = paddlejob["spec"]["paddleReplicaSpecs"]["Worker"]
    worker["template"]["spec"]["restartPolicy"] = worker["restartPolicy"]  # as the operator does
    pods = {**job, "spec": {"template": worker["template"]}}
    for one in (service, job, pods):
        schemas.validate(one, schemas.latest_version(), strict=True)
    job["spec"]["template"]["spec"]["subdomains"] = "x"
    with pytest.raises(schemas.ValidationError, match="subdomains"):
        schemas.validate(job, schemas.latest_version(), strict=True)


def keep_running(*command: str) -> subprocess.Popen:
    """`command` under the script that starts it again."""
    arguments = ["bash", str(KEEP_RUNNING), *command]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(arguments, env=os.environ | {"PAUSE": "0.1"}, text=True, **pipes)


@pytest.mark.parametrize("last", [0, 1, 2])
def test_what_may_succeed_is_started_again(tmp_path: Path, last: int) -> None:
    counts = 'echo x >> "$0"; n=$(wc -l < "$0"); set -- 75 247 137 "$1"; exit "${!n}"'
    process = keep_running("bash", "-c", counts, str(tmp_path / "starts"), str(last))
    _, errors = process.communicate(timeout=20)
    assert process.returncode == last
    assert [line.split()[4] for line in errors.splitlines()] == ["75;", "247;", "137;"]


def test_what_is_asked_to_stop_saves_and_is_not_started_again(tmp_path: Path) -> None:
    waits = 'trap "sleep 0.3; echo saved; exit 15" TERM; echo ready; while :; do sleep 0.05; done'
    process = keep_running("bash", "-c", waits)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=20) == ("saved\n", "")
    assert process.returncode == 15


def launcher_arguments(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """As Paddle's launcher itself reads them."""
    monkeypatch.setattr("sys.argv", ["launch", *arguments])
    parsed, unknown = args_envs.parse_args()
    assert not unknown
    return parsed


def checked(arguments: list[str]) -> Any:
    """The settings of tools/train.py's arguments, which must be right and must resume."""
    assert arguments[0] == "-c" and set(arguments[2::2]) == {"-o"}
    settings = check(load_config(str(ROOT / arguments[1]), arguments[3::2]))
    assert settings.Global.checkpoints == "auto"
    return settings
