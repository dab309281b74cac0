"""What surrounds the code: the workflow, the container's recipe and the hooks name what exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]


def test_the_workflow_calls_the_two_commands() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text())
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    called = [step["run"] for step in steps if "run" in step]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    two = re.findall(r"^bash tools/\w+\.sh$", readme.partition("## Two commands")[2], re.M)
    assert len(two) == 2 and sorted(called) == sorted(two)
    versions = workflow["jobs"]["quickstart"]["strategy"]["matrix"]["python-version"]
    assert all(re.fullmatch(r"3\.1\d", version) for version in versions)  # not 3.1 for 3.10


def test_the_container_is_not_root_and_serves() -> None:
    lines = (ROOT / "deploy/Dockerfile").read_text().replace("\\\n", " ").splitlines()
    said = dict(line.split(maxsplit=1) for line in lines if line and not line.startswith("#"))
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", said["USER"])
    entry = yaml.safe_load(said["ENTRYPOINT"])
    from ppcls_lite.serve.cli import _parser

    args = _parser().parse_args(entry[2:])
    assert entry[:2] == ["ppcls-lite", "serve"] and args.host == "0.0.0.0"
    assert str(args.port) == said["EXPOSE"]
    assert f":{args.port}/healthz" in said["HEALTHCHECK"]


def test_the_hooks_run_the_style_of_the_tests() -> None:
    (repo,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    entries = [shlex.split(hook["entry"]) for hook in repo["hooks"]]
    style = (ROOT / "tools/run_tests.sh").read_text()
    for words in entries:
        known = " ".join(words[:2]) in style or (ROOT / words[-1]).is_file()
        assert known, words
