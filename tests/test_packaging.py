"""The package: its lists, what an sdist and a wheel hold, and both used in bare environments."""

from __future__ import annotations

import ast
import email
import os
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import setuptools
import yaml

ROOT = Path(__file__).resolve().parent.parent


# Extras that bring dozens of packages each; tests skip what needs one that is not here.
HEAVY = ("tensorboard", "mlflow", "wandb", "s3", "ray")


def test_the_tests_install_every_extra() -> None:
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    call = next(n for n in ast.walk(tree) if isinstance(n, ast.Call) and n.keywords)
    extras = next(k.value for k in call.keywords if k.arg == "extras_require")
    assert isinstance(extras, ast.Dict)
    wanted = {
        package
        for name, packages in zip(extras.keys, extras.values)
        if ast.literal_eval(name) not in ("test", *HEAVY)
        for package in ast.literal_eval(packages)
    }
    installed = (ROOT / "tests" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert "onnxruntime>=1.18" in wanted
    assert wanted <= set(installed)


def test_the_package_is_whole_and_has_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found: dict[str, Any] = {}
    monkeypatch.setattr(setuptools, "setup", lambda **arguments: found.update(arguments))
    runpy.run_path("setup.py")
    folders = {path.parent for path in Path("ppcls_lite").rglob("*.py")}
    modules = {".".join(folder.parts) for folder in folders}
    assert set(found["packages"]) == {*modules, "ppcls_lite.configs"}
    assert found["entry_points"] == {"console_scripts": ["ppcls-lite = ppcls_lite.cli:main"]}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an sdist of what a container is built of, and the wheel made from it."""
    if int(setuptools.__version__.partition(".")[0]) < 77:
        pytest.skip("licence expressions need setuptools>=77")
    place = tmp_path_factory.mktemp("built")
    source = place / "source"
    source.mkdir()
    ignored = shutil.ignore_patterns("__pycache__")
    for name in re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.M):
        (source / name).parent.mkdir(exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, source / name)
    backend("build_sdist", source, place)
    (archive,) = place.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(place, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    backend("build_wheel", place / archive.name.removesuffix(".tar.gz"), place)
    return place


def backend(hook: str, source: Path, target: Path) -> None:
    """What pip does, without its environment of its own, which needs a network."""
    code = f"import setuptools.build_meta as b; b.{hook}({str(target)!r})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=source, check=True, capture_output=True, text=True
    )
    assert "Warning" not in done.stderr


def test_sdist_and_wheel_hold_what_they_should(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
        (place,) = [name for name in names if name.endswith("/METADATA")]
        facts = email.message_from_bytes(file.read(place))
    package = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "ppcls_lite").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    recipes = {f"ppcls_lite/{p.relative_to(ROOT)}" for p in (ROOT / "configs").rglob("*.yaml")}
    assert package | recipes == {name for name in names if name.startswith("ppcls_lite/")}
    assert {name.partition("/")[0] for name in names} == {"ppcls_lite", place.partition("/")[0]}
    assert facts["License-Expression"] == "Apache-2.0"
    assert facts.get_all("License-File") == ["LICENSE", "NOTICE"]
    assert facts["Requires-Python"] == ">=3.10" and facts["Summary"]
    assert "serve" in facts.get_all("Provides-Extra")
    assert facts.get_payload().startswith("# ppcls_lite")


def bare_environment(place: Path, package: Path) -> Path:
    """A virtual environment with a package, and the third-party ones of this interpreter."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    (packages,) = place.glob("lib/python*/site-packages")
    (packages / "here.pth").write_text(sysconfig.get_path("purelib"))
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--quiet", "--ignore-installed"]
    pip = [sys.executable, "-m", "pip", "--python", place / "bin" / "python", "install", *options]
    subprocess.run([*pip, package], check=True, capture_output=True)
    return place / "bin"


RECIPE = """
_base_: configs/quickstart/digits.yaml
Global: {epochs: 1, eval_during_train: false}
DataLoader:
  Train:
    dataset: {image_root: ., cls_label_path: list.txt}
    sampler: {batch_size: 4}
    loader: {num_workers: 0}
  Eval:
    dataset: {image_root: ., cls_label_path: list.txt}
    loader: {num_workers: 0}
"""


@pytest.mark.parametrize("kind", ["whl", "tar.gz"])
def test_it_works_in_a_bare_environment(
    built: Path, kind: str, own_home: Path, tmp_path: Path
) -> None:
    """Far from a checkout: the command, its recipes and label files, and one epoch with kernels."""
    (package,) = built.glob(f"*.{kind}")
    bin = bare_environment(tmp_path / "environment", package)
    work = tmp_path / "work"
    work.mkdir()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)

    def output(*command: str | Path) -> str:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, cwd=work, env=environment
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    assert output(bin / "ppcls-lite", "--version") == output(
        bin / "python", "-m", "ppcls_lite", "--version"
    )
    where = output(bin / "python", "-c", "import ppcls_lite; print(ppcls_lite.__file__)")
    assert Path(where.strip()).is_relative_to(tmp_path)
    shown = output(bin / "ppcls-lite", "config", "-c", "configs/PPLCNet_x0_5.yaml")
    assert yaml.safe_load(shown)["Arch"]["name"] == "PPLCNet_x0_5"
    if kind == "tar.gz":
        return  # the same files
    for number in range(8):
        image = np.full((32, 32, 3), 30 * number, np.uint8)
        cv2.imwrite(str(work / f"{number}.png"), image)
    (work / "list.txt").write_text("".join(f"{n}.png {n % 2}\n" for n in range(8)))
    (work / "mine.yaml").write_text(RECIPE)
    output(bin / "ppcls-lite", "train", "-c", "mine.yaml")
    run = work / "output" / "digits" / "PPLCNet_x0_25"
    assert (run / "latest.pdparams").is_file()


USER = """
from pathlib import Path
from typing import assert_type

import ppcls_lite
from ppcls_lite import Predictor, create_model, list_models, load_config, register
from ppcls_lite.config.schema import Probability
from ppcls_lite.errors import UserError

config = load_config("configs/quickstart/digits.yaml", ["Global.epochs=1"])
try:
    ppcls_lite.train(config)
except UserError as error:
    print(error.exit_code)
assert_type(ppcls_lite.evaluate(config), dict[str, float])
ppcls_lite.export(config, format="onnx")
model = create_model("PPLCNet_x0_5", class_num=10, pretrained=Path("a.pdparams"))
model.eval()
assert_type(list_models("PPLCNet*"), list[str])
with Predictor(Path("inference"), threads=1, engine="auto") as predictor:
    names: list[str] = [result["file"] for result in predictor.predict(["a.jpg"], batch_size=2)]
    for result in predictor.stream(["a.jpg"]):
        print(result["scores"])


@register("transform")
class Mine:
    def __init__(self, strength: Probability = 0.5) -> None:
        self.strength = strength


print(Mine(strength=0.2).strength)
"""
WRONG = """
from ppcls_lite import Predictor, create_model, export

create_model(5)
export({}, format="pt")
Predictor("inference", engine="tensorrt")
"""
MYPY = """
[mypy]
strict = True
follow_imports = silent
[mypy-paddle.*,cv2.*,numpy.*,PIL.*,matplotlib.*,visualdl.*,tqdm.*]
follow_imports = skip
ignore_missing_imports = True
"""


def test_mypy_knows_the_types_of_the_package(tmp_path: Path) -> None:
    """A user's script is clean under --strict, and what is wrong in one is found."""
    pytest.importorskip("mypy")
    for name, text in {"user.py": USER, "wrong.py": WRONG, "mypy.ini": MYPY}.items():
        (tmp_path / name).write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--python-version", "3.11", "user.py", "wrong.py"],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(ROOT)},
    )
    lines = [line for line in done.stdout.splitlines() if ": error: " in line]
    assert [line.partition(": ")[0] for line in lines] == ["wrong.py:4", "wrong.py:5", "wrong.py:6"]
