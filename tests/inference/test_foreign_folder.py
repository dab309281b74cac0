"""Folders from strangers: what inference.yml names lies in the folder, or is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from ppcls_lite.errors import UserError
from ppcls_lite.inference.predictor import Predictor
from ppcls_lite.inference.spec import InferenceSpec

NAMES = ["a", "b", "c", "d", "e"]


@pytest.fixture
def folder(exported: Any, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported.folder, tmp_path / "model"))


def edit(folder: Path, **changes: Any) -> None:
    """Change sections of the folder's inference.yml."""
    path = folder / "inference.yml"
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    for section, change in changes.items():
        tree[section] = tree[section] | change if section == "Global" else change
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")


def test_a_label_file_of_the_folder_is_read(folder: Path) -> None:
    (folder / "labels.txt").write_text("\n".join(NAMES), encoding="utf-8")
    edit(folder, PostProcess={"Topk": {"topk": 1, "class_id_map_file": "labels.txt"}})
    assert Predictor(folder, threads=1).spec.labels == NAMES
    edit(folder, PostProcess={"Topk": {"class_id_map_file": "x/imagenet1k_label_list.txt"}})
    assert InferenceSpec.read(folder).labels[1] == "goldfish"


@pytest.mark.parametrize(
    "name", ["../secret.txt", "{place}/secret.txt", "link.txt", "", "none.txt"]
)
def test_no_other_file_is_read(name: str, folder: Path) -> None:
    secret = folder.parent / "secret.txt"
    secret.write_text("\n".join(NAMES), encoding="utf-8")
    (folder / "link.txt").symlink_to(secret)
    name = name.format(place=folder.parent)
    edit(folder, PostProcess={"Topk": {"class_id_map_file": name}})
    with pytest.raises(UserError, match=r"inference.yml: class_id_map_file: .* is no file in this"):
        Predictor(folder)


@pytest.mark.parametrize("name", ["../secret.txt", "/dev/zero", 5])
def test_check_sums_are_of_files_of_the_folder(name: Any, folder: Path) -> None:
    edit(folder, Global={"sha256": {name: "0"}})
    with pytest.raises(UserError, match=r"Global.sha256: .* is no file's name"):
        Predictor(folder)


NORMALIZE = """
  - NormalizeImage:
      channel_num: 3
      mean: [0.485, 0.456, 0.406]
      order: ''
      scale: 0.00392156862745098
      std: [0.229, 0.224, 0.225]
  - ToCHWImage: null
"""
PADDLECLAS_2_6 = """
PreProcess:
  transform_ops:
  - ResizeImage: {resize_short: 72}
  - CropImage: {size: 64}
"""
PADDLEX_3 = """
Global:
  model_name: PP-LCNet_x0_25
Hpi:
  backend_configs:
    paddle_infer: {trt_dynamic_shapes: {x: [[1, 3, 64, 64], [1, 3, 64, 64], [8, 3, 64, 64]]}}
PreProcess:
  transform_ops:
  - ResizeImage: {resize_short: 72, interpolation: LINEAR, backend: cv2}
  - CropImage: {size: [64, 64]}
"""
ANSWERS = """
PostProcess:
  Topk:
    topk: 3
    label_list: [cat, great dog, Vögel, 猫, 'yes']
"""


@pytest.mark.parametrize("text", [PADDLECLAS_2_6, PADDLEX_3], ids=["PaddleClas", "PaddleX"])
def test_folders_of_paddleclas_and_paddlex_predict(
    text: str, folder: Path, pictures: Path, exported: Any
) -> None:
    before = Predictor(exported.folder, threads=1).predict(pictures / "a.png")
    path = folder / "inference.yml"
    path.write_text(text + NORMALIZE[1:] + ANSWERS, encoding="utf-8")
    found = Predictor(folder, threads=1)
    assert found.predict(pictures / "a.png") == before
    assert found.spec.model_name in ("PP-LCNet_x0_25", "model")
    # As written here, it says the same.
    found.spec.write(folder)
    assert Predictor(folder, threads=1).predict(pictures / "a.png") == before
