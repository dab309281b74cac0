"""The documents as a site: it builds without a warning, and no link or picture of it is missing."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

for package in ("sphinx", "myst_parser", "furo"):
    pytest.importorskip(package, reason="the site needs pip install .[docs]")

ROOT = Path(__file__).resolve().parents[1]


class Page(HTMLParser):
    """The targets and anchors of a page, and what it loads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.anchors |= {found[key] for key in ("id", "name") if found.get(key)}
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        for key in ("src", "href"):
            if tag in ("img", "script", "link") and found.get(key):
                self.loaded.append(found[key])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("site")
    command = ["sphinx", "-q", "-W", "--keep-going", "-d", place / "trees", "-c", "docs", "."]
    done = subprocess.run(
        [sys.executable, "-m", *command, place / "html"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return place / "html"


def test_every_link_picture_and_anchor_is_there(site: Path) -> None:
    pages = {path: Page(path) for path in site.rglob("*.html") if "_static" not in path.parts}
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    assert {p.relative_to(ROOT).with_suffix(".html") for p in documents} <= {
        path.relative_to(site) for path in pages
    }
    missing, pictures = [], 0
    for path, page in pages.items():
        for target in {*page.links, *page.loaded}:
            if re.match(r"(https?|mailto|data):", target):
                assert target not in page.loaded, f"{path.name} loads {target}"
                continue
            name, _, anchor = unquote(target).partition("#")
            file = (path.parent / name.partition("?")[0]).resolve() if name else path
            if not file.exists() or (anchor and file in pages and not _has(pages[file], anchor)):
                missing.append(f"{path.relative_to(site)}: {target}")
            pictures += target.endswith(".png")
    assert not missing
    assert pictures >= 5


def _has(page: Page, anchor: str) -> bool:
    return anchor in page.anchors


def test_every_page_stands_in_the_order_of_the_site() -> None:
    listed = re.findall(r"^   (?:.*<)?/?([\w]+)>?$", (ROOT / "docs/index.rst").read_text(), re.M)
    documents = [path.stem for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"))]
    assert sorted(listed) == sorted(documents)
