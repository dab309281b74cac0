"""The benchmark of the near-duplicate search, on a few drawn pictures."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from experiments.speed.duplicates import CHANGES, run
from ppcls_lite.errors import UserError


def test_copies_are_found_and_mirror_images_are_not(tmp_path: Path, capsys):
    with pytest.raises(UserError, match="two images at least"):
        run(["--data", str(tmp_path)])
    for seed in range(6):
        clouds = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
        image = cv2.resize(clouds, (64, 48), interpolation=cv2.INTER_CUBIC)
        (tmp_path / f"{seed}.png").write_bytes(cv2.imencode(".png", image)[1].tobytes())
    assert run(["--data", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    shares = dict(re.findall(r"^(.+?) {2,}([\d.]+)%", printed, re.M))
    assert set(shares) == set(CHANGES)
    assert float(shares["half the size"]) == 100 and float(shares["mirrored"]) == 0
    assert "0 images have one within the distance" in printed
