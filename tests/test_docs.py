"""The documents: every command runs, every snippet and every link is right.

The blocks of a document are carried out in their order, in one copy of a checkout with tiny data:
```bash lines by the scripts that they name, in this process; ```python; and blocks whose first
line names a file are written there. Trainings are cut to one epoch. A command that cannot
run in a test is listed in `NOT_RUN` with the reason, and what can be checked about it is.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
import yaml

from ppcls_lite import Predictor, cli, create_model
from ppcls_lite.config import registry
from ppcls_lite.config.check import build_list, check
from ppcls_lite.config.file import load_config
from ppcls_lite.config.settings import GlobalSettings, RecipeSettings
from ppcls_lite.config.zoo import ZOO
from ppcls_lite.errors import ConfigError
from ppcls_lite.models.weights.load import write_state
from ppcls_lite.recipe.cli import parser

ROOT = Path(__file__).resolve().parents[1]
SECTIONS = tuple(field.name for field in fields(RecipeSettings))
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]

NOT_RUN = {  # beginning of the command: why
    "bash tools/quickstart.sh": "installs packages and trains for minutes",
    "bash tools/run_tests.sh": "installs packages and runs this test",
    "pip install": "installs packages",
    "visualdl": "is a server that does not end",
    "python deploy/server.py": "is a server that does not end; tests/serve runs it",
    "python tools/chaos.py": "takes minutes; tests/experiments/test_chaos.py runs a short form",
    "python deploy/benchmark.py --paper": "exports 20 networks; tests/inference runs a short form",
    "python deploy/benchmark.py --model inference/digits --mode throughput": (
        "starts a process for each core; tests/benchmark/test_throughput.py runs a short form"
    ),
    "python deploy/benchmark.py --latency-budget": "exports 20 networks, like --paper",
    "python deploy/benchmark.py --zoo": "exports the zoo; tests/benchmark/test_zoo.py runs a part",
    "python deploy/benchmark.py --report": "needs what --zoo writes; tests/benchmark/test_zoo.py",
    "python tools/benchmark.py table": "starts many processes; test_speed_table.py runs it",
    "python tools/benchmark.py networks": "trains twelve; test_speed_networks.py trains one",
    "python tools/zoo.py --markdown": "builds the whole zoo; test_zoo_table.py has a part",
    "python tools/compare_recipes.py": "trains for an hour; test_compare_recipes.py has its parts",
    "python tools/prove_ssld.py": "trains for minutes; test_prove_ssld.py runs a short form",
    "python deploy/quantize.py --model inference/scenes_segmentation": (
        "needs a network that has learnt; tests/recipe/test_score_pixels.py runs it"
    ),
    "python tools/prepare_data.py camvid": "test_prepare_masks.py makes the folder and runs it",
    "python tools/prepare_data.py cityscapes": "test_prepare_masks.py makes it and runs it",
    "python tools/benchmark.py train --processes": "test_speed_processes.py runs it",
    "python deploy/predict.py --model inference/scenes_detection --input clip.mp4": (
        "needs a video; tests/inference/test_video.py makes one"
    ),
    "python tools/prepare_data.py voc": "tests/data/test_prepare_objects.py makes such files",
    "python tools/prepare_data.py yolo": "tests/data/test_prepare_objects.py makes such files",
    "python tools/prepare_data.py labelme": "tests/data/test_prepare_objects.py makes such files",
    "OMP_NUM_THREADS=1 python tools/benchmark.py segmentation": "test_speed_segmentation.py does",
    "python tools/train.py -c configs/detection/bccd.yaml": "needs the blood cells",
    "python -m experiments.detection.trunks": "trains six detectors on the blood cells",
    "python -m experiments.segmentation.compare": "trains ten networks on CamVid",
    "python tools/benchmark.py roofline": "measures the machine; test_speed_roofline.py runs it",
    "python tools/benchmark.py dtypes": "takes minutes, and bf16; test_speed_dtypes.py runs it",
    "python tools/benchmark.py detection": "trains for a minute; test_speed_detection.py runs it",
    "python deploy/predict.py --model output/table4": "its networks are those of --paper",
    "bash deploy/cluster/keep_running.sh": "several machines; test_cluster_examples.py runs it",
    "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=python": "needs an etcd server and several machines",
    "python -m experiments.cluster": "takes minutes; test_cluster.py runs a short form",
    "python deploy/predict_many.py --model inference/digits --input dataset/digits/val_list.txt "
    "--output output/answers --block 100 --ray": "needs a cluster; test_prediction.py makes one",
    "python -m experiments.speed.shards": "takes a minute of measuring",
    "python -m experiments.search.prices": "trains for hours; test_prove_search.py has its parts",
    "python -m experiments.search.pays": "reads what prove leaves; test_prove_search.py runs it",
    "python -m experiments.search.prove": "trains for hours; test_prove_search.py has its parts",
    "ppcls-lite search": "takes minutes; tests/search/test_run.py runs a short form",
    "ppcls-lite train -c output/search": "follows it",
    **dict.fromkeys(
        [f"python tools/{tool}.py -c configs/segmentation/" for tool in ("train", "eval")],
        "tests/recipe/test_segmentation_recipes.py runs the recipes on small images",
    ),
}
NEEDS = {  # part of a command: the optional package without which it is left out
    "--format ": "onnx",
    "benchmark.py start": "onnx",
    "--engine openvino": "openvino",
    "--engine onnxruntime": "onnxruntime",
    "deploy/quantize.py": "onnxruntime",
    "--precision int8": "onnxruntime",
}
LAUNCH = "python -m paddle.distributed.launch"  # run by tests/engine/distributed; here its recipe
PIP = (
    ["-r", "requirements.txt"],
    ["-r", "requirements-gpu.txt"],  # the command before it makes that
    ["."],
    ["--no-deps", "."],
    [".[serve]"],
)
MADE_BY = (  # the checkout, which has their results already
    "python tools/prepare_data.py digits --output dataset/digits",
    "python tools/train.py -c configs/quickstart/digits.yaml",
)
NO_WORKERS = [f"DataLoader.{split}.loader.num_workers=0" for split in ("Train", "Eval")]
SHORTER = {  # script (and its first argument): what is added to its arguments
    "deploy/benchmark": [
        *("--threads", "1", "--image-size", "32", "--rounds", "1", "--seconds", "0"),
        *("--batch-sizes", "1", "--engines", "paddle", "--precisions", "fp32"),
    ],
    "fit": [
        *("--epochs", "1", "--size", "32", "--batch", "2", "--lr", "0.01"),
        *(f"-o{item}" for item in NO_WORKERS),
    ],
    "train": [f"-o{item}" for item in ("Global.epochs=1", *NO_WORKERS)],
    "eval": [f"-o{item}" for item in NO_WORKERS],
    "ablate": ["--epochs", "1"],
    "tune": [f"-o{item}" for item in ("Global.epochs=2", *NO_WORKERS)],
    "lr": ["--steps", "10", *(f"-o{item}" for item in NO_WORKERS)],
    "quantize": ["--images", "4", "--threads", "1"],
    "prepare_data scenes": ["--images", "16", "--val", "4"],
    "benchmark data": ["--images", "4", "--batch-size", "2", "--rounds", "1", "--workers"],
    "benchmark predict": ["--images", "4", "--batch-size", "2", "--rounds", "1"],
    "benchmark distill": ["--steps", "1", "--rounds", "1", "--batch-size", "2", "--image-size=32"],
    "benchmark start": ["--rounds", "1"],
    "benchmark teacher": [
        *("--steps", "1", "--rounds", "1", "--batch-size", "2", "--image-size", "32"),
        *("--teacher", "PPLCNet_x0_25", "--student", "PPLCNet_x0_25"),
    ],
    "benchmark train": ["--steps", "1", "--rounds", "1", "--batch-size", "2", "--image-size", "32"],
}
# 1: slower than aimed at, which four images do not tell
MAY_MISS = {"benchmark data": {0, 1}, "benchmark predict": {0, 1}, "lr": {0, 1}}


class Block(NamedTuple):
    """A fenced block: its language, its text and the line where it begins."""

    language: str
    text: str
    line: int


def blocks(path: Path) -> list[Block]:
    text = path.read_text(encoding="utf-8")
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)
    return [Block(m[1], m[2], text.count("\n", 0, m.start()) + 1) for m in found]


def commands(block: Block) -> list[str]:
    lines = block.text.replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


ALL_BLOCKS = [(path, block) for path in DOCUMENTS for block in blocks(path)]


def named(block: Block) -> str | None:
    """The file that a block is to be saved as, from its first line."""
    match = re.match(r"# ([\w/]+\.(?:ya?ml|py))\n", block.text)
    return match[1] if match else None


def label(item: object) -> str | None:
    if isinstance(item, Path):
        return item.name
    return f"line{item.line}" if isinstance(item, Block) else None


@pytest.fixture(scope="module")
def checkout(
    put_back: None,
    make_home: Callable[[Path], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A checkout with a few generated photographs, digits, and the quick start's model."""
    pytest.importorskip("sklearn", reason="the quick start's digits come with scikit-learn")
    root = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "configs", root / "configs")
    for name in ("tools", "deploy", "requirements.txt", "setup.py"):
        (root / name).symlink_to(ROOT / name)
    rng = np.random.default_rng(0)
    photos = [f"photos/{name}/{i} a.jpg" for name in ("rose", "oak tree") for i in range(4)]
    classes = [f"ILSVRC2012/{split}/n0144{n}" for split in ("train", "val") for n in (0, 1)]
    wordnet = [f"{folder}/{i}.JPEG" for folder in classes for i in (0, 1)]
    for name in photos + wordnet:
        path = root / "dataset" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = rng.integers(0, 256, (6, 8, 3), np.uint8).repeat(48, 0).repeat(48, 1)
        path.write_bytes(cv2.imencode(".jpg", image)[1].tobytes())
    cifar10_archive(root / "cifar-10-binary.tar.gz", rng)
    official = make_home(root / "home") / "weights" / "PPLCNet_x1_0_pretrained.pdparams"
    official.parent.mkdir(parents=True)
    write_state(official, create_model("PPLCNet_x1_0").state_dict())
    with pytest.MonkeyPatch.context() as patch:
        run = runner(root, patch)
        for line in MADE_BY:
            run(line)
        weights = "-o Global.pretrained_model=output/digits/PPLCNet_x0_25/best_model"
        run(f"python deploy/export.py -c configs/quickstart/digits.yaml {weights}")
    return root


def cifar10_archive(path: Path, rng: np.random.Generator) -> None:
    """Ten records of noise in each file of CIFAR-10's binary version, one of each class."""
    with tarfile.open(path, "w:gz") as tar:
        for name in ("test_batch", *(f"data_batch_{i}" for i in range(1, 6))):
            records = rng.integers(0, 256, (10, 3073), np.uint8)
            records[:, 0] = range(10)
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            member.size = records.nbytes
            tar.addfile(member, io.BytesIO(records.tobytes()))


@pytest.fixture
def workplace(checkout: Path, tmp_path: Path) -> Path:
    """A copy of the checkout for one document."""
    return Path(shutil.copytree(checkout, tmp_path / "checkout", symlinks=True))


@pytest.fixture(scope="module", autouse=True)
def put_back() -> Iterator[None]:
    """What commands change in this process, for the tests of other files."""
    logger = logging.getLogger("ppcls_lite")
    before = logger.handlers[:], logger.level, logger.propagate, cv2.getNumThreads()
    yield
    logger.handlers[:], logger.level, logger.propagate = before[:3]
    cv2.setNumThreads(before[3])


def runner(root: Path, patch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Runs one command line in `root` and fails if it does not end well."""
    patch.chdir(root)
    patch.setenv("PPCLS_LITE_HOME", str(root / "home"))
    patch.setattr(sys, "path", [*sys.path])

    def run(line: str) -> None:
        words = shlex.split(line)
        while re.fullmatch(r"[A-Z_]+=.*", words[0]):
            patch.setenv(*words.pop(0).split("=", 1))
        if any(line.startswith(start) for start in NOT_RUN):
            return
        if any(part in line and find_spec(package) is None for part, package in NEEDS.items()):
            return
        if line.startswith(LAUNCH):
            script = next(n for n, word in enumerate(words) if word.startswith("tools/"))
            assert (root / words[script]).is_file()
            arguments = parser("", "").parse_args(words[script + 1 :])
            check(load_config(arguments.config, arguments.override))
            return
        if words[0] == "grep":
            subprocess.run(line, shell=True, cwd=root, check=True)
            return
        assert words[0] in ("python", "ppcls-lite"), f"no test knows how to run {line!r}"
        words = words[1:] if words[0] == "python" else words
        output = None
        if ">" in words:
            *words, _, output = words
        name = Path(words[0]).stem if words[0] != "ppcls-lite" else words[1]
        name = "deploy/benchmark" if words[0] == "deploy/benchmark.py" else name
        full = f"{name} {words[1]}" if f"{name} {words[1]}" in SHORTER else name
        words += [] if "--help" in words else SHORTER.get(full, [])
        patch.setattr(sys, "argv", words)
        complaint = io.StringIO()
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.redirect_stderr(complaint))
            if output:
                file = stack.enter_context((root / output).open("w", encoding="utf-8"))
                stack.enter_context(contextlib.redirect_stdout(file))
            status = carried_out(words)
        said = f"exit status {status}: {line}\n{complaint.getvalue()[-1000:]}"
        assert status in MAY_MISS.get(full, {0}), said
        if full == "prepare_data" and words[1] == "digits":
            keep_few(root / "dataset" / "digits")

    return run


def carried_out(words: list[str]) -> int:
    """The exit status of a script, or of the installed command."""
    if words[0] == "ppcls-lite":
        return cli.main(words[1:])
    try:
        runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        return end.code or 0
    return 0


def keep_few(digits: Path) -> None:
    """One batch of training images, a few others."""
    for split, count in (("train", 64), ("val", 12)):
        file = digits / f"{split}_list.txt"
        lines = file.read_text().splitlines()[:count]
        file.write_text("\n".join(lines))
        listed = {line.split()[0] for line in lines}
        for image in (digits / split).iterdir():
            if f"{split}/{image.name}" not in listed:
                image.unlink()


@pytest.mark.parametrize("document", DOCUMENTS, ids=label)
def test_commands_and_snippets_run(
    document: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, names = runner(workplace, monkeypatch), {}
    for block in blocks(document):
        if block.language == "bash":
            for line in commands(block):
                if line not in MADE_BY:
                    run(line)
        elif named(block):
            (workplace / named(block)).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            snippet = workplace / "snippet.py"
            snippet.write_text("\n" * block.line + block.text)  # the document's line numbers
            names = runpy.run_path(str(snippet), names)


def test_what_is_not_run_is_checked_as_far_as_possible() -> None:
    left = set(NOT_RUN)
    for _, block in ALL_BLOCKS:
        for line in commands(block) if block.language == "bash" else ():
            words = shlex.split(line)
            left -= {start for start in NOT_RUN if line.startswith(start)}
            if words[0] == "bash":
                subprocess.run(["bash", "-n", ROOT / words[1]], check=True)
            elif words[0] == "visualdl":
                args = pytest.importorskip("visualdl.server.args")
                assert {word for word in words if word.startswith("--")} <= visualdl_options(args)
            elif words[:2] == ["pip", "install"]:
                assert words[2:] in PIP, line
    assert not left, f"no document has these any more: {left}"


def visualdl_options(args: object) -> set[str]:
    return set(re.findall(r'"(--[\w-]+)"', Path(args.__file__).read_text(encoding="utf-8")))


@pytest.mark.parametrize("document", DOCUMENTS, ids=label)
def test_extras_exist(document: Path) -> None:
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    extras = setup[setup.index("extras_require") :]
    for extra in re.findall(r"\.\[(\w+)\]", document.read_text(encoding="utf-8")):
        assert f'"{extra}": ' in extras


@pytest.mark.parametrize(
    ("document", "block"), [b for b in ALL_BLOCKS if b[1].language == "yaml"], ids=label
)
def test_yaml_is_what_the_check_accepts(
    document: Path, block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    for other in blocks(document):
        if other.language == "python" and named(other):  # a plug-in
            (tmp_path / named(other)).write_text(other.text, encoding="utf-8")
    tree = yaml.safe_load(block.text)
    if list(tree) == ["transform_ops"]:
        assert build_list(tree["transform_ops"], "transform")
        return
    if "PreProcess" in tree or (named(block) or "").startswith("dataset/"):
        return  # inference.yml, see below; what prepare_data.py reads, run above
    path = tmp_path / (named(block) or "configs/fragment.yaml")
    base = "" if "_base_" in tree else "_base_: PPLCNet_x0_5.yaml\n"
    path.write_text(base + block.text, encoding="utf-8")
    assert isinstance(check(load_config(path)), RecipeSettings)


def test_the_documented_inference_yml_is_enough(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workplace)
    (block,) = [b for _, b in ALL_BLOCKS if named(b) == "inference.yml"]
    image = next(Path("dataset/digits/val").iterdir())
    before = Predictor("inference/digits").predict(image)
    Path("inference/digits/inference.yml").write_text(block.text, encoding="utf-8")
    after = Predictor("inference/digits").predict(image)
    assert after == [before[0] | {"label_names": []}]


@pytest.mark.parametrize("document", DOCUMENTS, ids=label)
def test_links_and_paths_lead_somewhere(document: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", document.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        path = document.parent / name if name else document
        assert path.exists(), f"{document.name} links to {target}"
        if anchor:
            assert anchor in anchors(path), f"{document.name} links to {target}"
    rooms = "tools|deploy|configs|docs|tests|ppcls_lite|experiments"
    for path in re.findall(rf"`(?:bash |python )?((?:{rooms})/[^`\s]+)", text):
        assert list(ROOT.glob(path)) or (ROOT / path).exists(), f"{document.name} names {path}"


def anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=label)
def test_keys_and_overrides_in_the_text_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    recipe = ROOT / "configs" / "PPLCNet_x0_5.yaml"
    section = f"(?:{'|'.join(SECTIONS)})"
    for override in re.findall(rf"`-o ({section}\.[\w.]+=[^`\s]+)`", text):
        check(load_config(recipe, [override]))
    for key in re.findall(rf"`({section}(?:\.\w+)+)", text):
        assert not unknown(recipe, key), f"{document.name} names {key}"


def unknown(recipe: Path, key: str) -> bool:
    """Whether the check of a recipe does not know `key`."""
    try:
        check(load_config(recipe, [f"{key}=null"]))
    except ConfigError as error:  # null is not allowed for some keys that exist
        return " has no " in str(error)
    return False


@pytest.mark.parametrize(
    ("document", "kinds"),
    [
        ("data.md", "transform batch_transform dataset sampler"),
        ("training.md", "loss optimizer schedule metric regularizer"),
        ("deployment.md", "postprocess"),
    ],
)
def test_every_component_is_documented(document: str, kinds: str) -> None:
    text = (ROOT / "docs" / document).read_text(encoding="utf-8")
    words = set(re.findall(r"\w+", text))
    assert {name for kind in kinds.split() for name in registry.names(kind)} <= words


def test_every_run_setting_is_documented() -> None:
    text = (ROOT / "docs" / "config.md").read_text(encoding="utf-8")
    table = re.findall(r"`(\w+)`", text.partition("## `Global`")[2])
    plain = {f.name for f in fields(GlobalSettings) if not re.match("Ignored|Annotated", f.type)}
    assert plain - {"class_num"} <= set(table)


def test_the_table_of_models_is_the_zoos() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (PPLCNet_\w+) \|(.*)\|$", text, re.M)
    assert [name for name, _ in rows] == [name for name in ZOO if name.startswith("PPLCNet_")]
    for name, cells in rows:
        z = ZOO[name]
        published = (z.params_m, z.flops_m, z.top1, z.top5, z.latency_ms, z.ssld_top1)
        assert tuple(float(c) if c.strip() else None for c in cells.split("|")) == published
