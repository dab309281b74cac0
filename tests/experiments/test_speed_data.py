"""The data benchmark runs, measures what it says and reads the images it is given."""

from __future__ import annotations

import re

import cv2
import numpy as np
import pytest

from experiments.speed.data import generate, naive, run, training_set
from ppcls_lite.data.loader import Loader
from ppcls_lite.data.samplers import DistributedBatchSampler
from ppcls_lite.errors import UserError


def test_the_table(tmp_path, capsys):
    paths = generate(tmp_path, 3)
    sizes = [len(open(path, "rb").read()) for path in paths]  # noqa: PTH123, SIM115
    assert all(60e3 < size < 200e3 for size in sizes)
    assert cv2.imread(paths[0]).shape == (375, 500, 3)
    options = ["--images", "6", "--batch-size", "3", "--rounds", "1", "--workers", "1"]
    assert run(["--data", str(tmp_path), *options]) in (0, 1)
    out = capsys.readouterr().out
    assert "6 JPEGs" in out and "500x375" in out
    shares = dict(re.findall(r"^(\w[\w ]*?) +\d+ +\d+ +([\d.]+)%$", out, re.M))
    assert set(shares) == {"decode", "toolkit", "naive", "1 worker"}
    assert float(shares["decode"]) == 100 and 10 < float(shares["toolkit"]) < 150


def test_the_naive_chain_computes_the_same_kind_of_batch(tmp_path, monkeypatch):
    paths = generate(tmp_path, 2)
    data = training_set(paths)
    made = []
    monkeypatch.setattr("paddle.to_tensor", made.append)
    naive(data, 2, 0)
    monkeypatch.undo()
    loader = Loader(data, DistributedBatchSampler(2).bind(2))
    (batch,) = loader.epoch(0)
    assert made[0].shape == tuple(batch["image"].shape) and made[0].dtype == np.float32
    assert abs(made[0].mean() - float(batch["image"].mean())) < 0.5


def test_no_images(tmp_path):
    with pytest.raises(UserError, match="no images found"):
        run(["--data", str(tmp_path)])
