"""The kernels' library: compiled on first use, tested once, kept in a folder of the user.

`kernels/<key>` in the user's folder (system/home.py) holds `kernels.so` and `result.json`: its
checksum and what the self-test said. The key names everything that the machine code depends on:
sources, flags, compiler, processor, Paddle's version. A build happens in a folder of its own that
is renamed into place as a whole, under a lock, so that of several ranks one builds and the others
wait. Where the folder cannot be written, the build lives as long as the process.
Read next: selftest.py.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import paddle

from ppcls_lite.errors import UserError
from ppcls_lite.system.files import locked, whole_folder
from ppcls_lite.system.home import home_folder
from ppcls_lite.system.machine import cpu_identity
from ppcls_lite.system.processes import environment

logger = logging.getLogger("ppcls_lite")

SOURCES = Path(__file__).parent / "source"
LIBRARY, RESULT = "kernels.so", "result.json"
# IEEE semantics stay: only errno and traps, which nobody reads, are given up.
FLAGS = (
    *("-std=c++17", "-O3", "-fPIC", "-fno-math-errno", "-fno-trapping-math"),
    "-ffp-contract=fast",
)
MACHINE_FLAGS = (("-march=native",), ("-mcpu=native",), ())  # the first that the compiler knows
COMPILERS = ("g++", "clang++", "c++")
COMPILE_SECONDS, TEST_SECONDS = 300, 300


class KernelsError(Exception):
    """There are no native kernels; the message is the reason."""


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler: its command and what it calls itself."""

    command: tuple[str, ...]
    version: str


def built() -> Path:
    """The path of a library that has passed its self-test here.

    Raises KernelsError: no compiler, it fails, or the kernels differ from Paddle's.
    """
    compiler = find_compiler()
    home = cache_folder()
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder = home / key(compiler)
        with locked(home / f"{folder.name}.lock"):
            if not _is_whole(folder):
                _build_into(folder, compiler)
        return _passed(folder)
    except (OSError, UserError) as error:
        logger.info(f"CPU kernels: compiled for this run only, {home} is not usable ({error})")
    return _passed(_temporary(compiler))


def cache_folder() -> Path:
    """Where the builds of this user lie."""
    return home_folder() / "kernels"


def find_compiler() -> Compiler:
    """`$CXX`, or the first of g++, clang++ and c++ that runs."""
    wanted = os.environ.get("CXX")
    for command in [wanted.split()] if wanted else [[name] for name in COMPILERS]:
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run(
                [*command, "--version"], capture_output=True, text=True, timeout=30, check=True
            )
            return Compiler(tuple(command), done.stdout.strip())
    if wanted:
        raise KernelsError(f"the compiler CXX={wanted} does not run")
    raise KernelsError(f"there is no C++ compiler ({', '.join(COMPILERS)}); install one, e.g. g++")


def key(compiler: Compiler) -> str:
    """What the machine code depends on, as a short name."""
    digest = hashlib.sha256()
    for path in sorted(SOURCES.iterdir()):
        digest.update(path.name.encode() + path.read_bytes())
    for name in ("build.py", "selftest.py"):
        digest.update(Path(__file__).with_name(name).read_bytes())
    facts = [compiler.command, compiler.version, FLAGS, cpu_identity(), paddle.__version__]
    digest.update(repr(facts).encode())
    return digest.hexdigest()[:20]


def _is_whole(folder: Path) -> bool:
    """Whether a finished build of ours lies there, unchanged since its test."""
    try:
        result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        owner = folder.stat().st_uid
        sound = result["checksum"] == _checksum(folder / LIBRARY)
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return sound and owner == (os.getuid() if hasattr(os, "getuid") else owner)


def _passed(folder: Path) -> Path:
    result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    if result["failure"]:
        raise KernelsError(f"the self-test failed: {result['failure']} (recorded in {folder})")
    return folder / LIBRARY


def _build_into(folder: Path, compiler: Compiler) -> None:
    """Build `folder` as a whole; a damaged one there is replaced."""
    try:
        with whole_folder(folder) as fresh:
            _build(fresh, compiler)
    except OSError:
        if not _is_whole(folder):  # another machine on the same storage was faster
            raise


def _temporary(compiler: Compiler) -> Path:
    """A build that goes when the process ends."""
    import atexit

    try:
        home = Path(tempfile.mkdtemp(prefix="ppcls_lite-kernels-"))
        atexit.register(shutil.rmtree, home, ignore_errors=True)
        _build(home, compiler)
    except OSError as error:
        raise KernelsError(f"there is no place to compile in ({error})") from None
    return home


def _build(folder: Path, compiler: Compiler) -> None:
    """Compile and test in the empty folder `folder`."""
    logger.info(f"CPU kernels: compiling with {' '.join(compiler.command)}, once per machine")
    library = folder / LIBRARY
    message = ""
    for parallel in (True, False):
        for machine in MACHINE_FLAGS:
            done = compile_library(library, compiler, machine, parallel)
            if done is None:
                result = {"failure": _tested(library), "checksum": _checksum(library)}
                (folder / RESULT).write_text(json.dumps(result), encoding="utf-8")
                return
            message = message or done
    raise KernelsError(f"{' '.join(compiler.command)} cannot compile them: {message}")


def compile_library(
    library: Path, compiler: Compiler, machine: tuple[str, ...], parallel: bool
) -> str | None:
    """Compile the sources to `library`; the compiler's complaint if it fails."""
    sources = sorted(str(path) for path in SOURCES.glob("*.cpp"))
    threads = ["-fopenmp"] if parallel else []
    # One thread pool: two OpenMP runtimes in a process would fight for the same cores.
    runtime = Path(paddle.__file__).parent / "libs" / "libiomp5.so"
    linked = [str(runtime)] if parallel and runtime.exists() else threads
    flags = [*FLAGS, *machine]
    objects = [f"{Path(source).stem}.o" for source in sources]
    command = compiler.command
    for step in (
        [*command, *flags, *threads, "-c", *sources],
        [*command, *flags, "-shared", *objects, *linked, "-o", library.name],
    ):
        try:
            done = subprocess.run(
                step, cwd=library.parent, capture_output=True, text=True, timeout=COMPILE_SECONDS
            )
        except (OSError, subprocess.SubprocessError) as error:
            return str(error)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            return next((line for line in lines if "error" in line), " ".join(lines[:1]) or "?")
    for name in objects:
        (library.parent / name).unlink()
    return None


def _tested(library: Path) -> str | None:
    """Run the self-test in a process of its own, which a bad library may end; None if it passes."""
    alone = {k: v for k, v in os.environ.items() if not k.startswith("PADDLE_")}
    command = [sys.executable, "-m", "ppcls_lite.kernels.selftest", str(library)]
    try:
        done = subprocess.run(
            command, env=environment(alone), capture_output=True, text=True, timeout=TEST_SECONDS
        )
    except subprocess.TimeoutExpired:
        return f"no end after {TEST_SECONDS} s"
    if done.returncode == 0:
        return None
    lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    return lines[-1]


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
