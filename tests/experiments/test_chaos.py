"""The short form of tools/chaos.py; docs/measured.md has the long one."""

from __future__ import annotations

import os

import numpy as np

from experiments import chaos
from ppcls_lite.system import safe_pickle


def test_kills_lose_nothing(tmp_path, monkeypatch):
    monkeypatch.setitem(os.environ, "OMP_NUM_THREADS", "1")
    ways = ("SIGTERM", "between")
    report = chaos.chaos(2, tmp_path, seed=1, ways=ways)
    assert report.kills == dict.fromkeys(ways, 1) and report.starts == 3
    assert report.differences == []

    # the comparison would have seen a difference
    whole, killed = (tmp_path / name / chaos.ARCH for name in ("whole", "killed"))
    records = killed / "metrics.jsonl"
    records.write_text(records.read_text().replace('"epoch": 2', '"epoch": 3', 1))
    weights = safe_pickle.load(killed / "best_model.pdparams")
    weights["fc.bias"] = np.nextafter(weights["fc.bias"], np.float32(9))
    safe_pickle.dump_atomic(weights, killed / "best_model.pdparams")
    (killed / "epoch_99.pdstate").write_bytes(b"")
    found = chaos.compare(whole, killed)
    assert len(found) == 3
    assert found[0] == "best_model.pdparams.fc.bias"
    assert found[1].startswith("metrics.jsonl: ")
    assert found[2] == "files: ['epoch_99.pdstate']"


def test_killing_a_rank_of_two_and_both_loses_nothing(tmp_path):
    ways = ("rank", "SIGKILL")
    report = chaos.chaos(2, tmp_path, seed=1, ways=ways, processes=2)
    assert report.kills == dict.fromkeys(ways, 1) and report.starts == 3
    assert report.differences == []
    assert "processes 2" in (tmp_path / "killed" / chaos.ARCH / "train.log").read_text()
