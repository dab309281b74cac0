"""The page about a run: complete, closed, small, and looked at by a real browser."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppcls_lite.report.page import EXPLAINED, write_page
from ppcls_lite.report.pictures import write_image
from ppcls_lite.report.summary import EVALUATION

MakeRun = Callable[[Path, int], Path]
BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)


def facts_of(page: Path) -> dict[str, Any]:
    text = page.read_text(encoding="utf-8")
    return json.loads(re.search(r'id="facts">(.*?)</script>', text, re.S)[1])


def test_everything_is_inside_and_nothing_is_markup(make_run: MakeRun, tmp_path: Path) -> None:
    page = write_page(make_run(tmp_path / "run", 3), {"folder": "inference", "files": {"a": 10**6}})
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=.?https?:|@import|url\(", text)
    assert "<b>" not in text and "<i>" not in text  # names of classes and images
    facts = facts_of(page)
    assert facts["title"] == "run" and facts["files"] == [["a", 1.0]]
    assert facts["cards"][0] == ["top1", 0.9, "95 %: 0.8000 to 0.9500"]
    assert {curve["name"] for curve in facts["curves"]} == {"loss", "learning rate", "top1"}
    (group,) = facts["groups"]
    assert [image["name"] for image in group["images"]] == ["photo.png"]  # the other is gone
    assert group["images"][0]["picture"].startswith("data:image/jpeg;base64,")
    assert sum(n for *_, n in facts["classes"]["cells"]) > 3 * 25
    assert "train -c" in facts["repeat"] and facts["best"]["epoch"] == 3


@pytest.mark.parametrize("count", [2, 1000])
def test_many_classes_make_no_large_file(make_run: MakeRun, tmp_path: Path, count: int) -> None:
    page = write_page(make_run(tmp_path / "run", count))
    assert page.stat().st_size < 400_000
    assert len(facts_of(page)["classes"]["scores"]) == count


def test_half_a_picture_is_left_out(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 3)
    why = run / EVALUATION / EXPLAINED / "the_most_certain_mistakes_0.png"
    why.parent.mkdir()
    write_image(np.zeros((40, 60, 3), np.uint8), why)
    shown = facts_of(write_page(run))["groups"][0]["images"][0]["why"]
    assert shown.startswith("data:image/jpeg;base64,")
    why.write_bytes(why.read_bytes()[:60])
    assert facts_of(write_page(run))["groups"][0]["images"][0]["why"] is None


def test_a_run_that_was_not_evaluated_says_so(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 3)
    shutil.rmtree(run / EVALUATION)
    facts = facts_of(write_page(run))
    assert "ppcls-lite report" in facts["notes"][0] and facts["classes"] is None
    assert facts["cards"][0][:2] == ["top1", 0.9]  # of the training's best epoch


def test_an_empty_folder_makes_a_page(tmp_path: Path) -> None:
    assert facts_of(write_page(tmp_path))["curves"] == []


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="needs pip install playwright")
    if not BROWSER:
        pytest.skip("no Chromium or Chrome on this machine")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.mark.parametrize(("count", "width"), [(2, 390), (12, 1200), (1000, 390)])
def test_a_browser_draws_it(
    make_run: MakeRun, tmp_path: Path, chromium: Any, count: int, width: int
) -> None:
    path = write_page(make_run(tmp_path / "run", count))
    page = chromium.new_page(viewport={"width": width, "height": 800})
    messages: list[str] = []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: messages.append(request.url[:60]))
    page.goto(path.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == width
    heads = page.locator("#classes thead button")
    first = page.locator("#classes tbody tr").first.locator("td")
    recalls = [float(first.nth(1).inner_text())]
    heads.nth(1).click()  # now the best first
    recalls.append(float(first.nth(1).inner_text()))
    assert recalls[0] <= recalls[1] and page.locator("#classes tbody tr").count() == count
    margin = float(page.locator("canvas").get_attribute("data-margin"))  # for the names
    assert (margin > 0) == (count <= 30)
    page.locator("canvas").click(position={"x": margin + 2, "y": 2})
    told = page.locator("#cell").inner_text()
    near = 0 if count <= 100 else r"\d+"  # of many classes the largest cell below the finger
    assert re.search(rf"of “class {near} <b>” were answered “class {near} <b>”", told)
    assert page.locator("svg").count() == 5 and page.locator(".images img").count() == 1
    own = (path.as_uri()[:60], "data:")
    assert [message for message in messages if not message.startswith(own)] == []
    page.close()
