"""The ablation runner: the paper's numbers, equal budgets, resuming, and the printed table."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from experiments.ablation import record
from experiments.ablation.ablate import run
from experiments.ablation.plan import Options, find_data, find_rows, plan, strides_for
from experiments.ablation.table import PUBLISHED, TABLES, Row, Score, markdown, spread_note
from ppcls_lite.cli import guarded
from ppcls_lite.config.check import check
from ppcls_lite.config.file import load_config
from ppcls_lite.errors import ConfigError
from ppcls_lite.models.create import Cost, cost
from ppcls_lite.system import safe_pickle

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs" / "ablation"
ROWS = ("full", "no_last_conv")
FILES = [str(CONFIGS / f"{row}.yaml") for row in ROWS]
RUN = Path("seed_42", "PPLCNet_x0_5")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of 16x16 pixels in two classes, bright and dark, prepared."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    lists: dict[str, list[str]] = {"train": [], "val": []}
    for i in range(32):
        image = rng.integers(0, 100, (16, 16, 3)) + 150 * (i % 2)
        cv2.imwrite(str(folder / f"{i}.png"), image.astype(np.uint8))
        lists["train" if i < 24 else "val"].append(f"{i}.png {i % 2}\n")
    for name, lines in lists.items():
        (folder / f"{name}_list.txt").write_text("".join(lines), encoding="utf-8")
    (folder / "labels.txt").write_text("0 dark\n1 bright\n", encoding="utf-8")
    return folder


def arguments(data: Path, output: Path, *more: str, files: list[str] = FILES) -> list[str]:
    fast = ["-o", "DataLoader.Train.loader.num_workers=0", "-o", "Global.print_batch_step=1"]
    fast += ["-o", "DataLoader.Eval.loader.num_workers=0", "-o", "Global.device=cpu"]
    budget = ["--epochs", "1", "--image-size", "16", "--batch-size", "4"]
    return ["-c", *files, "--data", str(data), "--output", str(output), *budget, *fast, *more]


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of both rows, trained once."""
    output = tmp_path_factory.mktemp("output")
    assert guarded(run, arguments(data, output)) == 0
    return output


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def train(tree: object) -> None:
        raise AssertionError("a finished row was trained again")

    monkeypatch.setattr("ppcls_lite.recipe.train.train", train)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_recipe_is_a_row_with_the_published_numbers(path: Path) -> None:
    text = re.sub(r"\s*\n# ", " ", path.read_text(encoding="utf-8"))
    said = re.search(r"Published: top-1 ([\d.]+) %, ([\d.]+) ms", text)
    assert said is not None
    assert PUBLISHED[path.stem] == (float(said[1]), float(said[2]))
    assert any(path.stem in table.rows for table in TABLES.values())


def test_the_papers_tables_are_whole() -> None:
    assert {number: len(table.rows) for number, table in TABLES.items()} == {
        "6": 5,
        "7": 4,
        "8": 3,
        "9": 6,
    }
    names = {name for table in TABLES.values() for name in table.rows}
    assert names == set(PUBLISHED) == {path.stem for path in CONFIGS.glob("*.yaml")}
    ladder = [PUBLISHED[name].top1 for name in TABLES["9"].rows]
    assert ladder == [55.58, 58.18, 59.09, 59.91, 62.50, 63.14]
    assert PUBLISHED["se_all"] == (64.27, 3.80)


@pytest.fixture(scope="module")
def imagenet_costs() -> dict[str, Cost]:
    """Every row's cost as in the paper: 1000 classes, 224x224 pixels."""
    trees = {name: load_config(CONFIGS / f"{name}.yaml") for name in PUBLISHED}
    return {name: cost(check(tree).Arch.build()) for name, tree in trees.items()}


def test_the_networks_differ_as_the_tables_say(imagenet_costs: dict[str, Cost]) -> None:
    costs = imagenet_costs
    full = costs["full"]
    assert round(full.tool_params / 1e6, 1) == 1.9
    assert round(full.tool_flops / 1e6) == 47
    # The 1x1 convolution is 256 -> 1280, and the classifier reads 1280 instead of 256.
    assert full.params - costs["no_last_conv"].params == 256 * 1280 + 1024 * 1000
    ladder = [costs[name].params for name in TABLES["9"].rows]
    assert ladder == sorted(ladder)
    assert ladder[0] == ladder[1] and ladder[-2] == ladder[-1]  # activation and dropout are free
    assert costs["no_hswish"] == full
    # 5x5 instead of 3x3: 16 weights more per channel, in seven blocks of 128 x 6 and 256 channels.
    assert full.params - costs["no_large_kernel"].params == 16 * (5 * 128 + 128 + 256)
    assert costs["kernel_first"].params < full.params < costs["kernel_all"].params
    attention = [costs[name].params for name in ("no_se", "se_first", "se_middle", "full")]
    assert attention == sorted(set(attention)) and full.params < costs["se_all"].params


@pytest.mark.parametrize(
    ("size", "strides"),
    [
        (224, [2, 2, 2, 2, 2]),
        (128, [2, 2, 2, 2, 2]),
        (96, [1, 2, 2, 2, 2]),
        (64, [1, 2, 2, 2, 2]),
        (32, [1, 1, 2, 2, 2]),
        (16, [1, 1, 2, 2, 2]),
    ],
)
def test_small_images_keep_four_by_four_positions(size: int, strides: list[int]) -> None:
    assert strides_for(size) == strides


def tree_of(data: Path, *overrides: str, **options: int) -> dict[str, object]:
    rows = find_rows(["configs/ablation/full.yaml"], [])
    return plan(rows, find_data(str(data)), Options("out", overrides=overrides, **options))[0].tree


def test_the_budget_reaches_the_recipe(data: Path) -> None:
    tree = tree_of(data, epochs=8, batch_size=64, image_size=32)
    assert tree["Arch"] == {"name": "PPLCNet_x0_5", "class_num": 2, "stride_list": [1, 1, 2, 2, 2]}
    assert tree["Global"]["epochs"] == 8 and tree["Global"]["image_shape"] == [3, 32, 32]
    rate = tree["Optimizer"]["lr"]
    assert rate["learning_rate"] == pytest.approx(0.8 * 64 / 2048)
    assert rate["warmup_epoch"] == pytest.approx(0.8)
    train, evaluation = (tree["DataLoader"][split]["dataset"] for split in ("Train", "Eval"))
    assert train["cls_label_path"] == str(data / "train_list.txt")
    assert evaluation["cls_label_path"] == str(data / "val_list.txt")
    assert train["transform_ops"][1] == {"RandCropImage": {"size": 32, "scale": [0.5, 1.0]}}
    assert evaluation["transform_ops"][1:3] == [
        {"ResizeImage": {"resize_short": 32}},
        {"CropImage": {"size": 32}},
    ]
    large = tree_of(data, image_size=112)
    assert large["Arch"]["stride_list"] == [1, 2, 2, 2, 2]
    operators = large["DataLoader"]["Eval"]["dataset"]["transform_ops"]
    assert operators[1] == {"ResizeImage": {"resize_short": 128}}


def test_the_papers_budget_on_one_card_has_the_papers_rate(data: Path) -> None:
    tree = tree_of(data, "Global.update_freq=4")
    assert tree["Optimizer"]["lr"]["learning_rate"] == pytest.approx(0.8)
    assert tree["Optimizer"]["lr"]["warmup_epoch"] == 5
    assert tree["Global"]["epochs"] == 360 and "stride_list" not in tree["Arch"]


def test_the_users_overrides_win(data: Path) -> None:
    given = ["Optimizer.lr.learning_rate=0.1", "Arch.stride_list=[2, 1, 2, 2, 2]"]
    given += ["DataLoader.Train.sampler.batch_size=16", "Arch.scale=0.25", "Arch.name=PPLCNet"]
    tree = tree_of(data, *given, image_size=32)
    assert tree["Optimizer"]["lr"]["learning_rate"] == 0.1
    assert tree["Arch"]["stride_list"] == [2, 1, 2, 2, 2]
    assert tree["DataLoader"]["Train"]["sampler"]["batch_size"] == 16
    assert (tree["Arch"]["name"], tree["Arch"]["scale"]) == ("PPLCNet", 0.25)


def test_without_labels_the_list_tells_the_classes(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "data")
    (tmp_path / "data" / "labels.txt").unlink()
    (tmp_path / "data" / "val_list.txt").rename(tmp_path / "data" / "test_list.txt")
    found = find_data(str(tmp_path / "data"))
    assert (found.class_num, found.label_file) == (2, None)
    assert found.eval_list.name == "test_list.txt"


def test_the_table_stands_beside_the_papers(trained: Path, data: Path) -> None:
    text = (trained / "ablation.md").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if line.startswith("| no_last_conv "))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    found = json.loads((trained / "ablation.json").read_text(encoding="utf-8"))
    rows = {row["name"]: row for row in found["rows"]}
    full, row = rows["full"], rows["no_last_conv"]
    score = row["scores"][0]
    assert cells[:4] == [
        "no_last_conv",
        "no 1x1 convolution after pooling (table 6)",
        f"{row['params'] / 1e6:.3f}",
        f"{row['flops'] / 1e6:.2f}",
    ]
    assert cells[4:6] == [f"{score['best']:.2f}", f"{score['last']:.2f}"]
    assert cells[7:] == ["59.91", "-3.23", "1.85"]
    assert row["params"] < full["params"] and row["flops"] < full["flops"]
    assert row["paper"] == {"top1": 59.91, "latency_ms": 1.85}
    assert "8 evaluation images in 2 classes" in text and "16x16 pixels" in text
    # The score is the one that the run itself recorded.
    lines = (trained / "no_last_conv" / RUN / "metrics.jsonl").read_text().splitlines()
    (own,) = [r["top1"] for r in map(json.loads, lines) if r["kind"] == "eval"]
    assert score["last"] == pytest.approx(100 * own)
    expected = {"seed": 42, "best": score["last"], "best_epoch": 1, "last": score["last"]}
    assert score == {**expected, "metric": "top1"}
    assert "| top1, best (%) | top1, last (%) |" in text


def test_both_rows_had_the_same_budget(trained: Path) -> None:
    trees = [load_config(trained / row / RUN / "config.yaml") for row in ROWS]
    changed = record.differences(*(record.settings_of(tree) for tree in trees))
    assert changed == ["Arch.use_last_conv: (not set) -> false"]


@pytest.mark.usefixtures("no_training")
def test_a_finished_row_is_not_trained_again(
    data: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (trained / "ablation.md").read_text(encoding="utf-8")
    harmless = ["-o", "DataLoader.Train.loader.num_workers=1", "-o", "Global.print_batch_step=7"]
    assert guarded(run, arguments(data, trained, *harmless)) == 0
    printed = capsys.readouterr().out
    assert printed.count("finished earlier, not trained again") == 2
    after = (trained / "ablation.md").read_text(encoding="utf-8")
    assert before.partition("### ")[2] == after.partition("### ")[2]


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--epochs", "2"], "Global.epochs: 1 -> 2"),
        (["-o", "Arch.dropout_prob=0.5"], "Arch.dropout_prob: (not set) -> 0.5"),
        (["--image-size", "24"], "Global.image_shape: [3, 16, 16] -> [3, 24, 24]"),
    ],
)
def test_a_changed_setting_is_named(
    data: Path,
    trained: Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    says: str,
) -> None:
    assert guarded(run, arguments(data, trained, *more)) == 1
    printed = capsys.readouterr().err
    assert says in printed and "--output" in printed
    assert str(trained / "full" / "seed_42") in printed


@pytest.mark.usefixtures("no_training")
def test_a_changed_list_is_noticed(
    data: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = data / "train_list.txt"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.partition("\n")[2], encoding="utf-8")
    try:
        assert guarded(run, arguments(data, trained)) == 1
    finally:
        path.write_text(text, encoding="utf-8")
    assert "Train.dataset.cls_label_path (content)" in capsys.readouterr().err


def test_ctrl_c_stops_and_the_same_command_goes_on(
    data: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained / "full", tmp_path / "full")  # finished: must stay as it is
    options = arguments(data, tmp_path)
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "tools" / "ablate.py"), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if "[Iter: 2/6]" in line:
            process.send_signal(signal.SIGINT)
    printed = "".join(seen)
    assert process.wait() == 130, printed
    assert "Traceback" not in printed and "[1/2] full, seed 42: finished earlier" in printed
    assert "1 of 2 runs are finished" in printed and "same command" in printed
    assert "| no_last_conv | no 1x1" in printed  # what is known so far
    assert not record.read(tmp_path / "no_last_conv" / "seed_42").score

    assert guarded(run, options) == 0
    assert "no_last_conv, seed 42: goes on" in capsys.readouterr().out
    assert "Resumed" in (tmp_path / "no_last_conv" / RUN / "train.log").read_text()
    whole, resumed = (
        safe_pickle.load(folder / "no_last_conv" / RUN / "latest.pdparams")
        for folder in (trained, tmp_path)
    )
    assert all(np.array_equal(whole[name], resumed[name]) for name in whole)
    tables = [(f / "ablation.md").read_text().partition("### ")[2] for f in (trained, tmp_path)]
    assert tables[0] == tables[1]


def test_a_run_that_diverges_names_its_row(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = arguments(data, tmp_path, "-o", "Optimizer.lr.learning_rate=1e8", files=FILES[:1])
    assert guarded(run, options) == 1
    assert "error: [1/1] full, seed 42: " in capsys.readouterr().err


def copy_of_full(tmp_path: Path, text: str = "", name: str = "full.yaml") -> str:
    path = tmp_path / name
    path.write_text(f"_base_: {CONFIGS / 'full.yaml'}\n{text}", encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (lambda t: ["--data", "DATA"], ["no rows", "--table 6"]),
        (lambda t: ["-c", "configs/ablation/no_es.yaml"], ["no such file", "no_se.yaml"]),
        (lambda t: ["-c", FILES[0], copy_of_full(t)], ["is called full as well"]),
        (lambda t: ["-c", FILES[0], "--data", "gone"], ["--data gone", "prepare_data.py"]),
        (lambda t: ["-c", FILES[0], "--data", str(t)], ["train_list.txt", "none of them"]),
        (lambda t: ["-c", FILES[0], "-o", "Global.seed=1"], ["use --seeds"]),
        (lambda t: ["-c", FILES[0], "-o", "Global.output_dir=x"], ["use --output"]),
        (lambda t: ["-c", FILES[0], "-o", "Arch.scal=1"], ["full.yaml", "no argument 'scal'"]),
        (lambda t: ["-c", FILES[0], "-o", "Global.eval_during_train=false"], ["the first score"]),
        (lambda t: ["-c", FILES[0], "-o", "Metric.Eval=[]"], ["the first score of Metric.Eval"]),
        (
            lambda t: ["-c", FILES[0], copy_of_full(t, "Optimizer: {momentum: 0.8}", "b.yaml")],
            ["differ in more than Arch", "Optimizer.momentum: 0.9 -> 0.8"],
        ),
        (
            lambda t: [
                *("-c", FILES[0], "--image-size", "32"),
                *("-o", "DataLoader.Train.dataset.transform_ops=[DecodeImage]"),
            ],
            ["--image-size 32", "DataLoader.Train", "RandCropImage"],
        ),
    ],
)
@pytest.mark.usefixtures("no_training")
def test_a_mistake_ends_with_one_message(
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: Callable[[Path], list[str]],
    says: list[str],
) -> None:
    given = options(tmp_path)
    given = given if "--data" in given else [*given, "--data", str(data)]
    status = guarded(run, [*given, "--output", str(tmp_path / "out")])
    printed = capsys.readouterr().err
    assert status in (1, 2) and printed.startswith("error: ")
    for part in says:
        assert part in printed
    assert not (tmp_path / "out").exists()


def test_a_damaged_record_is_named(tmp_path: Path, data: Path) -> None:
    folder = tmp_path / "full" / "seed_42"
    folder.mkdir(parents=True)
    (folder / record.FILE).write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match=r"row\.json is not a record"):
        run(arguments(data, tmp_path, files=FILES[:1]))


def test_a_table_chooses_its_rows_once() -> None:
    assert list(find_rows([], ["6"])) == list(TABLES["6"].rows)
    assert len(find_rows([], list(TABLES))) == 14
    assert list(find_rows(FILES, ["8"])) == [*ROWS, "kernel_all", "kernel_first"]
    with pytest.raises(ConfigError, match="no rows"):
        find_rows([], [])


def test_several_seeds_show_mean_and_spread() -> None:
    rows = {
        "full": Row(
            "full", 611_386, 13_171_200, [Score(1, 50.0, 2, 49.0), Score(2, 54.0, 3, 51.0)]
        ),
        "no_se": Row("no_se", 569_946, 13_130_240, [Score(1, 50.5, 3, 50.5)]),
        "own": Row("own", 1_000_000, 2_000_000),
    }
    lines = markdown(rows, [], rows).splitlines()
    paper = "| 63.14 | 0 | 2.05 |"
    assert lines[4].endswith(f"| 0.611 | 13.17 | 52.00 ± 2.83 | 50.00 ± 1.41 | 0 {paper}")
    assert lines[5].endswith("| 50.50 | 50.50 | +0.50 | 62.51 | -0.63 | 1.87 |")
    assert lines[6] == "| own | - | 1.000 | 2.00 | - | - | - | - | - | - |"
    assert "1.6 points" in spread_note(1000)


def test_planning_loads_no_paddle() -> None:
    code = "import sys, experiments.ablation.ablate as a; print('paddle' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "False"
