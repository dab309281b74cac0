"""`ppcls-lite fit`: from a folder of photographs to an exported network, on tiny ones."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import yaml

from ppcls_lite.cli import main
from ppcls_lite.config.file import load_config
from ppcls_lite.data.prepare.next_step import PHOTOS
from ppcls_lite.errors import UserError
from ppcls_lite.fit import run
from ppcls_lite.fit.network import fastest_first, within

QUICK = [
    *("--model", "PPLCNet_x0_25", "--size", "32", "--batch", "4", "--epochs", "2"),
    *("--from-scratch", "-o", "DataLoader.Train.loader.num_workers=0"),
    *("-o", "DataLoader.Eval.loader.num_workers=0", "-o", "Global.cpu_kernels=off"),
]


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PPCLS_LITE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for i in range(20):
        path = tmp_path / "photos" / ("cat", "dog")[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        rough = np.random.default_rng(i).integers(0, 256, (4, 4, 3), np.uint8)
        path.write_bytes(cv2.imencode(".png", cv2.resize(rough, (40, 40)))[1].tobytes())
    (tmp_path / "photos" / "cat" / "broken.png").write_bytes(b"")
    return tmp_path / "photos"


def test_the_whole_way_and_its_repetition(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    choice = SimpleNamespace(engine="paddle", precision="fp32", milliseconds={"paddle fp32": 1.0})
    monkeypatch.setattr(run, "Predictor", lambda *a, **k: SimpleNamespace(choice=choice))
    monkeypatch.setattr(run, "missing", lambda package: "not asked for here")  # Paddle's files only
    assert main(["fit", "photos", *QUICK, "--lr", "0.02"]) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    page = photos.parent / "fit" / "photos" / "run" / "PPLCNet_x0_25" / "report.html"
    text = page.read_text(encoding="utf-8")  # written anew after the evaluation and the export
    assert "Exported to fit/photos/export" in text and "inference.pdiparams" in text
    assert "These figures are of the best epoch of the training" not in text
    assert "Next:" not in said and said.count("repeat:      ppcls-lite train") == 1
    made = photos.parent / "fit" / "photos"
    recipe = yaml.safe_load((made / "recipe.yaml").read_text(encoding="utf-8"))
    assert recipe["Arch"] == {"class_num": 2, "pretrained": False, "name": "PPLCNet_x0_25"}
    assert recipe["Global"]["epochs"] == 2 and recipe["Optimizer"]["lr"]["learning_rate"] == 0.02
    listed = (made / "train_list.txt").read_text() + (made / "val_list.txt").read_text()
    assert len(listed.splitlines()) == 20 and "broken" not in listed
    assert (made / "export" / "inference.yml").is_file()
    assert (made / "check" / "samples.png").is_file()
    log = (made / "run" / "PPLCNet_x0_25" / "train.log").read_text(encoding="utf-8")
    assert "[Train][Epoch 2/2]" in log
    again = ["train", "-c", str(made / "recipe.yaml"), "-o", "Global.output_dir=again"]
    assert main(again) == 0
    for name in ("latest", "best_model"):
        first, second = (
            folder / "PPLCNet_x0_25" / f"{name}.pdparams"
            for folder in (made / "run", Path("again"))
        )
        assert first.read_bytes() == second.read_bytes()
    capsys.readouterr()


def test_a_second_run_gets_a_folder_of_its_own(photos: Path) -> None:
    wanted = run.Wanted("photos")
    with run._new_folder(wanted) as first, run._new_folder(wanted) as second:  # at once
        assert (first, second) == (Path("fit/photos"), Path("fit/photos-2"))
        (first / "recipe.yaml").touch()
    assert first.exists() and not second.exists()
    with run._new_folder(wanted) as third:
        assert third == second
    refused = pytest.raises(UserError, match="is not empty")
    with refused, run._new_folder(run.Wanted("photos", photos)):
        pass


def test_changes_are_in_the_language_of_train(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Items of lists, whole maps and nothing at all; what is the base's own is not repeated."""
    base = load_config(PHOTOS)
    ops = base["DataLoader"]["Train"]["dataset"]["transform_ops"]
    assert "RandCropImage" in ops[1]
    key = "DataLoader.Train.dataset.transform_ops.1.RandCropImage.size"
    changes = [f"{key}=64", "Loss={Train: [{CELoss: {weight: 1.0}}]}"]
    changes.append(f"Global.seed={base['Global'].get('seed', 0)}")
    recipe = run._written(Path("made"), PHOTOS, changes)
    assert recipe.tree["DataLoader"]["Train"]["dataset"]["transform_ops"][1] == {
        "RandCropImage": {**ops[1]["RandCropImage"], "size": 64}
    }
    assert load_config("made/recipe.yaml") == load_config(PHOTOS, changes)
    run._kept(Path("made"), {"Infer.infer_imgs": "a: #1.jpg", "Global.epochs": 3})
    kept = yaml.safe_load(Path("made/recipe.yaml").read_text(encoding="utf-8"))
    assert kept["Global"]["epochs"] == 3 and kept["Infer"] == {"infer_imgs": "a: #1.jpg"}
    assert kept["Loss"] == {"_replace_": True, "Train": [{"CELoss": {"weight": 1.0}}]}
    assert "Arch" not in kept
    assert main(["fit", "photos", "--from-scratch", "-o", f"{key[:50]}.99=1"]) != 0
    assert "-o DataLoader.Train.dataset.transform_ops" in capsys.readouterr().err


def test_what_cannot_be_done(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def told(*argv: str) -> str:
        assert main(["fit", *argv]) == 1
        return capsys.readouterr().err

    assert "there is no image folder" in told("nowhere")
    empty = photos.parent / "empty"
    empty.mkdir()
    assert "found no images" in told(str(empty))
    text = told("photos", "--model", "PPLCNet_x0_25")  # no weights, no network to get them by
    assert "official weights" in text and "--from-scratch" in text and "60 epochs" in text


def test_one_class_only(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in (photos / "dog").iterdir():
        file.unlink()
    assert main(["fit", "photos"]) == 1
    assert "in 1 sub-folders" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("minutes", "epoch", "found"),
    [(None, 10, 20), (10, 10, 20), (2, 10, 10), (0.01, 10, 1), (1, 0, 20)],
)
def test_as_many_epochs_as_there_is_time_for(
    minutes: float | None, epoch: float, found: int
) -> None:
    assert run.epochs_within(minutes, epoch, 20) == found


def test_the_largest_network_that_is_fast_enough() -> None:
    names = fastest_first()
    assert names[0] == "PPLCNet_x0_25" and names[-1] == "PPLCNet_x2_5" and len(names) == 8
    asked = []

    def measure(name: str) -> float:
        asked.append(name)
        return names.index(name) + 0.5

    for budget, expected in ((0.5, 0), (3.7, 3), (100, 7)):
        assert within(names, budget, measure) == names[expected]
    assert len(asked) <= 12
    with pytest.raises(UserError, match=r"PPLCNet_x0_25, the smallest network, takes 0.50 ms here"):
        within(names, 0.4, measure)


def test_times_in_words() -> None:
    words = [run.in_words(s) for s in (0.51, 12.3, 89, 200, 6000)]
    assert words == ["0.5 s", "12 s", "89 s", "3 min", "1.7 h"]
