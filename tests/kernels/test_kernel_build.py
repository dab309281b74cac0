"""Building the kernels: races, broken compilers, damaged and unusable caches, the switch."""

from __future__ import annotations

import json
import logging
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ppcls_lite.errors import UserError
from ppcls_lite.kernels import build, native, prepare
from ppcls_lite.models.create import create_model

ROOT = Path(__file__).resolve().parents[2]
USE = "from ppcls_lite.kernels import available; available(); print('usable')"


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Compiling is a copy and testing is nothing; the list says what was built."""
    made: list[Path] = []

    def compiled(library: Path, *rest: object) -> None:
        made.append(library)
        library.write_bytes(b"machine code")

    monkeypatch.setattr(build, "compile_library", compiled)
    monkeypatch.setattr(build, "_tested", lambda library: None)
    return made


def use_home(monkeypatch: pytest.MonkeyPatch, home: Path) -> Path:
    monkeypatch.setenv("PPCLS_LITE_HOME", str(home))
    return home / "kernels"


def test_several_processes_at_once_build_once(kernels_home: Path, tmp_path: Path) -> None:
    wrapper = tmp_path / "compiler"  # a compiler that counts how often it links
    wrapper.write_text(
        '#!/bin/sh\ncase " $* " in *" -shared "*) echo x >> "$COUNT";; esac\nexec g++ "$@" -O0\n'
    )
    wrapper.chmod(wrapper.stat().st_mode | stat.S_IXUSR)
    environment = {**os.environ, "PPCLS_LITE_HOME": str(tmp_path / "home"), "CXX": str(wrapper)}
    environment |= {"COUNT": str(tmp_path / "count"), "OMP_NUM_THREADS": "1"}
    team = [
        subprocess.Popen(
            [sys.executable, "-c", USE], cwd=ROOT, env=environment, stdout=subprocess.PIPE
        )
        for _ in range(3)
    ]
    assert all(b"usable" in process.communicate(timeout=200)[0] for process in team)
    assert (tmp_path / "count").read_text() == "x\n"
    assert not list((tmp_path / "home").glob("kernels/building-*"))


def test_a_build_is_kept_and_a_damaged_one_replaced(
    stand_in: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    home = use_home(monkeypatch, tmp_path)
    first = build.built()
    assert build.built() == first and len(stand_in) == 1
    for damage in (b"", b"machine cod", b"other"):
        first.write_bytes(damage)
        assert build.built() == first and first.read_bytes() == b"machine code"
    (first.parent / build.RESULT).write_text("{")
    assert build.built() == first and len(stand_in) == 5
    assert {path.name for path in home.iterdir()} == {
        first.parent.name,
        f"{first.parent.name}.lock",
    }


@pytest.mark.parametrize("place", ["a file", "a missing device"])
def test_an_unusable_cache_costs_a_build_but_not_the_kernels(
    place: str, stand_in: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    if place == "a file":
        home.write_text("in the way")
    else:
        home = Path("/proc/self/nothing")
    use_home(monkeypatch, home)
    assert build.built().read_bytes() == b"machine code"
    assert len(stand_in) == 1


def test_no_room_anywhere_is_a_reason(
    stand_in: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use_home(monkeypatch, tmp_path)

    def full(library: Path, *rest: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(build, "compile_library", full)
    with pytest.raises(build.KernelsError, match="No space left"):
        build.built()
    assert not list(tmp_path.glob("kernels/building-*"))


@pytest.mark.parametrize("compiler", ["/bin/false", "/nowhere/g++"])
def test_without_a_compiler_training_is_stock_and_one_line_says_so(
    compiler: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    use_home(monkeypatch, tmp_path)
    monkeypatch.setenv("CXX", compiler)
    model = create_model("PPLCNet_x0_25", class_num=2)
    kinds = [type(layer) for layer in model.sublayers()]
    with caplog.at_level(logging.INFO, logger="ppcls_lite"):
        logging.getLogger("ppcls_lite").propagate = True
        assert prepare(model, "auto", "cpu") is False
    assert [type(layer) for layer in model.sublayers()] == kinds
    (record,) = caplog.records
    assert compiler in record.message and "slower" in record.message
    with pytest.raises(UserError, match=f"cpu_kernels: on, but there are none.*{compiler}"):
        prepare(model, "on", "cpu")


def test_sources_that_do_not_compile_name_the_compilers_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sources = tmp_path / "source"
    sources.mkdir()
    (sources / "broken.cpp").write_text("int f() { return nothing_of_that_name; }\n")
    use_home(monkeypatch, tmp_path)
    monkeypatch.setattr(build, "SOURCES", sources)
    try:
        build.find_compiler()
    except build.KernelsError as error:
        pytest.skip(str(error))
    with pytest.raises(build.KernelsError, match="nothing_of_that_name"):
        build.built()


def test_a_failed_self_test_is_remembered(
    stand_in: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use_home(monkeypatch, tmp_path)
    monkeypatch.setattr(build, "_tested", lambda library: "1x1 convolution differs by 2e-01")
    for _ in range(2):
        with pytest.raises(build.KernelsError, match=r"self-test failed: 1x1 .* 2e-01"):
            build.built()
    assert len(stand_in) == 1


def test_the_self_test_notices_wrong_results_and_crashes(
    kernels_home: Path, tmp_path: Path
) -> None:
    compiler = build.find_compiler()
    own = tmp_path / "source"
    own.mkdir()
    for body in ("", "*(volatile int*)0 = 1;"):
        code = 'extern "C" {\nvoid use_threads(int) {}\nint keep_memory() { return 0; }\n'
        for name in ("depthwise_forward", "depthwise_backward", "dense_forward"):
            code += f"void {name}() {{ {body} }}\n"
        for name in ("dense_backward", "norm_forward", "norm_backward"):
            code += f"void {name}() {{}}\n"
        (own / "wrong.cpp").write_text(code + "}\n")
        library = tmp_path / f"wrong{len(body)}.so"
        command = [*compiler.command, "-shared", "-fPIC", own / "wrong.cpp", "-o", library]
        subprocess.run(command, check=True)
        failure = build._tested(library)
        assert failure is not None
        assert ("differs" in failure) == (body == "")


def test_the_key_follows_sources_compiler_and_flags(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    compiler = build.Compiler(("g++",), "12.2")
    keys = {build.key(compiler), build.key(build.Compiler(("g++",), "13"))}
    monkeypatch.setattr(build, "cpu_identity", lambda: "another")
    keys.add(build.key(compiler))
    sources = tmp_path / "source"
    sources.mkdir()
    monkeypatch.setattr(build, "SOURCES", sources)
    keys.add(build.key(compiler))
    assert len(keys) == 4


def test_off_and_other_devices_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "available", lambda: pytest.fail("must not be asked"))
    model = create_model("PPLCNet_x0_25", class_num=2)
    for mode, device in (("off", "cpu"), (False, "cpu"), ("auto", "gpu:0")):
        assert prepare(model, mode, device) is False
    with pytest.raises(UserError, match="is for a CPU, but this run uses gpu:0"):
        prepare(model, "on", "gpu:0")


def test_threads_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for own, general, expected in (("3", "2", 3), ("", "2", 2), ("", "4,2", 4), ("x", "", 1)):
        monkeypatch.setenv(native.THREADS, own)
        monkeypatch.setenv("OMP_NUM_THREADS", general)
        assert native.threads() == expected


def test_the_record_names_the_checksum_of_the_library(kernels_home: Path) -> None:
    (path,) = kernels_home.glob("kernels/*/result.json")
    result = json.loads(path.read_text(encoding="utf-8"))
    assert result["failure"] is None
    assert result["checksum"] == build._checksum(path.with_name(build.LIBRARY))
