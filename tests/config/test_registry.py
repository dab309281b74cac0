"""What the registry reads: bases, fields, plug-in files and packages; and what it refuses."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from ppcls_lite.cli import main
from ppcls_lite.config import registry
from ppcls_lite.config.check import build, check
from ppcls_lite.config.file import load_config
from ppcls_lite.config.registry import REQUIRED
from ppcls_lite.errors import ConfigError, UserError

ROOT = Path(__file__).resolve().parents[2]
WASH = '''
from ppcls_lite import register


@register("transform", aliases=("Rinse",))
class Wash:
    """Washes an image."""

    def __init__(self, times: int = 1) -> None:
        self.times = times
'''


def plugin(folder: Path, text: str, name: str = "my_parts.py") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def refused(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        registry.entries([path])
    return str(caught.value)


BASES = """
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

from ppcls_lite import register
from ppcls_lite.config.schema import Ignored, PositiveInt
from ppcls_lite.losses.cross_entropy import CELoss
from ppcls_lite.optim import schedule


@register("loss")
class Inherited(CELoss):
    pass


class Middle:
    def __init__(self, a: int, b: str = "x") -> None: ...


class Plain(Middle):
    c: int = 3


@register("transform")
class Grandchild(Plain):
    pass


@register("schedule")
@dataclass
class Fields(schedule.FromRate):
    own: PositiveInt = 2
    scale_of_class: ClassVar[float] = 1.0
    _: KW_ONLY
    verbose: bool = True
    late: Ignored = None


@dataclass
class Left:
    x: int = 0
    y: int = 1


@dataclass
class Right:
    y: int = 2
    z: int = 3


@register("sampler")
@dataclass
class Both(Left, Right):
    z: ClassVar[int] = 4
    w: int = 5


@register("metric")
class InheritsFields(Both):
    v: int = 6


@register("dataset")
class Own(Both):
    def __init__(self, only: float) -> None: ...
"""


def test_arguments_come_from_bases_and_fields_as_python_has_them(tmp_path: Path) -> None:
    table = registry.entries([plugin(tmp_path, BASES)])
    own = {entry.name: entry for entry in table.values() if entry.plugin}
    assert {*own} == {"Inherited", "Grandchild", "Fields", "Both", "InheritsFields", "Own"}
    for name, entry in own.items():
        parameters = inspect.signature(entry.load()).parameters.values()
        expected = [(p.name, REQUIRED if p.default is p.empty else p.default) for p in parameters]
        assert [(a.name, a.default) for a in entry.arguments] == expected, name
    assert own["Inherited"].arguments == table["loss", "CELoss"].arguments
    assert [a.name for a in own["Grandchild"].arguments] == ["a", "b"]
    assert [a.name for a in own["Both"].arguments] == ["y", "x", "w"]


def test_a_component_of_a_plug_in_is_listed_checked_and_built(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = plugin(tmp_path, WASH)
    assert main(["config", "--list", "transform", "--plugins", str(path)]) == 0
    assert (
        "transform Wash: Washes an image.\n    times: an integer [1]\n" in capsys.readouterr().out
    )
    first, second = (build({name: {"times": 3}}, "transform", [path]) for name in ("Wash", "Rinse"))
    assert type(first) is type(second)  # the file has run once
    assert first.times == 3
    with pytest.raises(ConfigError, match="did you mean 'times'"):
        build({"Wash": {"time": 3}}, "transform", [path])
    with pytest.raises(ConfigError, match="there is no transform 'Wash'"):
        build("Wash", "transform")


def test_a_changed_plug_in_is_read_again(tmp_path: Path) -> None:
    path = plugin(tmp_path, WASH)
    assert build("Wash", "transform", [path]).times == 1
    plugin(tmp_path, WASH.replace("= 1", "= 7"))
    assert build("Wash", "transform", [path]).times == 7


def test_a_recipe_names_plug_ins_beside_it_or_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, name in (("recipes", "near.py"), ("work", "far.py")):
        (tmp_path / folder).mkdir()
        plugin(
            tmp_path / folder, WASH.replace("Wash", name[:-3]).replace("Rinse", "x" + name), name
        )
    recipe = tmp_path / "recipes" / "a.yaml"
    base = (ROOT / "configs" / "PPLCNet_x0_5.yaml").as_posix()
    recipe.write_text(f"_base_: {base}\nGlobal: {{plugins: [near.py, far.py]}}\n")
    monkeypatch.chdir(tmp_path / "work")
    uses = {"Train": "near", "Eval": "{far: {times: 2}}"}
    use = [f"DataLoader.{split}.dataset.transform_ops.1={op}" for split, op in uses.items()]
    data = check(load_config("../recipes/a.yaml", use)).DataLoader
    for section, times in ((data.Train, 1), (data.Eval, 2)):
        assert section.dataset.get("transform_ops")[1].build().times == times
    assert main(["config", "--list", "transform", "-c", "../recipes/a.yaml"]) == 0
    listed = capsys.readouterr().out
    assert "transform near:" in listed
    assert "transform far:" in listed
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"plug-in .*far\.py: there is no such file"):
        check(load_config(recipe))
    with pytest.raises(ConfigError, match=r"Global\.plugins: expected a list"):
        check(load_config(recipe, ["Global.plugins=near.py"]))


@pytest.mark.parametrize(
    ("mark", "line", "says"),
    [
        ('@register("transform", name=NAME)', 5, "expected literal arguments"),
        ('@register(f"trans{1}")', 5, "expected literal arguments"),
        ('@ppcls_lite.register("transform")', 5, "from ppcls_lite import register"),
        ('@registry.register("transform")', 5, "from ppcls_lite import register"),
        ('@mark("transform")', 5, "from ppcls_lite import register"),
        ("@register", 5, "expected @register(KIND) before a class"),
        ('@register("transform", alias=("B",))', 5, "aliases="),
        ('@register("transform", aliases=(1,))', 5, "aliases="),
        ("@register()", 5, "register("),
        (
            '@register("transforms")',
            6,
            "no kind 'transforms' of component; kinds: assigner, ",
        ),
        ('if True:\n    @register("transform")\n    class B: ...\n', 6, "top level"),
        ('register("transform")(int)\n', 5, "expected @register(KIND) before a class"),
    ],
)
def test_a_mark_that_cannot_be_read_is_an_error(
    mark: str, line: int, says: str, tmp_path: Path
) -> None:
    head = "import ppcls_lite\nfrom ppcls_lite import register, register as mark\n"
    head += 'from ppcls_lite.config import registry\nNAME = "A"\n'
    path = plugin(tmp_path, f"{head}{mark}\nclass A: ...\n")
    report = refused(path)
    assert report.startswith(f"{path}:{line}: ")
    assert says in report


@pytest.mark.parametrize(
    ("init", "says"),
    [
        ("self, a", "the argument 'a' has no annotation"),
        ("self, a: Tensor", "the argument 'a': expected a type of ppcls_lite.config.schema"),
        ("self, a: int = 1 + x", "the argument 'a': expected a literal as default, found 1 + x"),
        ("self, **more: int", "takes named arguments only"),
    ],
)
def test_an_argument_that_cannot_be_read_is_an_error(init: str, says: str, tmp_path: Path) -> None:
    path = plugin(tmp_path, WASH.replace("self, times: int = 1", init))
    report = refused(path)
    assert report.startswith(f"{path}:9: ")
    assert says in report


def test_broken_files_are_named(tmp_path: Path) -> None:
    path = plugin(tmp_path, WASH)
    assert "did you mean my_parts.py?" in refused(tmp_path / "my_part.py")
    assert "there is no component in it" in refused(plugin(tmp_path, "x = 1\n", "none.py"))
    assert f"{tmp_path / 'b.py'}:2: not valid Python" in refused(
        plugin(tmp_path, "\nx =\n", "b.py")
    )
    report = refused(plugin(tmp_path, WASH.replace("Wash", "ToCHWImage"), "taken.py"))
    assert "the transform 'ToCHWImage' is in" in report
    assert "taken.py" in report and "normalize.py" in report
    other = plugin(tmp_path, WASH, "other.py")
    with pytest.raises(ConfigError, match=r"other\.py: the transform 'Wash' is in .*my_parts\.py"):
        registry.entries([path, other])
    registry.entries([path, path])  # named twice is no clash


def test_a_plug_in_that_cannot_be_imported_is_named_with_its_line(tmp_path: Path) -> None:
    path = plugin(tmp_path, WASH + "\nimport no_such_package\n")
    with pytest.raises(UserError, match=r"my_parts\.py:12: cannot be imported: ModuleNotFound"):
        build("Wash", "transform", [path])


def test_installed_packages_bring_components(tmp_path: Path) -> None:
    about = tmp_path / "soap-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: soap\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[ppcls_lite.plugins]\nparts = soap_parts\n")
    code = (
        f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(tmp_path)!r}]\n"
        "from ppcls_lite.cli import guarded\n"
        "from ppcls_lite.config import check, registry\n"
        "def run(argv):\n"
        "    entry = registry.entries()['transform', 'Wash']\n"
        "    print(entry.plugin, check.build('Wash', 'transform').times)\n"
        "sys.exit(guarded(run, []))"
    )

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    missing = run()
    assert missing.returncode == 2
    assert "the installed package soap names soap_parts" in missing.stderr
    plugin(tmp_path, WASH, "soap_parts.py")
    assert run().stdout.split() == ["soap", "1"]
