"""An engine's network gets the score that the network itself has, by a list or by a recipe."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from ppcls_lite.errors import ConfigError
from ppcls_lite.inference.spec import InferenceSpec, Outputs
from ppcls_lite.recipe.score import by_list, by_recipe

TRANSFORMS = [{"DecodeImage": {}}, {"ResizeImage": {"size": 4}}, {"NormalizeImage": {"order": ""}}]
LABELS = [[1, 0, 1], [0, 0, 1], [1, 1, 0], [0, 1, 0], [1, 1, 1]]
LOGITS = np.array(
    [[2, -9, 0.1], [-1, -0.1, 8], [5, -0.2, -3], [-4, 0.3, -1], [1, 1, -80]], np.float32
)


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Five images, whose colour is their number."""
    paths = [tmp_path / f"{number}.png" for number in range(5)]
    for number, path in enumerate(paths):
        cv2.imwrite(str(path), np.full((4, 4, 3), 50 * number, np.uint8))
    return paths


def spec_of(postprocess: str, output: str = "probabilities") -> InferenceSpec:
    return InferenceSpec("Net", TRANSFORMS, {postprocess: {}}, (3, 4, 4), output)


def logits_by_colour(images: np.ndarray) -> np.ndarray:
    """What the network says about images (1, 3, 4, 4)."""
    pixels = (images[:, 0, 0, 0] * 0.229 + 0.485) * 255
    return LOGITS[np.rint(pixels / 50).astype(int)]


def sigmoid(images: np.ndarray) -> Outputs:
    return {"logits": 1 / (1 + np.exp(-logits_by_colour(images)))}


def softmax(images: np.ndarray) -> Outputs:
    powers = np.exp(logits_by_colour(images))
    return {"logits": powers / powers.sum(axis=1, keepdims=True)}


def recipe(folder: Path, metric: list) -> str:
    lines = [f"{n}.png\t{','.join(map(str, label))}" for n, label in enumerate(LABELS)]
    (folder / "list.txt").write_text("\n".join(lines), encoding="utf-8")
    dataset = {"name": "MultiLabelDataset", "image_root": str(folder)}
    dataset |= {"cls_label_path": str(folder / "list.txt"), "transform_ops": TRANSFORMS}
    tree = {
        "Global": {"device": "cpu"},
        "Arch": {"name": "PPLCNet_x0_25", "class_num": 3},
        "Metric": {"Eval": metric},
        "DataLoader": {
            "Eval": {
                "dataset": dataset,
                "sampler": {"name": "DistributedBatchSampler", "batch_size": 3},
                "loader": {"num_workers": 2},
            }
        },
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return str(path)


def test_a_list_is_scored_by_top1(images: list[Path]) -> None:
    labelled = list(zip(images, [0, 2, 0, 1, 2]))  # the last one is wrong
    evaluation = by_list(spec_of("Topk"), labelled)
    assert evaluation.paths == images and evaluation.higher_is_better
    assert evaluation.scores(softmax) == {"top1": pytest.approx(0.8)}
    raw = by_list(spec_of("Topk", "logits"), labelled)
    assert raw.scores(lambda x: {"logits": logits_by_colour(x)}) == evaluation.scores(softmax)


def test_a_recipe_s_metrics_see_logits_of_every_image(images: list[Path]) -> None:
    metric = [{"HammingDistance": {}}, {"AccuracyScore": {"base": "sample"}}]
    evaluation = by_recipe(spec_of("MultiLabelThreshOutput"), recipe(images[0].parent, metric))
    assert sorted(evaluation.paths) == images and not evaluation.higher_is_better
    wrong = (LOGITS > 0) != np.array(LABELS, bool)
    assert evaluation.scores(sigmoid) == {
        "HammingDistance": pytest.approx(wrong.mean()),
        "AccuracyScore": pytest.approx(1 - wrong.any(axis=1).mean()),
    }
    assert 0 < wrong.mean() < 0.5


def test_a_recipe_without_a_metric_is_refused(images: list[Path]) -> None:
    with pytest.raises(ConfigError, match=r"Metric\.Eval is missing"):
        by_recipe(spec_of("MultiLabelThreshOutput"), recipe(images[0].parent, []))
