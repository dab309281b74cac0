"""The cache of the teachers' logits: what it returns, what it refuses, and runs that are killed."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import paddle
import pytest

from ppcls_lite.config.file import load_config
from ppcls_lite.distill import teacher_cache, teachers
from ppcls_lite.distill.inference_model import InferenceModel
from ppcls_lite.distill.teacher_cache import TeacherCache, open_cache
from ppcls_lite.engine.tasks import Distilled
from ppcls_lite.errors import UserError
from ppcls_lite.inference.export import export_model
from ppcls_lite.models.create import create_model
from ppcls_lite.models.weights.load import load_weights, read_state, write_state
from ppcls_lite.recipe.train import train

ROOT = Path(__file__).resolve().parents[2]

VIEWS, IMAGES, CLASSES = 2, 10, {"Teacher": 4, "Second": 3}
PARTS = {"weights of Teacher": "aa", "weights of Second": "ab", "transforms": "bb", "seed": "7"}


class Teachers:
    """Logits that are a function of an image; counts the images it is asked about."""

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, batch: dict[str, Any]) -> dict[str, paddle.Tensor]:
        images = batch["image"]
        self.seen += len(images)
        return {name: images[:, 0, 0, :count] * 1.001 for name, count in CLASSES.items()}


def batch_of(view: int, index: list[int]) -> dict[str, paddle.Tensor]:
    values = [np.random.default_rng((view, i)).standard_normal((1, 1, 4)) for i in index]
    return {
        "image": paddle.to_tensor(np.array(values, np.float32)),  # (N, C, H, W)
        "index": paddle.to_tensor(np.array(index)),
        "view": paddle.to_tensor(np.full(len(index), view)),
    }


def opened(folder: Path, **changes: Any) -> TeacherCache:
    given = {"views": VIEWS, "images": IMAGES, "classes": CLASSES, "parts": PARTS} | changes
    return open_cache(folder, **given)


def arrays(outputs: dict[str, paddle.Tensor]) -> dict[str, np.ndarray]:
    assert all(tensor.dtype == paddle.float32 for tensor in outputs.values())
    return {name: tensor.numpy() for name, tensor in outputs.items()}


def assert_equal(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> None:
    assert list(first) == list(second)
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name])


def test_a_teacher_is_asked_once_for_each_image_and_view(tmp_path):
    teachers, cache = Teachers(), opened(tmp_path / "cache")
    batch = batch_of(1, [3, 0, 7])
    exact = arrays(teachers(batch))
    first = arrays(cache.outputs(batch, teachers))
    assert teachers.seen == 6
    for name, count in CLASSES.items():
        assert first[name].shape == (3, count)
        rounded = exact[name].astype(np.float16).astype(np.float32)
        np.testing.assert_array_equal(first[name], rounded)
    assert_equal(arrays(cache.outputs(batch, teachers)), first)
    other_order = arrays(cache.outputs(batch_of(1, [7, 3]), teachers))
    assert_equal(other_order, {name: array[[2, 0]] for name, array in first.items()})
    assert teachers.seen == 6
    cache.outputs(batch_of(1, [3, 5]), teachers)  # asks about image 5 alone
    cache.outputs(batch_of(0, [3]), teachers)  # another view
    assert teachers.seen == 8
    assert cache.share == 5 / 20


def test_what_was_flushed_is_there_for_the_next_run(tmp_path):
    cache, teachers = opened(tmp_path), Teachers()
    kept = arrays(cache.outputs(batch_of(0, [1, 2]), teachers))
    cache.flush()
    cache.outputs(batch_of(0, [4]), teachers)  # and then the run is killed
    del cache
    again, teachers = opened(tmp_path), Teachers()
    assert_equal(arrays(again.outputs(batch_of(0, [1, 2]), teachers)), kept)
    assert teachers.seen == 0 and again.share == 2 / 20
    again.outputs(batch_of(0, [4]), teachers)
    assert teachers.seen == 1


def test_a_long_run_flushes_by_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(teacher_cache, "FLUSH_SECONDS", -1.0)
    opened(tmp_path).outputs(batch_of(0, [1, 2]), Teachers())
    assert opened(tmp_path).share == 2 / 20


def test_two_processes_fill_one_cache(tmp_path):
    one, two, teachers = opened(tmp_path), opened(tmp_path), Teachers()
    first = arrays(one.outputs(batch_of(0, [0, 1]), teachers))
    two.outputs(batch_of(0, [2, 3]), teachers)
    one.flush()
    two.flush()
    assert_equal(arrays(two.outputs(batch_of(0, [0, 1]), teachers)), first)
    one.outputs(batch_of(0, [3, 2]), teachers)
    assert teachers.seen == 4 and one.share == two.share == 4 / 20


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"parts": PARTS | {"weights of Second": "cd"}}, "weights of Second: ab there, cd here"),
        ({"parts": PARTS | {"transforms": "cc"}}, "transforms: bb there, cc here"),
        ({"parts": PARTS | {"seed": "8"}}, "seed: 7 there, 8 here"),
        ({"views": 3}, "number of views: 2 there, 3 here"),
        ({"images": 11}, "number of images: 10 there, 11 here"),
        ({"classes": {"Teacher": 4}}, "classes of Second: 3 there, nothing here"),
    ],
)
def test_a_stale_cache_is_refused_with_what_differs(tmp_path, changes, named):
    opened(tmp_path).outputs(batch_of(0, [1]), Teachers())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UserError) as error:
        opened(tmp_path, **changes)
    assert named in str(error.value) and "name another folder" in str(error.value)
    assert str(error.value).count(" there, ") == 1
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_damage_is_noticed(tmp_path):
    opened(tmp_path)
    (tmp_path / "Second.f16").write_bytes(b"short")
    with pytest.raises(UserError, match=r"Second.f16: expected 120 bytes, found 5"):
        opened(tmp_path)
    (tmp_path / "Second.f16").unlink()
    with pytest.raises(UserError, match="found no such file"):
        opened(tmp_path)
    for text in ("{", "[]", '{"format": 2}', "{}"):
        (tmp_path / "header.json").write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match="no header of a teacher cache"):
            opened(tmp_path)
    (tmp_path / "header.json").write_text(json.dumps({"format": 1}), encoding="utf-8")
    with pytest.raises(UserError, match="another version"):
        opened(tmp_path)


def test_a_run_killed_while_the_files_are_made_leaves_no_cache(tmp_path):
    opened(tmp_path)
    (tmp_path / "header.json").rename(tmp_path / ".header.json.0f.tmp")
    (tmp_path / "filled.u8").write_bytes(b"\1" * 20)
    assert opened(tmp_path).share == 0


def test_folders_that_cannot_be_used(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"holds other files \(a.jpg\)"):
        opened(tmp_path / "photos")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="cannot be written"):
        opened(tmp_path / "file")
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"0.0 GB are free; use fewer Global.teacher_cache_views"):
        opened(tmp_path / "full")


def test_answers_that_cannot_be_kept(tmp_path):
    cache = opened(tmp_path, classes={"Teacher": 4})
    batch = batch_of(0, [1])
    with pytest.raises(UserError, match="Teacher gives blocks5 as well"):
        cache.outputs(batch, lambda b: {"Teacher": {"logits": b["image"], "blocks5": b["image"]}})
    for value in (1e5, -1e5, float("nan")):
        with pytest.raises(UserError, match="float16 cannot hold"):
            cache.outputs(batch, lambda b, v=value: {"Teacher": paddle.full([1, 4], v)})
    assert cache.share == 0


RECIPE = """
_base_: {root}/configs/_base_/pplcnet.yaml
Global: {{epochs: 5, output_dir: {home}/output, device: cpu, image_shape: [3, 32, 32], seed: 3,
         use_visualdl: false, print_batch_step: 1, save_interval: 2}}
Arch:
  _replace_: true
  name: DistillationModel
  class_num: 2
  freeze_params_list: [true, false]
  models:
    - Teacher: {{name: PPLCNet_x0_25, stride_list: [2, 1, 2, 2, 1], pretrained: {home}/teacher}}
    - Student: {{name: PPLCNet_x0_25, stride_list: [2, 1, 2, 2, 1], dropout_prob: 0.1}}
Loss:
  Train: [{{DistillationDMLLoss: {{weight: 1.0, model_name_pairs: [[Student, Teacher]]}}}}]
  Eval: [{{CELoss: {{weight: 1.0}}}}]
Optimizer: {{lr: {{learning_rate: 0.02, warmup_epoch: 1}}}}
DataLoader:
  Train:
    dataset:
      name: UnlabeledDataset
      image_root: {home}/photos
      cls_label_path: {home}/photos/list.txt
      unlabeled_root: {home}/pool
      ratio: 1.5
      transform_ops:
        - DecodeImage:
        - RandCropImage: {{size: 32}}
        - RandFlipImage: {{flip_code: 1}}
        - NormalizeImage: {{order: ''}}
    sampler: {{batch_size: 4, drop_last: false}}
    loader: {{num_workers: 0}}
  Eval:
    dataset:
      image_root: {home}/photos
      cls_label_path: {home}/photos/list.txt
      transform_ops:
        - DecodeImage:
        - ResizeImage: {{size: 32}}
        - NormalizeImage: {{order: ''}}
    sampler: {{batch_size: 4}}
    loader: {{num_workers: 0}}
Metric:
  Train: [{{TopkAcc: {{topk: [1]}}}}]
  Eval: [{{TopkAcc: {{topk: [1]}}}}]
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six labelled pictures, nine without labels, a teacher's weights and a recipe."""
    home = tmp_path_factory.mktemp("home")
    rng = np.random.default_rng(0)
    for folder, count in (("photos", 6), ("pool", 9)):
        (home / folder).mkdir()
        for i in range(count):
            tiles = rng.integers(0, 256, (4, 4, 3), np.uint8).repeat(10, 0).repeat(10, 1)
            (home / folder / f"{i}.png").write_bytes(cv2.imencode(".png", tiles)[1].tobytes())
    lines = [f"{i}.png {i % 2}" for i in range(6)]
    (home / "photos" / "list.txt").write_text("\n".join(lines), encoding="utf-8")
    paddle.seed(1)
    teacher = create_model("PPLCNet_x0_25", class_num=2, stride_list=[2, 1, 2, 2, 1])
    for _ in range(20):  # batch normalisation learns the statistics, so that answers differ
        teacher(paddle.randn([8, 3, 32, 32]))
    teacher.fc.weight.set_value(teacher.fc.weight * 30)
    write_state(home / "teacher.pdparams", teacher.state_dict())
    (home / "recipe.yaml").write_text(RECIPE.format(home=home, root=ROOT), encoding="utf-8")
    return home


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images the teachers were asked about, batch by batch."""
    counts: list[int] = []
    run = Distilled.run_teachers

    def counting(self: Distilled, batch: Any) -> dict[str, Any]:
        counts.append(len(batch["image"]))
        return run(self, batch)

    monkeypatch.setattr(Distilled, "run_teachers", counting)
    return counts


def trained(home: Path, name: str, *overrides: str) -> dict[str, np.ndarray]:
    """Train in output `name`; the student's weights."""
    given = [f"Global.output_dir={home}/{name}", *overrides]
    folder = train(load_config(home / "recipe.yaml", given)).run_dir
    return read_state(folder / "latest.pdparams")


def test_a_training_asks_its_teacher_in_the_first_epochs_only(home, asked):
    cached = [f"Global.teacher_cache={home}/cache", "Global.teacher_cache_views=2"]
    first = trained(home, "filling", *cached)
    assert sum(asked) == 2 * 15  # the whole pool: 1.5 x 6 = 9
    del asked[:]
    assert_equal(trained(home, "filled", *cached), first)
    assert asked == []
    for view in (3, 1):  # another number of views, another cache
        with pytest.raises(UserError, match=f"number of views: 2 there, {view} here"):
            trained(home, "other", cached[0], f"Global.teacher_cache_views={view}")
    with pytest.raises(UserError, match="differs in seed: 3 there, 4 here"):
        trained(home, "other", *cached, "Global.seed=4")
    flip = "DataLoader.Train.dataset.transform_ops.2.RandFlipImage.flip_code=0"
    with pytest.raises(UserError, match=r"differs in transforms: \w+ there, \w+ here"):
        trained(home, "other", *cached, flip)
    strides = "Arch.models.0.Teacher.stride_list=[2,2,2,2,1]"  # with the same weights
    known = r"stride_list of Teacher: \[2, 1, 2, 2, 1\] there, \[2, 2, 2, 2, 1\] here"
    with pytest.raises(UserError, match=f"differs in {known}; name another"):
        trained(home, "other", *cached, strides)
    image = home / "pool" / "3.png"
    before = image.read_bytes()
    try:
        image.write_bytes(before + b"\0")  # of another size under the same name
        with pytest.raises(UserError, match=r"differs in list of images: \w+ there"):
            trained(home, "other", *cached)
    finally:
        image.write_bytes(before)


@pytest.mark.parametrize("stop_at", [2, 5])  # while the cache is being filled, and after
def test_a_resumed_run_equals_one_that_was_not_interrupted(home, asked, monkeypatch, stop_at):
    whole = trained(home, f"whole{stop_at}", f"Global.teacher_cache={home}/whole{stop_at}_cache")
    assert sum(asked) == 15
    del asked[:]
    steps, losses = [], Distilled.losses

    def stopping(self: Distilled, batch: Any) -> Any:
        steps.append(1)
        if len(steps) == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return losses(self, batch)

    monkeypatch.setattr(Distilled, "losses", stopping)
    parts = f"parts{stop_at}", f"Global.teacher_cache={home}/parts{stop_at}_cache"
    trained(home, *parts)
    assert len(steps) == stop_at
    resumed = trained(home, *parts, "Global.checkpoints=auto")
    assert len(steps) == 20 and sum(asked) == 15
    assert_equal(resumed, whole)


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["Arch.freeze_params_list=[false,false]"], "no network is frozen"),
        (
            ["DataLoader.Train.sampler={name: MultiScaleSampler, scales: [32], first_bs: 4}"],
            "in changing sizes",
        ),
        (
            ["DataLoader.Train.dataset.batch_transform_ops=[{MixupOperator: {}}]"],
            "mix each image with others",
        ),
    ],
)
def test_runs_that_cannot_have_a_cache(home, overrides, message):
    with pytest.raises(UserError, match=message):
        trained(home, "refused", f"Global.teacher_cache={home}/refused_cache", *overrides)
    assert not (home / "refused_cache").exists()


def test_a_teacher_from_a_file_teaches_with_a_cache(home, asked):
    teacher = create_model("PPLCNet_x0_25", class_num=2, stride_list=[2, 1, 2, 2, 1])
    load_weights(teacher, home / "teacher")
    chain = [{"DecodeImage": {}}, {"ResizeImage": {"size": 32}}, {"NormalizeImage": {"order": ""}}]
    export_model(teacher, home / "inference", image_shape=(3, 32, 32), transforms=chain)
    model = f"Arch.models.0.Teacher={{name: InferenceModel, path: {home}/inference}}"
    options = [model, f"Global.teacher_cache={home}/file_cache", "Global.epochs=2"]
    trained(home, "from_file", *options)
    assert sum(asked) == 15
    with pytest.raises(UserError, match="network of Teacher: InferenceModel there, PPLCNet_x0_25"):
        trained(home, "from_network", *options[1:])
    for change, message in (
        ("mean: [0, 0, 0], std: [1, 1, 1]", r"normalisation of Teacher: .* mean \[0.0, 0.0, 0.0\]"),
        ("scale: 1.0", r"normalisation of Teacher: scale 0.0039.* there, scale 1, mean"),
        ("output: logits", "its program gives probabilities already"),
    ):
        other = model.replace("}", f", {change}}}")
        with pytest.raises(UserError, match=message):
            trained(home, "from_file", other, *options[1:])
    trained(home, "from_network", f"Global.teacher_cache={home}/net_cache", options[2])
    both = []
    for folder in ("file_cache", "net_cache"):
        logits = np.fromfile(home / folder / "Teacher.f16", np.float16).astype(np.float32)
        powers = np.exp(logits.reshape(15, 2))
        both.append(powers / powers.sum(axis=1, keepdims=True))
    np.testing.assert_allclose(*both, atol=2e-3)
    assert both[0].std(axis=0).max() > 0


def test_a_file_alone_cannot_be_trained(home):
    with pytest.raises(UserError, match="InferenceModel has nothing to train"):
        trained(home, "alone", "Arch={_replace_: true, name: InferenceModel, path: x}")


def test_two_ranks_fill_one_cache(home, asked, tmp_path):
    options = [f"Global.teacher_cache={home}/ranks_cache", "Global.epochs=1"]
    command = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2"]
    command += ["--log_dir", str(tmp_path / "log"), str(ROOT / "tools" / "train.py")]
    command += ["-c", str(home / "recipe.yaml"), "-o", f"Global.output_dir={home}/ranks"]
    command += [word for option in options for word in ("-o", option)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PADDLE_")}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    trained(home, "after_ranks", *options)
    assert asked == []


def test_a_full_or_read_only_disk_is_said(tmp_path, monkeypatch):
    def full(number: int, start: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full, raising=False)
        with pytest.raises(UserError, match=r"Teacher.f16 could not be written: No space left"):
            opened(tmp_path / "full")
    opened(tmp_path / "cache")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(np, "memmap", refuse)
    with pytest.raises(UserError, match=r"cache: cannot be written: Permission denied; a teacher"):
        opened(tmp_path / "cache")


@pytest.mark.parametrize(
    ("names", "heard"), [(["a", "b"], ""), (["b", "a"], "order"), (["a", "x"], "warning"), ([], "")]
)
def test_a_teacher_knows_the_classes_in_the_recipes_order(home, tmp_path, caplog, names, heard):
    teacher = create_model("PPLCNet_x0_25", class_num=2, stride_list=[2, 1, 2, 2, 1])
    load_weights(teacher, home / "teacher")
    chain = [{"DecodeImage": {}}, {"ResizeImage": {"size": 32}}, {"NormalizeImage": {"order": ""}}]
    shape = (3, 32, 32)
    export_model(
        teacher, tmp_path / "it", image_shape=shape, transforms=chain, labels=names or None
    )
    network = InferenceModel(str(tmp_path / "it"))
    if heard == "order":
        with pytest.raises(UserError, match=r"first is 0: 'b' there, 'a' here\. The names are"):
            teachers._require_same_names(network, ["a", "b"])
    else:
        teachers._require_same_names(network, ["a", "b"])
        assert ("'x' there, 'b' here" in caplog.text) == (heard == "warning")
    teachers._require_same_names(network, None)


def test_images_without_labels_alone_need_a_loss_that_takes_them(home):
    data = "DataLoader.Train.dataset"
    alone = [f"{data}.cls_label_path=null", f"{data}.ratio=null", "Global.epochs=1"]
    with pytest.raises(UserError, match="CELoss learns from labels, but no image of"):
        trained(home, "nothing", *alone, "Loss.Train=[{CELoss: {weight: 1.0}}]")
    trained(home, "distilled", *alone)
