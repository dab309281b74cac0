"""Building the kernels: races, broken compilers, damaged and unusable caches, the switch."""

from __future__ import annotations

import json
import logging
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import paddle
import pytest

from ppcls_lite.errors import UserError
from ppcls_lite.kernels import build, library, native, prepare
from ppcls_lite.models.create import create_model

ROOT = Path(__file__).resolve().parents[2]
TESTED = build._tested
FIRST = min(path.stem for path in build.SOURCES.glob("*.cpp"))
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


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the toolkit has logged, each line once.

    Where an earlier run in this process has switched propagation off, pytest listens at the logger
    itself as well as at the root, and gets the same record twice.
    """
    own = {id(r): r.getMessage() for r in caplog.records if r.name == "ppcls_lite"}
    return list(own.values())


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
    record = first.parent / build.RESULT
    checksum = json.loads(record.read_text(encoding="utf-8"))["checksum"]
    damages = [b"{", b"", b"\xff\xfe", b"[]", b"null", b"7", b"{}", b'{"failure": null}']
    damages += [
        json.dumps({"checksum": checksum, **more}).encode() for more in ({}, {"failure": 3})
    ]
    for damage in damages:
        record.write_bytes(damage)
        assert build.built() == first and json.loads(record.read_bytes())["checksum"] == checksum
    record.unlink()
    assert build.built() == first and len(stand_in) == 5 + len(damages)
    first.unlink()
    first.mkdir()
    assert build.built() == first and first.is_file()
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


def full(folder: Path) -> None:
    raise OSError(28, "No space left on device")


def refusing(home: Path, what: Callable[[Path], None]) -> Callable[[Path], None]:
    """`what` for places below `home`, nothing elsewhere."""
    return lambda path: what(path) if home in path.parents else None


@pytest.mark.parametrize("fault", ["full", "noexec"])
def test_a_home_that_is_full_or_runs_nothing_costs_a_temporary_build(
    fault: str, stand_in: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    home = use_home(monkeypatch, tmp_path / "home")
    step = {"full": "_require_room", "noexec": "_tested"}[fault]
    monkeypatch.setattr(build, step, refusing(home, full))
    path = build.built()
    assert home not in path.parents and path.read_bytes() == b"machine code"
    assert not list(home.glob("*/*"))  # nothing half finished stays


def test_a_library_that_no_longer_loads_is_built_again_elsewhere_then_a_reason(
    stand_in: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    home = use_home(monkeypatch, tmp_path)
    build.built()
    with pytest.raises(build.KernelsError, match=r"the compiled library cannot be loaded: .*file"):
        native.available()  # "machine code" is no library
    assert [home in path.parents for path in stand_in] == [True, False]


def test_no_room_anywhere_is_a_reason(
    stand_in: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use_home(monkeypatch, tmp_path)

    monkeypatch.setattr(build, "_require_room", full)
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
    monkeypatch.setattr(logging.getLogger("ppcls_lite"), "handlers", [])
    monkeypatch.setattr(logging.getLogger("ppcls_lite"), "propagate", True)
    with caplog.at_level(logging.INFO, logger="ppcls_lite"):
        assert prepare(model, "auto", "cpu") is None
    assert [type(layer) for layer in model.sublayers()] == kinds
    (line,) = lines(caplog)
    assert compiler in line and "slower" in line
    with pytest.raises(UserError, match=f"cpu_kernels: on, but there are none.*{compiler}"):
        prepare(model, "on", "cpu")


def has_ended(state: Path) -> bool:
    """Whether the process is gone, or nobody has reaped it."""
    try:
        return state.read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def fake_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, compiling: str) -> Path:
    """A script in `$CXX` that knows its version and does `compiling` in bash; counts its calls."""
    script = tmp_path / "compiler"
    script.write_text(
        '#!/bin/bash\n[ "$1" = --version ] && { printf "c\\xf6mpiler 1\\n"; exit; }\n'
        f"echo x >> {tmp_path}/calls\n{compiling}\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    monkeypatch.setattr(build, "usable_cores", lambda: 1)
    use_home(monkeypatch, tmp_path / "home")
    return tmp_path / "calls"


@pytest.mark.skipif(not Path("/bin/bash").exists(), reason="the compiler is a script for bash")
@pytest.mark.parametrize(
    ("compiling", "reason", "calls"),
    [
        ('printf "1.cpp: error: falsche Gr\\xf6sse\\n" >&2; exit 1', "error: falsche Gr", 6),
        ('printf "\\xff\\xfe" >&2; exit 1', "cannot compile them", 6),
        ("exit 0", f"reports success, but has not written {FIRST}.o", 6),
        ("sleep 300 & echo $! > $0.child; wait", "did not end within 0.5 s", 1),
        ("kill -9 $$", "cannot compile them", 6),
    ],
    ids=["latin-1", "no text", "nothing written", "no end", "killed"],
)
def test_whatever_a_compiler_does_auto_trains_and_says_why(
    compiling: str,
    reason: str,
    calls: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    called = fake_compiler(monkeypatch, tmp_path, compiling)
    monkeypatch.setattr(logging.getLogger("ppcls_lite"), "handlers", [])
    monkeypatch.setattr(logging.getLogger("ppcls_lite"), "propagate", True)
    if calls == 1:
        monkeypatch.setattr(build, "COMPILE_SECONDS", 0.5)
    with caplog.at_level(logging.WARNING, logger="ppcls_lite"):
        assert prepare(paddle.nn.Linear(2, 2), "auto", "cpu") is None
    (line,) = lines(caplog)
    assert reason in line and str(tmp_path / "compiler") in line
    assert called.read_text() == "x\n" * calls
    if (child := tmp_path / "compiler.child").exists():
        end_of(child.read_text().strip())


def end_of(pid: str) -> None:
    """Fails if the process goes on."""
    state, end = Path(f"/proc/{pid}/stat"), time.monotonic() + 30  # a busy machine ends it late
    while not has_ended(state) and time.monotonic() < end:
        time.sleep(0.05)
    assert has_ended(state)


@pytest.mark.skipif(not Path("/bin/bash").exists(), reason="the compiler is a script for bash")
def test_each_core_compiles_its_share_and_no_compiler_is_left(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sources = sorted(path.name for path in build.SOURCES.glob("*.cpp"))
    compiling = 'echo "$$ $@" >> $0.shares; case "$*" in *norm.cpp*) exit 1;; esac; sleep 300'
    fake_compiler(monkeypatch, tmp_path, compiling)
    monkeypatch.setattr(build, "usable_cores", lambda: 3)
    monkeypatch.setattr(build, "COMPILE_SECONDS", 1)
    with pytest.raises(build.KernelsError, match="did not end within 1 s"):
        build.built()
    calls = [line.split() for line in (tmp_path / "compiler.shares").read_text().splitlines()]
    assert len(calls) == 3
    shares = [[Path(w).name for w in words if w.endswith(".cpp")] for words in calls]
    assert sorted(name for share in shares for name in share) == sources
    sizes = [sum((build.SOURCES / name).stat().st_size for name in share) for share in shares]
    assert max(sizes) < 1.3 * min(sizes)
    for pid, *_ in calls:
        end_of(pid)


@pytest.mark.parametrize(
    ("status", "remembered"),
    [
        (None, None),  # no end
        (-signal.SIGKILL, None),
        (1, None),
        (build.DIFFERENT, "the last line"),
        (-signal.SIGSEGV, "it was ended by SIGSEGV"),
        (-signal.SIGILL, "it was ended by SIGILL"),
    ],
)
def test_only_what_the_self_test_finds_is_remembered(
    status: int | None,
    remembered: str | None,
    stand_in: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def run(command: list[str], *rest: object, **more: object) -> subprocess.CompletedProcess:
        if status is None and "ppcls_lite.kernels.selftest" in command:
            raise subprocess.TimeoutExpired(command, 300)
        return subprocess.CompletedProcess(command, status or 0, "", "more\nthe last line\n")

    compiler = build.Compiler(("g++",), "1")
    monkeypatch.setattr(build, "find_compiler", lambda: compiler)
    monkeypatch.setattr(build, "_tested", TESTED)
    use_home(monkeypatch, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(build, "_run", run)
        with pytest.raises(build.KernelsError, match=remembered or "self-test"):
            build.built()
    monkeypatch.setattr(build, "_tested", lambda library: None)
    if remembered is None:
        assert build.built().is_file()
    else:
        with pytest.raises(build.KernelsError, match=f"self-test failed: {remembered}"):
            build.built()


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
        code = 'extern "C" {\nvoid use_threads(int) {}\n'
        for name in ("keep_memory", "bind_threads", "multiplies_bf16"):
            code += f"int {name}() {{ return 0; }}\n"
        for name in library.FUNCTIONS:
            code += f"void {name}() {{ {body} }}\n"
        (own / "wrong.cpp").write_text(code + "}\n")
        wrong = tmp_path / f"wrong{len(body)}.so"
        command = [*compiler.command, "-shared", "-fPIC", own / "wrong.cpp", "-o", wrong]
        subprocess.run(command, check=True)
        failure = build._tested(wrong)
        assert failure is not None
        assert ("differs" in failure) == (body == "")
        assert ("SIGSEGV" in failure) == (body != "")


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
        assert prepare(model, mode, device) is None
    with pytest.raises(UserError, match="is for a CPU, but this run uses gpu:0"):
        prepare(model, "on", "gpu:0")


def test_threads_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for own, general, expected in (("3", "2", 3), ("", "2", 2), ("", "4,2", 4), ("x", "", 1)):
        monkeypatch.setenv(native.THREADS, own)
        monkeypatch.setenv("OMP_NUM_THREADS", general)
        assert native.threads() == expected


def test_the_record_names_the_checksum_of_the_library(built_kernels: Path) -> None:
    result = json.loads(built_kernels.with_name(build.RESULT).read_text(encoding="utf-8"))
    assert result["failure"] is None
    assert result["checksum"] == build._checksum(built_kernels)
