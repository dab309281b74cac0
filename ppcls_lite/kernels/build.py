"""The kernels' library: compiled on first use, tested once, kept in a folder of the user.

`kernels/<key>` in the user's folder (system/home.py) holds `kernels.so` and `result.json`: its
checksum and what the self-test said. The key names everything that the machine code depends on:
sources, flags, compiler, processor, Paddle's version. A build happens in a folder of its own that
is renamed into place as a whole, under a lock, so that of several ranks one builds and the others
wait. Where the folder cannot be written, or programs may not run from it, the build lives as long
as the process. Only what the self-test found is remembered, not that it could not run. What dense
products multiply (`Dtype`) is a flag, so that each kind is a library of its own.
Read next: selftest.py.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal, NamedTuple

import paddle

from ppcls_lite.errors import UserError
from ppcls_lite.system.files import locked, sync, whole_folder
from ppcls_lite.system.home import home_folder
from ppcls_lite.system.machine import cpu_flags, cpu_identity, grants_tiles, usable_cores
from ppcls_lite.system.processes import environment

logger = logging.getLogger("ppcls_lite")

SOURCES = Path(__file__).parent / "source"
LIBRARY, RESULT = "kernels.so", "result.json"
# IEEE semantics stay: only errno and traps, which nobody reads, are given up.
FLAGS = (
    *("-std=c++17", "-O3", "-fPIC", "-fno-math-errno", "-fno-trapping-math"),
    "-ffp-contract=fast",
)
Dtype = Literal["fp32", "bf16"]  # of the numbers that dense products multiply; sums are float32
MACHINE_FLAGS = (("-march=native",), ("-mcpu=native",), ())  # the first that the compiler knows
COMPILERS = ("g++", "clang++", "c++")
VERSION_SECONDS, COMPILE_SECONDS, TEST_SECONDS = 30, 300, 300
ROOM = 16 << 20  # bytes; a build takes a tenth of it
DIFFERENT, NOT_LOADED = 3, 4  # what selftest.py ends with if it does not pass
CRASHES = (signal.SIGSEGV, signal.SIGILL, signal.SIGFPE, signal.SIGABRT, signal.SIGBUS)


class Kind(NamedTuple):
    """What a `Dtype` asks of the compiler, and of the processor (one of its flags)."""

    flags: tuple[str, ...] = ()
    feature: str | None = None


KINDS: dict[Dtype, tuple[Kind, ...]] = {  # of several the first that works here
    "fp32": (Kind(),),
    "bf16": (
        Kind(("-DBF16_PRODUCTS", "-DTILE_PRODUCTS"), "amx_bf16"),
        Kind(("-DBF16_PRODUCTS",), "avx512_bf16"),
    ),
}


class KernelsError(Exception):
    """There are no native kernels; the message is the reason."""


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler: its command and what it calls itself."""

    command: tuple[str, ...]
    version: str


def built(dtype: Dtype = "fp32") -> Path:
    """The path of a library that has passed its self-test here.

    Raises KernelsError: no compiler, it fails, the kernels differ from Paddle's, or this processor
    does not multiply such numbers.
    """
    kinds_here(dtype)  # where there are none, no compiler helps
    compiler = find_compiler()
    home: Path | str = "the user's folder"
    try:
        home = cache_folder()
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder = home / key(compiler, dtype)
        with locked(home / f"{folder.name}.lock"):
            result = _result(folder)
            if result is None:
                result = _build_into(folder, compiler, dtype)
    except (OSError, UserError) as error:
        logger.info(f"CPU kernels: compiled for this run only, {home} is not usable ({error})")
        return built_for_this_run(dtype)
    return _passed(folder, result)


def kept(dtype: Dtype = "fp32") -> Path | None:
    """The path of a library that an earlier run has built and tested here; None: there is none."""
    try:
        folder = cache_folder() / key(find_compiler(), dtype)
    except (KernelsError, OSError, UserError):
        return None
    result = _result(folder)
    return folder / LIBRARY if result and not result["failure"] else None


def kinds_here(dtype: Dtype) -> list[Kind]:
    """What can be compiled for a `dtype` here, the best first.

    Raises KernelsError if this processor does not multiply such numbers.
    """
    features = cpu_flags() if grants_tiles() else cpu_flags() - {"amx_bf16"}
    here = [kind for kind in KINDS[dtype] if kind.feature is None or kind.feature in features]
    if not here:
        lacks = KINDS[dtype][-1].feature
        raise KernelsError(f"this CPU does not multiply {dtype} numbers (it lacks {lacks})")
    return here


def built_for_this_run(dtype: Dtype = "fp32") -> Path:
    """The same, in a temporary folder that goes when the process ends. Raises KernelsError."""
    compiler = find_compiler()
    try:
        folder = Path(tempfile.mkdtemp(prefix="ppcls_lite-kernels-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        return _passed(folder, _build(folder, compiler, dtype))
    except OSError as error:
        raise KernelsError(f"there is no place to compile in ({error})") from None


def cache_folder() -> Path:
    """Where the builds of this user lie."""
    return home_folder() / "kernels"


def find_compiler() -> Compiler:
    """`$CXX`, or the first of g++, clang++ and c++ that runs."""
    wanted = os.environ.get("CXX")
    for command in [wanted.split()] if wanted else [[name] for name in COMPILERS]:
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            done = _run([*command, "--version"], VERSION_SECONDS)
            if done.returncode == 0:
                return Compiler(tuple(command), done.stdout.strip())
    if wanted:
        raise KernelsError(f"the compiler CXX={wanted} does not run")
    raise KernelsError(f"there is no C++ compiler ({', '.join(COMPILERS)}); install one, e.g. g++")


def key(compiler: Compiler, dtype: Dtype = "fp32") -> str:
    """What the machine code depends on, as a short name."""
    digest = hashlib.sha256()
    for path in sorted(SOURCES.iterdir()):
        digest.update(path.name.encode() + path.read_bytes())
    for name in ("build.py", "selftest.py"):
        digest.update(Path(__file__).with_name(name).read_bytes())
    kinds = [kind.flags for kind in kinds_here(dtype)]
    facts = [compiler.command, compiler.version, FLAGS, kinds, cpu_identity(), paddle.__version__]
    digest.update(repr(facts).encode())
    return digest.hexdigest()[:20]


def _result(folder: Path) -> dict[str, str | None] | None:
    """The record of a finished build of ours, unchanged since its test; None: there is none."""
    try:
        result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        failure, checksum = result["failure"], result["checksum"]
        ours = os.name != "posix" or folder.stat().st_uid == os.getuid()
        sound = ours and checksum == _checksum(folder / LIBRARY)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return result if sound and (failure is None or isinstance(failure, str)) else None


def _passed(folder: Path, result: dict[str, str | None]) -> Path:
    if result["failure"]:
        raise KernelsError(f"the self-test failed: {result['failure']} (recorded in {folder})")
    return folder / LIBRARY


def _build_into(folder: Path, compiler: Compiler, dtype: Dtype) -> dict[str, str | None]:
    """Build `folder` as a whole; a damaged one there is replaced."""
    try:
        with whole_folder(folder) as fresh:
            return _build(fresh, compiler, dtype)
    except OSError:
        if (result := _result(folder)) is None:
            raise
        return result  # another machine on the same storage was faster


def _build(folder: Path, compiler: Compiler, dtype: Dtype) -> dict[str, str | None]:
    """Compile and test in the empty folder `folder`; the record, which is written there as well.

    Raises KernelsError; OSError if the folder has no room, or programs may not run from it.
    """
    logger.info(f"CPU kernels: compiling with {' '.join(compiler.command)}")
    _require_room(folder)
    library = folder / LIBRARY
    message = ""
    end = time.monotonic() + COMPILE_SECONDS
    for parallel in (True, False):
        for kind, machine in product(kinds_here(dtype), MACHINE_FLAGS):
            flags = *machine, *kind.flags
            done = compile_library(library, compiler, flags, parallel, end - time.monotonic())
            if done is None:
                _say_what_is_left_out(dtype, kind, message)
                result = {"failure": _tested(library), "checksum": _checksum(library)}
                (folder / RESULT).write_text(json.dumps(result), encoding="utf-8")
                return result
            message = message or done
    raise KernelsError(f"{' '.join(compiler.command)} cannot compile them: {message}")


def _say_what_is_left_out(dtype: Dtype, kind: Kind, complaint: str) -> None:
    """One log line where this processor has more than the `kind` that was compiled."""
    best = KINDS[dtype][0]
    if kind != best and best.feature in cpu_flags():
        reason = complaint or "the system does not grant it to this process"
        logger.info(f"CPU kernels: by {kind.feature}, not {best.feature}: {reason}")


def _require_room(folder: Path) -> None:
    """Raise OSError unless a build finds room; what compilers say of a full disk differs."""
    probe = folder / "room"
    with probe.open("wb", buffering=0) as file:
        for _ in range(ROOM >> 20):
            file.write(bytes(1 << 20))
        sync(file)
    probe.unlink()


def compile_library(
    library: Path,
    compiler: Compiler,
    more: tuple[str, ...],
    parallel: bool,
    seconds: float = COMPILE_SECONDS,
) -> str | None:
    """Compile the sources to `library` with `more` flags; the compiler's complaint if it fails.

    Raises KernelsError if it has not ended after so many seconds.
    """
    sources = sorted(SOURCES.glob("*.cpp"))
    threads = ["-fopenmp"] if parallel else []
    # One thread pool: two OpenMP runtimes in a process would fight for the same cores.
    runtime = Path(paddle.__file__).parent / "libs" / "libiomp5.so"
    linked = [str(runtime)] if parallel and runtime.exists() else threads
    flags = [*FLAGS, *more]
    objects = [f"{source.stem}.o" for source in sources]
    command = compiler.command
    shares = _shares(sources, usable_cores())
    end = time.monotonic() + seconds
    for steps, written in (
        ([[*command, *flags, *threads, "-c", *share] for share in shares], objects),
        ([[*command, *flags, "-shared", *objects, *linked, "-o", library.name]], [library.name]),
    ):
        try:
            all_done = _run_together(steps, end - time.monotonic(), library.parent)
        except subprocess.TimeoutExpired:
            raise KernelsError(
                f"{' '.join(command)} did not end within {COMPILE_SECONDS} s"
            ) from None
        except OSError as error:
            return str(error)
        for done in all_done:
            if done.returncode:
                lines = [line for line in done.stderr.splitlines() if line.strip()]
                return next((line for line in lines if "error" in line), " ".join(lines[:1]) or "?")
        if missing := [name for name in written if not (library.parent / name).is_file()]:
            return f"it reports success, but has not written {missing[0]}"
    for name in objects:
        (library.parent / name).unlink()
    return None


def _shares(sources: Sequence[Path], count: int) -> list[list[str]]:
    """The sources dealt to at most `count` compilers, so that each has about as much to read."""
    shares: list[tuple[int, list[str]]] = [(0, []) for _ in range(min(count, len(sources)))]
    for size, source in sorted(((s.stat().st_size, str(s)) for s in sources), reverse=True):
        taken, names = shares.pop(shares.index(min(shares)))
        shares.append((taken + size, [*names, source]))
    return [names for _, names in shares]


def _tested(library: Path) -> str | None:
    """Run the self-test in a process of its own, which a bad library may end; None if it passes.

    What it finds is what this build is like. Raises KernelsError for what may be otherwise the next
    time (no end, no memory, killed), OSError if the library cannot be loaded from where it lies.
    """
    alone = {k: v for k, v in os.environ.items() if not k.startswith("PADDLE_")}
    command = [sys.executable, "-m", "ppcls_lite.kernels.selftest", str(library)]
    try:
        done = _run(command, TEST_SECONDS, base=environment(alone))
    except subprocess.TimeoutExpired:
        raise KernelsError(f"the self-test did not end within {TEST_SECONDS} s") from None
    if done.returncode == 0:
        return None
    last = (done.stderr.strip().splitlines() or [""])[-1]
    if done.returncode == DIFFERENT:
        return last
    if done.returncode == NOT_LOADED:
        raise OSError(last)
    if done.returncode in [-number for number in CRASHES]:
        return f"it was ended by {signal.Signals(-done.returncode).name}"
    raise KernelsError(f"the self-test could not run: {last or f'status {done.returncode}'}")


def _run(
    command: Sequence[str], seconds: float, base: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run one program: see `_run_together`."""
    return _run_together([command], seconds, base=base)[0]


def _run_together(
    commands: Sequence[Sequence[str]],
    seconds: float,
    folder: Path | None = None,
    base: Mapping[str, str] | None = None,
) -> list[subprocess.CompletedProcess[str]]:
    """Run programs at once, whatever they print; in the end none and no child of them is left.

    Compilers in `folder` have their temporary files there. Raises OSError, TimeoutExpired.
    """
    base = os.environ if base is None else base
    scratch = {} if folder is None else {"TMPDIR": str(folder)}
    end = time.monotonic() + seconds
    done = []
    with contextlib.ExitStack() as waited_for:
        running: list[subprocess.Popen[str]] = []
        try:
            for command in commands:
                process = subprocess.Popen(
                    command,
                    cwd=folder,
                    env={**base, "LC_ALL": "C", **scratch},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    encoding="utf-8",
                    errors="replace",
                    start_new_session=True,
                )
                running.append(waited_for.enter_context(process))
            for command, process in zip(commands, running):
                left = max(0.0, end - time.monotonic())
                output, errors = process.communicate(timeout=left)
                code = process.returncode
                done.append(subprocess.CompletedProcess(command, code, output, errors))
        except BaseException:
            for process in running:
                with contextlib.suppress(ProcessLookupError):
                    if os.name == "posix":
                        os.killpg(process.pid, signal.SIGKILL)
                    else:
                        process.kill()
            raise
    return done


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
