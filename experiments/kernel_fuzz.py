"""The native kernels on random shapes, under the address and undefined-behaviour sanitizers.

`python -m experiments.kernel_fuzz` compiles the kernels for each instruction set that this machine
runs, with the sanitizers, and calls them on random shapes and values, which are described in
tests/kernels/harness.cpp; results for ordinary numbers are compared with sums in double precision.
60,000 shapes, the default, take four minutes of one core of an AMD EPYC;
tests/kernels/test_kernel_memory.py tries a few hundred. A shape that fails is printed with its
seed: `--seed N --shapes 1` tries it again.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ppcls_lite.kernels import build
from ppcls_lite.system.machine import cpu_flags

HARNESS = Path(__file__).resolve().parents[1] / "tests" / "kernels" / "harness.cpp"
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
LONG, SHORT = ("-g", "-O1"), ("-g1", "-O0")  # for many shapes; compiled in a third of the time
PORTION = 1000  # shapes of one process
BAND = 8 << 10  # bytes of a depthwise convolution's band: planes of a fuzz are small


def levels() -> dict[str, tuple[str, ...]]:
    """Flags of the instruction sets that this machine runs, by name."""
    found: dict[str, tuple[str, ...]] = {"plain": (), "native": ("-march=native",)}
    if platform.machine() in ("x86_64", "AMD64") and {"avx2", "fma"} <= cpu_flags():
        found["avx2"] = ("-mavx2", "-mfma")
    with contextlib.suppress(build.KernelsError):
        for kind in build.kinds_here("bf16"):
            found[str(kind.feature)] = ("-march=native", *kind.flags)
    return found


def compile_harness(
    program: Path, compiler: Sequence[str], level: Sequence[str], effort: Sequence[str] = LONG
) -> str | None:
    """Compile the harness with the kernels; what is missing if there are no sanitizers here.

    Raises subprocess.CalledProcessError if the sources do not compile.
    """
    flags = [flag for flag in build.FLAGS if not flag.startswith("-O")]
    sources = sorted(build.SOURCES.glob("*.cpp"))
    flags += [*level, *SANITIZERS, *effort, f"-DBAND_BYTES={BAND}"]
    command = [*compiler, *flags, *sources, HARNESS, "-o", program]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode and any(
        words in done.stderr for words in ("cannot find", "common_interface_defs.h")
    ):
        return done.stderr.strip()[:200]
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        done.check_returncode()
    return None


def fuzz(program: Path, seed: int, shapes: int) -> tuple[int, str]:
    """Number of calls for the shapes of `seed`, `seed` + 1, ...; and what went wrong, if it did."""
    environment = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
    command = [str(program), str(seed), str(shapes)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        return 0, f"{done.stdout}{done.stderr}"
    return int(done.stdout.split()[0]), ""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--shapes", type=int, default=60_000, help="over all instruction sets")
    parser.add_argument("--seed", type=int, default=0, help="of the first shape")
    parser.add_argument("--level", choices=levels(), help="one instruction set instead of all")
    options = parser.parse_args(arguments)
    chosen = {k: v for k, v in levels().items() if options.level in (None, k)}
    compiler = build.find_compiler().command
    each = -(-options.shapes // len(chosen))
    with tempfile.TemporaryDirectory() as folder:
        for name, level in chosen.items():
            program = Path(folder) / name
            if missing := compile_harness(program, compiler, level):
                print(f"the sanitizers' libraries are not installed: {missing}")
                return 2
            calls = 0
            for first in range(0, each, PORTION):
                seed, count = options.seed + first, min(PORTION, each - first)
                made, failure = fuzz(program, seed, count)
                if failure:
                    print(f"{name}, seeds from {seed} on:\n{failure}")
                    return 1
                calls += made
            print(f"{name}: {calls} calls on {each} shapes", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
