"""Starting processes as a user does: with `paddle.distributed.launch`, on a small data set."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[3]
Launch = Callable[..., subprocess.Popen]


@pytest.fixture(scope="session")
def launch() -> Launch:
    """`launch(folder, program, *arguments, processes=2, options=())`: the started launcher.

    Its output is a pipe; the ranks' logs lie in `folder`.
    """

    def start(
        folder: Path, *command: str | Path, processes: int = 2, options: tuple[str, ...] = ()
    ) -> subprocess.Popen:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PADDLE_")}
        environment |= {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
        environment |= {"GLOG_minloglevel": "2"}
        launcher = [sys.executable, "-m", "paddle.distributed.launch", *options]
        launcher += ["--nproc_per_node", str(processes), "--log_dir", str(folder)]
        return subprocess.Popen(
            [*launcher, *map(str, command)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            cwd=ROOT,
        )

    return start


RECIPE = """
_base_: {base}
Global: {{epochs: 6, output_dir: {home}/output, device: cpu, image_shape: [3, 32, 32],
         save_interval: 6, use_visualdl: false, print_batch_step: 1, eval_interval: 3,
         total_batch_size: 16}}
Arch: {{name: PPLCNet_x0_25, class_num: 2, stride_list: [2, 1, 2, 2, 1], dropout_prob: 0.2,
       use_sync_bn: true}}
Optimizer: {{lr: {{learning_rate: 0.05, warmup_epoch: 1}}}}
DataLoader:
  Train:
    dataset: &data
      image_root: {home}/images
      cls_label_path: {home}/list.txt
      transform_ops:
        - DecodeImage:
        - RandCropImage: {{size: 32, scale: [0.8, 1.0]}}
        - NormalizeImage: {{order: ''}}
    sampler: {{batch_size: 8}}
    loader: {{num_workers: 1}}
  Eval:
    dataset:
      image_root: {home}/images
      cls_label_path: {home}/list.txt
      transform_ops: [DecodeImage, {{ResizeImage: {{size: 32}}}}, {{NormalizeImage: {{order: ''}}}}]
    sampler: {{batch_size: 9}}
    loader: {{num_workers: 0}}
"""


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 94 small images of two classes, list.txt and recipe.yaml."""
    home = tmp_path_factory.mktemp("home")
    (home / "images").mkdir()
    rng = np.random.default_rng(0)
    lines = []
    for i in range(94):
        image = rng.integers(0, 100, (40, 40, 3)) + 120 * (i % 2)
        cv2.imwrite(str(home / "images" / f"{i}.png"), image.astype(np.uint8))
        lines.append(f"{i}.png {i % 2}")
    (home / "list.txt").write_text("\n".join(lines), encoding="utf-8")
    text = RECIPE.format(base=ROOT / "configs" / "_base_" / "pplcnet.yaml", home=home)
    (home / "recipe.yaml").write_text(text, encoding="utf-8")
    return home
