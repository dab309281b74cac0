"""Each fact about the machine, files and recipes is written down in one module."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# These drive other checkouts, older ones too, and therefore know what those cannot tell them.
APART = ROOT / "experiments" / "refactoring"

# what is looked for -> the one module that may contain it
FACTS = {
    r"PPCLS_LITE_HOME|\"~/\.": "system/home.py",
    r"sched_getaffinity|cpu_count": "system/machine.py",
    r"cpu\.max|cfs_quota|cfs_\{": "system/machine.py",
    r"cpuinfo": "system/machine.py",
    r"metadata\.version\(": "system/machine.py",
    r"fsync\(|mkdtemp\(prefix=f\"\.": "system/files.py",
    r"flock|lockf": "system/files.py",
    r"os\.(replace|rename)\(|\.(replace|rename)\([^,()]*(\([^()]*\))?\)": "system/files.py",
    r"\bprctl|PDEATHSIG": "system/processes.py",
    r"getppid\(\) (==|!=)": "system/processes.py",
    r"PYTHONPATH|PYTHONSAFEPATH|parents\[2\]|sys\.path\.insert": "system/processes.py",
    r"\.bind\(\(\"127\.0\.0\.1\", 0\)\)": "system/processes.py",
    r"find_spec\(\w+\) is (not )?None": "system/installed.py",
    r"\"\.jpe?g\", \"|\"\.tiff?\"": "data/files.py",
    r"@eaDir|__MACOSX|\.startswith\(\"\.\"\)": "data/files.py",
    r"os\.walk|os\.scandir\(folder\)": "data/files.py",
    r"def \w*read_labels?(_file)?\(": "data/labels.py",
    r"\"name\" in \w+ *(:|else|and|or|$)": "config/components.py",
}
SOURCES = [p for name in ("ppcls_lite", "experiments") for p in (ROOT / name).rglob("*.py")]


@pytest.mark.parametrize("fact", FACTS)
def test_a_fact_is_spelt_in_one_module(fact: str) -> None:
    found = {
        path.relative_to(ROOT / "ppcls_lite").as_posix()
        if path.is_relative_to(ROOT / "ppcls_lite")
        else path.relative_to(ROOT).as_posix()
        for path in SOURCES
        if APART not in path.parents
        and re.search(fact, path.read_text(encoding="utf-8"), flags=re.M)
    }
    assert found == {FACTS[fact]}
