"""The pages in a real browser: choose, drop and paste images, and see what the service says."""

from __future__ import annotations

import base64
import json
import re
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

for package in ("starlette", "prometheus_client", "python_multipart"):
    pytest.importorskip(package, reason="the service needs pip install .[serve]")
uvicorn = pytest.importorskip("uvicorn")
api = pytest.importorskip("playwright.sync_api", reason="needs pip install playwright")

from ppcls_lite.inference.predictor import Predictor  # noqa: E402
from ppcls_lite.serve.app import Service, make_app  # noqa: E402
from ppcls_lite.serve.options import ServeOptions  # noqa: E402

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
SIZES = {"desk": (1280, 900), "phone": (390, 844)}
PASTE = """
([data, name, type]) => {
  const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, { type }));
  document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true }));
}
"""


@pytest.fixture
def address(predictor: Predictor, maps: Any) -> Iterator[str]:
    """Where a service with a stand-in for the network answers."""
    app = make_app(Service(predictor, ServeOptions(), maps))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    if not BROWSER:
        pytest.skip("no Chromium or Chrome on this machine")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(address: str, chromium: Any) -> Iterator[Any]:
    """The page of a service, in the dark on a desk; it must not complain or ask elsewhere."""
    page = chromium.new_page(color_scheme="dark")
    messages: list[str] = []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: messages.append(request.url))
    page.goto(address)
    yield page
    page.wait_for_load_state()
    own = (address, f"blob:{address}", "data:")
    # Chromium itself says so of a refused image.
    expected = (*own, "Failed to load resource: the server responded with a status of 415")
    assert [message for message in messages if not message.startswith(expected)] == []
    page.close()


def rows(card: Any) -> list[list[str]]:
    lines = card.locator(":scope > table tr").all()
    return [row.locator("td").all_inner_texts()[:2] for row in lines]


def drop(page: Any, *paths: Path) -> None:
    """As a person does it, so that folders are folders."""
    session = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, "x": 100, "y": 100, "data": data})


def answered(page: Any, text: str) -> None:
    page.locator("#message", has_text=re.compile(text)).wait_for()


def colour(page: Any) -> int:
    """How light the paper is."""
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return sum(map(int, re.findall(r"\d+", paper)[:3]))


def test_images_come_in_every_way(page: Any, picture: Any, tmp_path: Path) -> None:
    assert page.inner_text("h1") == page.title() == "Brightness"
    first = tmp_path / "ü <b>1.png"
    first.write_bytes(picture(200, ".png"))
    page.set_input_files("#file", [first])
    answered(page, "^1 of 1 answered$")
    card = page.locator("article")
    assert card.locator("h2").inner_text() == first.name
    found = rows(card)
    assert len(found) == 2 and all(cells[1].endswith(" %") for cells in found)
    assert found[0][0] in ("black", "grey", "weiß")
    assert card.locator(".preview").evaluate("image => image.naturalWidth") == 60

    photos = tmp_path / "photos" / "more"
    photos.mkdir(parents=True)
    (photos.parent / "a.jpg").write_bytes(picture(20))
    (photos / "b.jpg").write_bytes(picture(30))
    (photos / "notes.txt").write_text("no image")
    drop(page, photos.parent, first)
    answered(page, "^3 of 3 answered$")
    names = page.locator("article h2").all_inner_texts()
    assert sorted(names[:3]) == ["a.jpg", "b.jpg", first.name] and len(names) == 4

    page.evaluate(PASTE, [base64.b64encode(picture(9)).decode(), "image.jpg", "image/jpeg"])
    answered(page, "^1 of 1 answered$")
    assert page.locator("article").count() == 5
    page.click("#clear")
    assert page.locator("article").count() == 0 and not page.is_visible("#clear")
    page.click("text=The same from a command line")
    address = page.evaluate("location.href")
    assert page.inner_text("#curl") == f"curl --data-binary @image.jpg {address}predict"

    page.click("text=For programs")
    page.wait_for_selector(".operation")
    assert page.locator(".operation h2").all_inner_texts()[0] == "POST /predict"
    assert '"class_ids"' in page.inner_text(".example pre")


def test_a_refusal_is_shown_as_text(page: Any, tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    file.write_bytes(b"garbage" * 50)
    page.set_input_files("#file", file)
    answered(page, "^0 of 1 answered, 1 refused$")
    assert "not an image of a known format" in page.inner_text("article .state.error")
    assert rows(page.locator("article")) == []


def test_what_answers_look_like(page: Any, picture: Any, tmp_path: Path) -> None:
    layer = base64.b64encode(picture(90, ".png")).decode()
    objects = {
        "class_ids": [0] * 7,
        "scores": [0.1, 0.9, *[0.3] * 5],
        "label_names": ["cup"] * 7,
        "boxes": [[0, 0, 9, 9]] * 7,
        "layer": layer,
        "colours": ["#ff0000"] * 7,
    }
    guess = {"class_ids": [1], "scores": [0.4], "label_names": ["dog"]}
    unsure = {"class_ids": [], "scores": [], "label_names": [], "unknown": True, "guess": guess}
    nothing = {"class_ids": [], "scores": [], "label_names": [], "boxes": []}
    words = {"attributes": ["Hat: True"], "output": [1]}
    some = {"class_ids": [2], "scores": [0.9], "label_names": ["hat"]}
    open_ = {
        **some,
        "unsure": {"class_ids": [0, 1], "scores": [0.5] * 2, "label_names": ["a", "b"]},
    }
    answers = [objects, unsure, nothing, words, open_]
    left = [json.dumps(answer) for answer in answers]
    page.route("**/predict**", lambda route: route.fulfill(body=left.pop(0)))
    file = tmp_path / "a.png"
    file.write_bytes(picture(200, ".png"))
    for _ in answers:
        page.set_input_files("#file", file)
        answered(page, "^1 of 1 answered$")
        page.evaluate("document.getElementById('message').textContent = ''")
    cards = page.locator("article").all()[::-1]
    assert rows(cards[0])[:2] == [["cup", "90.0 %"], ["cup", "30.0 %"]]
    assert cards[0].locator(".more summary").inner_text() == "2 more"
    swatches = cards[0].locator(".swatch")
    assert swatches.count() == 7 and not cards[1].locator(".swatch").count()
    assert "255, 0, 0" in swatches.first.evaluate("one => getComputedStyle(one).backgroundColor")
    page.fill("#opacity", "0.25")
    assert cards[0].locator(".layer").evaluate("layer => layer.style.opacity") == "0.25"
    assert "Not sure" in cards[1].inner_text() and rows(cards[1]) == [["dog", "40.0 %"]]
    assert rows(cards[2]) == [["nothing found"]]
    assert "Hat: True" in cards[3].inner_text()
    assert "Not sure about: a, b" in cards[4].inner_text() and rows(cards[4]) == [["hat", "90.0 %"]]
    page.check("#only-unsure")
    assert [card.is_visible() for card in cards] == [False, True, False, False, True]
    page.uncheck("#only-unsure")

    dark = colour(page)
    page.emulate_media(color_scheme="light")
    assert dark < 150 < 600 < colour(page)
    for width, height in SIZES.values():
        page.set_viewport_size({"width": width, "height": height})
        assert page.evaluate("document.documentElement.scrollWidth") == width  # nothing sticks out


def test_boxes_are_shown_from_the_score_of_the_slider(
    page: Any, picture: Any, tmp_path: Path
) -> None:
    objects = {
        "class_ids": [0, 0, 1],
        "scores": [0.9, 0.2, 0.45],
        "label_names": ["cup", "cup", "<b>dog"],
        "boxes": [[10, 5, 30, 25], [0, 0, 60, 40], [30, 20, 60, 40]],
        "size": [40, 60],
        "draw_threshold": 0.3,
    }
    page.route("**/predict**", lambda route: route.fulfill(body=json.dumps(objects)))
    file = tmp_path / "a.png"
    file.write_bytes(picture(200, ".png"))
    assert not page.is_visible("#from")
    page.set_input_files("#file", file)
    answered(page, "^1 of 1 answered$")
    card = page.locator("article")
    shown = card.locator(".boxes g:visible")
    assert shown.locator("text").all_text_contents() == ["<b>dog 0.45", "cup 0.90"]
    assert card.locator(".count").inner_text() == "2 of 3 objects"
    assert page.inner_text("#from output") == "0.30"
    # On the photograph, whatever its size on the screen: 60 x 40 pixels.
    whole, box = (
        card.locator(".preview").bounding_box(),
        shown.nth(1).locator("rect").bounding_box(),
    )
    scale = whole["width"] / 60
    assert box["x"] - whole["x"] == pytest.approx(10 * scale, abs=2)
    assert box["y"] - whole["y"] == pytest.approx(5 * scale, abs=2)
    assert box["width"] == pytest.approx(20 * scale, abs=3)

    page.fill("#score", "0.5")
    assert shown.count() == 1 and card.locator(".count").inner_text() == "1 of 3 objects"
    assert card.locator(":scope > table tr:visible").count() == 1
    page.fill("#score", "0")
    assert shown.count() == 3
    page.set_input_files("#file", file)  # a later image is seen from the same score on
    answered(page, "^1 of 1 answered$")
    assert page.inner_text("#from output") == "0.00"
    page.click("#clear")
    assert not page.is_visible("#from")


def test_a_button_shows_where_the_answer_was_found(page: Any, picture: Any, tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(picture(200, ".png"))
    page.set_input_files("#file", file)
    answered(page, "^1 of 1 answered$")
    button, layer = page.locator("article .where"), page.locator("article .layer")
    assert button.is_visible() and not layer.is_visible() and not page.is_visible("#strength")
    button.click()
    page.wait_for_selector("article .layer", state="visible")
    assert button.get_attribute("aria-pressed") == "true" and page.is_visible("#strength")
    assert layer.evaluate("layer => [layer.naturalWidth, layer.naturalHeight]") == [60, 40]
    button.click()
    page.wait_for_selector("article .layer", state="hidden")
    assert button.get_attribute("aria-pressed") == "false"
    page.route("**/predict?map=*", lambda route: route.fulfill(body="no", status=500))
    button.click()  # it is there already: nothing is asked for again
    page.wait_for_selector("article .layer", state="visible")

    nothing = {"class_ids": [], "scores": [], "label_names": []}
    page.route("**/predict?layer*", lambda route: route.fulfill(body=json.dumps(nothing)))
    page.set_input_files("#file", file)
    answered(page, "^1 of 1 answered$")
    assert [one.is_visible() for one in page.locator("article .where").all()] == [False, True]
