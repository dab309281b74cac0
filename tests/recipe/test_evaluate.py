"""`eval` through the command: whose class numbers count, and what cannot be scored."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from ppcls_lite.cli import main
from ppcls_lite.models.weights.load import read_state, write_state

COLOURS = {"azure": (255, 120, 0), "black": (0, 0, 0), "coral": (80, 80, 255), "lime": (0, 255, 0)}
MISSING = "black"  # no image of it in val


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of coloured images, trained on once; recipe.yaml names them."""
    home = tmp_path_factory.mktemp("colours")
    rng = np.random.default_rng(0)
    for split, count in (("train", 20), ("val", 2)):
        for name, colour in COLOURS.items():
            if (split, name) == ("val", MISSING):
                continue
            (home / split / name).mkdir(parents=True)
            for i in range(count):
                image = np.clip(rng.normal(colour, 20, (16, 16, 3)), 0, 255).astype(np.uint8)
                cv2.imwrite(str(home / split / name / f"{i}.png"), image)
    (home / "recipe.yaml").write_text(yaml.safe_dump(recipe(home)), encoding="utf-8")
    assert main(["train", "-c", str(home / "recipe.yaml")]) == 0
    return home


def recipe(home: Path) -> dict:
    def split(name: str) -> dict:
        transforms = [{"DecodeImage": {}}, {"ResizeImage": {"size": 16}}]
        shuffled = name == "train"
        return {
            "dataset": {
                **{"name": "FolderDataset", "root": str(home / name)},
                "transform_ops": [*transforms, {"NormalizeImage": {"order": ""}}],
            },
            "sampler": {"name": "DistributedBatchSampler", "batch_size": 8, "shuffle": shuffled},
            "loader": {"num_workers": 0},
        }

    return {
        "Global": {
            **{"epochs": 20, "device": "cpu", "use_visualdl": False, "eval_interval": 20},
            "output_dir": str(home / "output"),
        },
        "Arch": {"name": "PPLCNet_x0_25", "stride_list": [2, 1, 1, 1, 1], "dropout_prob": 0.0},
        "Loss": {"Train": [{"CELoss": {}}], "Eval": [{"CELoss": {}}]},
        "Optimizer": {
            "name": "Momentum",
            "lr": {"name": "Constant", "learning_rate": 0.02},
        },
        "DataLoader": {"Train": split("train"), "Eval": split("val")},
        "Metric": {"Eval": [{"TopkAcc": {"topk": [1]}}]},
    }


def scores(home: Path, name: str = "recipe") -> dict[str, float]:
    weights = f"Global.pretrained_model={home}/output/PPLCNet_x0_25/best_model"
    assert main(["eval", "-c", str(home / f"{name}.yaml"), "-o", weights]) == 0
    return json.loads((home / "output" / "PPLCNet_x0_25" / "eval.json").read_text())


def test_a_class_that_is_missing_in_val_costs_no_score(home: Path) -> None:
    log = (home / "output" / "PPLCNet_x0_25" / "train.log").read_text()
    assert "1 of 4 classes have no image: black" in log
    found = scores(home)
    lines = (home / "output" / "PPLCNet_x0_25" / "metrics.jsonl").read_text().splitlines()
    trained = [r for r in map(json.loads, lines) if r["kind"] == "eval"][-1]
    assert found["top1"] == trained["top1"] and found["top1"] >= 0.5
    assert found["CELoss"] == pytest.approx(trained["CELoss"], rel=1e-4)
    # the same images with the training set's numbers, written out
    names = sorted(COLOURS)
    images = sorted((home / "val").rglob("*.png"))
    listed = [f"{p.relative_to(home)} {names.index(p.parent.name)}" for p in images]
    (home / "list.txt").write_text("\n".join(listed))
    stating = recipe(home)
    dataset = stating["DataLoader"]["Eval"]["dataset"]
    del dataset["root"]
    dataset |= {"name": "ImageNetDataset", "image_root": str(home)}
    dataset["cls_label_path"] = str(home / "list.txt")
    (home / "stating.yaml").write_text(yaml.safe_dump(stating), encoding="utf-8")
    stated = scores(home, "stating")
    assert stated["top1"] == found["top1"] and stated["CELoss"] == pytest.approx(found["CELoss"])


def test_outputs_that_are_no_numbers_end_an_evaluation_with_an_error(
    home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    state = read_state(home / "output" / "PPLCNet_x0_25" / "best_model.pdparams")
    name = next(name for name in state if name.endswith("_variance"))
    state = {key: np.array(value) for key, value in state.items()}
    state[name] = state[name] * 0 - 1.0  # finite, but its root is not
    write_state(home / "negative", state)
    weights = f"Global.pretrained_model={home}/negative"
    assert main(["eval", "-c", str(home / "recipe.yaml"), "-o", weights]) == 1
    printed = "".join(capfd.readouterr())
    assert "6 images of DataLoader.Eval have NaN or infinite outputs" in printed
    assert "Traceback" not in printed
    found = json.loads((home / "output" / "PPLCNet_x0_25" / "eval.json").read_text())
    assert found["top1"] == 0.0 and found["not_finite"] == 6.0


def test_weights_of_another_toolkit_are_evaluated_by_their_prefix(home: Path) -> None:
    found = scores(home)
    state = read_state(home / "output" / "PPLCNet_x0_25" / "best_model.pdparams")
    write_state(home / "wrapped", {f"module.{k}": v for k, v in state.items()})
    options = [f"Global.pretrained_model={home}/wrapped", "Global.weights_prefix=module."]
    command = ["eval", "-c", str(home / "recipe.yaml"), *(f"-o{o}" for o in options)]
    assert main(command) == 0
    again = json.loads((home / "output" / "PPLCNet_x0_25" / "eval.json").read_text())
    assert again["top1"] == found["top1"] and again["CELoss"] == pytest.approx(found["CELoss"])


def test_other_names_in_predictions_than_in_the_training_set_are_warned_of(
    home: Path,
) -> None:
    (home / "names.txt").write_text("azure\ncoral\nblack\nlime\n")
    named = recipe(home)
    named["Global"] |= {"epochs": 1, "output_dir": str(home / "named")}
    postprocess = {"name": "Topk", "topk": 1, "class_id_map_file": str(home / "names.txt")}
    named["Infer"] = {"PostProcess": postprocess}
    (home / "named.yaml").write_text(yaml.safe_dump(named), encoding="utf-8")
    assert main(["train", "-c", str(home / "named.yaml")]) == 0
    log = (home / "named" / "PPLCNet_x0_25" / "train.log").read_text()
    assert "names.txt calls 2 classes by other names than the training set" in log
    assert "1 is 'coral' there and 'black' here" in log


def test_the_best_weights_of_the_run_are_evaluated_and_mistakes_written(
    home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = home / "output" / "PPLCNet_x0_25"
    assert main(["eval", "-c", str(home / "recipe.yaml")]) == 0
    told = capfd.readouterr().out
    assert f"weights: {run / 'best_model'}" in told
    found = json.loads((run / "eval.json").read_text())
    low, high, method = found["intervals"]["top1"]
    assert low < found["top1"] <= high and method == "Wilson, 6 images"
    assert f"top1: 95 % interval {low:.4f} to {high:.4f}" in told
    table = (run / "eval" / "best_model" / "predictions.csv").read_text().splitlines()
    assert len(table) == 7 and {line.split(",")[1] for line in table[1:]} == {*COLOURS} - {MISSING}
    right = [line.split(",")[3] for line in table[1:]]
    assert right.count("1") / 6 == pytest.approx(found["top1"])


def test_a_runs_folder_stands_for_its_recipe(home: Path, tmp_path: Path) -> None:
    run = home / "output" / "PPLCNet_x0_25"
    moved = tmp_path / "the first try"
    shutil.copytree(run, moved)
    (moved / "eval.json").unlink(missing_ok=True)
    assert main(["eval", "-c", str(moved)]) == 0
    found = json.loads((moved / "eval.json").read_text())
    assert found["weights"] == str(moved / "best_model")


def test_no_run_and_no_weights_is_one_message(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = f"Global.output_dir={tmp_path}"
    assert main(["eval", "-c", str(home / "recipe.yaml"), "-o", place]) == 2
    assert f"no run in {tmp_path / 'PPLCNet_x0_25'} has left" in capsys.readouterr().err


def test_an_export_that_rejects_answers_the_surest_images_on_every_engine(
    home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    place = ["-o", f"Global.save_inference_dir={tmp_path / 'sure'}"]
    answer = ["-o", "Infer.PostProcess.name=Topk"]
    options = ["--reject-coverage", "0.5", "--format", "both"]
    assert main(["export", "-c", str(home / "recipe.yaml"), *answer, *place, *options]) == 0
    spec = yaml.safe_load((tmp_path / "sure" / "inference.yml").read_text())
    facts = spec["Global"]["calibration"]
    assert facts["images"] == 6 and 0.5 <= facts["coverage"] < 1
    assert 0 < spec["PostProcess"]["Topk"]["reject_below"] < 1
    lines = [f"{file} {sorted(COLOURS).index(file.parent.name)}\n" for file in
             sorted((home / "val").rglob("*.png"))]  # fmt: skip
    (tmp_path / "list.txt").write_text("".join(lines), encoding="utf-8")
    unknown = []
    for engine in ("paddle", "onnxruntime"):
        output = tmp_path / f"{engine}.jsonl"
        model = ["--model", str(tmp_path / "sure"), "--engine", engine, "--output", str(output)]
        capfd.readouterr()
        assert main(["predict", *model, "--input", str(tmp_path / "list.txt")]) == 0
        told = capfd.readouterr().out
        assert f"coverage {facts['coverage']:.2%}" in told
        answered = round(6 * facts["coverage"])
        assert f"by the list's labels: {round(facts['precision'] * answered)} of {answered}" in told
        results = [json.loads(line) for line in output.read_text().splitlines()]
        unknown.append([r["file"] for r in results if r.get("unknown")])
    assert unknown[0] == unknown[1] and len(unknown[0]) == 6 - answered


def test_an_export_without_a_wish_keeps_todays_answers(home: Path, tmp_path: Path) -> None:
    assert main(["eval", "-c", str(home / "recipe.yaml")]) == 0
    place = ["-o", f"Global.save_inference_dir={tmp_path / 'plain'}"]
    answer = ["-o", "Infer.PostProcess.name=Topk"]
    assert main(["export", "-c", str(home / "recipe.yaml"), *answer, *place]) == 0
    spec = yaml.safe_load((tmp_path / "plain" / "inference.yml").read_text())
    assert {*spec["PostProcess"]["Topk"]} <= {"topk", "label_list"}
    assert spec["Global"]["calibration"]["images"] == 6  # what eval has found out, told only


def test_a_postprocessing_without_a_threshold_is_one_message(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = ["-o", "Infer.PostProcess.name=ScoreOutput", "--reject-precision", "0.9"]
    assert main(["export", "-c", str(home / "recipe.yaml"), *answer]) == 1
    assert "ScoreOutput has nothing that this recipe's metrics can fit" in capsys.readouterr().err


def test_a_training_ends_with_a_page_and_report_adds_the_mistakes(
    home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "tried"
    shutil.copytree(home / "output" / "PPLCNet_x0_25", run, ignore=shutil.ignore_patterns("eval"))
    plain = (run / "report.html").read_text(encoding="utf-8")
    assert "ppcls-lite report" in plain and '"images, Train", 80' in plain
    assert main(["report", str(run)]) == 0
    assert f"written: {run / 'report.html'}" in capfd.readouterr().out
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "95 %: " in page and '"calibration": {"images": 6' in page
    assert main(["report", str(run)]) == 0  # evaluated once, not twice
    assert "[Eval]" not in capfd.readouterr().out


def test_a_report_of_nothing_is_one_message(
    tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(tmp_path / "none")]) == 2
    place = ["-o", f"Global.output_dir={tmp_path}"]
    assert main(["report", str(home / "recipe.yaml"), *place]) == 1
    assert "holds no best_model" in capsys.readouterr().err


def test_a_class_is_shown_where_it_was_found(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, image = home / "output" / "PPLCNet_x0_25", home / "val" / "lime" / "0.png"
    (tmp_path / "names.txt").write_text("\n".join(sorted(COLOURS)), encoding="utf-8")
    answer = f"Infer.PostProcess={{Topk: {{class_id_map_file: {tmp_path / 'names.txt'}}}}}"
    options = [
        "explain",
        "-c",
        str(run),
        "-o",
        answer,
        "--output",
        str(tmp_path / "why"),
        str(image),
    ]
    assert main([*options, "--class", "coral"]) == 0
    picture = cv2.imread(str(tmp_path / "why" / "0.png"))
    assert picture.shape == (320, 644, 3)
    blue, green, red = picture[:, :320].reshape(-1, 3).mean(axis=0)
    assert green > max(blue, red)  # what the network saw; beside it the map
    assert main([*options, "--class", "plaid"]) == 1
    assert "no such class; there are azure, black, coral, lime" in capsys.readouterr().err


def test_a_report_explains_the_mistakes(home: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(home / "output" / "PPLCNet_x0_25", run, ignore=shutil.ignore_patterns("eval"))
    assert main(["report", str(run), "-o", "Infer.PostProcess.name=Topk"]) == 0
    images = json.loads((run / "eval" / "best_model" / "images.json").read_text())
    count = sum(len(group["images"]) for group in images)
    assert len([*(run / "eval" / "best_model" / "explained").iterdir()]) == count > 0
    assert (run / "report.html").read_text(encoding="utf-8").count('"why": "data:') == count
