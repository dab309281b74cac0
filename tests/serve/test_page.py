"""The page in a real browser: choose a file, drop a file, and see what the service says."""

from __future__ import annotations

import base64
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

for package in ("starlette", "uvicorn", "prometheus_client", "python_multipart"):
    pytest.importorskip(package, reason="the service needs pip install .[serve]")
api = pytest.importorskip("playwright.sync_api", reason="needs pip install playwright")

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)

DROP = """
([data, name, type]) => {
  const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, { type }));
  const event = (kind) => new DragEvent(kind, { dataTransfer: transfer, cancelable: true });
  document.getElementById("drop").dispatchEvent(event("dragover"));
  document.getElementById("drop").dispatchEvent(event("drop"));
}
"""


@pytest.fixture
def page(start: Any) -> Iterator[Any]:
    if not BROWSER:
        pytest.skip("no Chromium or Chrome on this machine")
    service = start()
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page()
        page.messages = []
        page.on("console", lambda message: page.messages.append(message.text))
        page.on("pageerror", lambda error: page.messages.append(str(error)))
        page.goto(service.url)
        yield page
        browser.close()


def rows(page: Any) -> list[list[str]]:
    return [row.locator("td").all_inner_texts() for row in page.locator("#classes tr").all()]


def test_an_image_is_classified_and_shown(page: Any, picture: Any, tmp_path: Path) -> None:
    file = tmp_path / "ü <b>1.png"
    file.write_bytes(picture(200, ".png"))
    page.set_input_files("#file", file)
    page.wait_for_selector("#classes tr")
    found = rows(page)
    assert len(found) == 2 and all(cells[1].endswith(" %") for cells in found)
    assert found[0][0] in ("black", "grey", "weiß")
    page.locator("#message", has_text=re.compile(r"^ü <b>1\.png: \d+ ms$")).wait_for()
    assert page.evaluate("document.getElementById('preview').naturalWidth") == 60

    dropped = base64.b64encode(picture(20)).decode()
    page.evaluate(DROP, [dropped, "dropped.jpg", "image/jpeg"])
    page.locator("#message", has_text=re.compile(r"^dropped\.jpg: \d+ ms$")).wait_for()
    assert len(rows(page)) == 2  # those of the first image are gone
    assert page.messages == []


def test_a_refusal_is_shown_as_text(page: Any, tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    file.write_bytes(b"garbage" * 50)
    page.set_input_files("#file", file)
    page.wait_for_selector("#message.error")
    assert "not an image of a known format" in page.inner_text("#message")
    assert rows(page) == []
