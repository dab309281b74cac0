"""What the service holds at once is bounded: bodies, decoding, work that was given up."""

from __future__ import annotations

import asyncio
import struct
import tempfile
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the service needs pip install .[serve]")
pytest.importorskip("prometheus_client", reason="the service needs pip install .[serve]")
pytest.importorskip("python_multipart", reason="the service needs pip install .[serve]")
pytest.importorskip("httpx", reason="Starlette's test client needs httpx")

import numpy as np
from starlette.testclient import TestClient

from ppcls_lite.data.transforms.image_file import decode_rgb
from ppcls_lite.errors import UserError
from ppcls_lite.inference.predictor import Predictor
from ppcls_lite.serve import cli
from ppcls_lite.serve.app import Service, make_app
from ppcls_lite.serve.options import ServeOptions
from ppcls_lite.serve.refusal import Coming, Memory, Places, Uploads
from ppcls_lite.serve.upload import check_header


def test_a_form_needs_no_folder_for_temporary_files(
    predictor: Predictor, picture: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*arguments: object, **named: object) -> None:
        raise FileNotFoundError("no usable temporary directory")

    monkeypatch.setattr(tempfile, "TemporaryFile", none)
    body = picture(255, ".bmp", 800, 1000)
    assert len(body) > 2_000_000
    with TestClient(make_app(Service(predictor, ServeOptions()))) as client:
        response = client.post("/predict", files={"file": ("a.bmp", body)})
    assert response.status_code == 200 and response.json()["class_ids"][0] == 2


def test_an_answer_that_is_no_number_is_an_error(
    predictor: Predictor, engine: Any, picture: Any
) -> None:
    engine.run = lambda inputs: [np.full((len(inputs), 3), np.nan, np.float32)]
    with TestClient(make_app(Service(predictor, ServeOptions()))) as client:
        response = client.post("/predict", content=picture(1))
    assert response.status_code == 500 and "not a number" in response.json()["error"]


@pytest.mark.parametrize("error", [MemoryError(), IndexError("x"), UserError("too narrow")])
def test_an_image_that_cannot_be_prepared_is_422(
    predictor: Predictor, picture: Any, error: Exception
) -> None:
    def prepare(data: bytes) -> None:
        raise error

    predictor.pipeline = replace(predictor.pipeline, prepare=prepare)
    with TestClient(make_app(Service(predictor, ServeOptions()))) as client:
        assert client.post("/predict", content=picture(1)).status_code == 422
        assert client.get("/healthz").status_code == 200


def test_decoding_that_was_given_up_keeps_its_place(predictor: Predictor, picture: Any) -> None:
    hold, prepare = threading.Event(), predictor.pipeline.prepare

    def slow(data: bytes) -> Any:
        assert hold.wait(20)
        return prepare(data)

    predictor.pipeline = replace(predictor.pipeline, prepare=slow)
    service = Service(predictor, ServeOptions(queue=3, timeout=0.3, decode_threads=1))
    with TestClient(make_app(service)) as client, ThreadPoolExecutor(3) as pool:
        sent = [pool.submit(client.post, "/predict", content=picture(0)) for _ in range(3)]
        assert {future.result().status_code for future in sent} == {504}
        assert service.queue.taken == 1  # the thread that still decodes; the others were cancelled
        hold.set()
        while service.queue.taken:
            threading.Event().wait(0.01)
        assert client.post("/predict", content=picture(0)).status_code == 200


def test_requests_that_come_together_do_not_all_see_the_free_place() -> None:
    places, first, second = Places(2, "requests"), Coming(), Coming()
    with places:
        assert places.refusal() is None
        places.expect(first)
        assert places.refusal().status == 429  # one at work, one on its way
        places.came(first)
        with places:  # which is let in, whoever else is coming
            assert places.refusal().status == 429
        places.came(second)  # refused while its body was still arriving
        places.expect(second)
        assert places.refusal() is None
    assert places.taken == 0 and places.refusal() is None


def test_the_upload_that_has_been_arriving_longest_gives_way() -> None:
    async def main() -> None:
        uploads = Uploads(100)
        with uploads.one() as slow, uploads.one() as complete, uploads.one() as quick:
            slow.reading = asyncio.ensure_future(asyncio.sleep(20, bytearray()))
            slow.grow(40)
            complete.grow(50)
            uploads.arrived(complete)
            quick.grow(10)
            assert uploads.taken == 100
            quick.grow(20)
            await asyncio.wait({slow.reading})
            assert slow.reading.cancelled() and uploads.taken == 80
            complete.release()
            assert uploads.taken == 30
        assert uploads.taken == 0

    asyncio.run(main())


def test_a_slow_upload_that_gives_way_is_429(
    predictor: Predictor, picture: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ppcls_lite.serve.app.PAUSE", 0.0)
    options = ServeOptions(memory=400_000, max_bytes=100_000)
    service = Service(predictor, options)
    body = picture(255, ".bmp", 100, 300)  # 90 kB; two do not fit into a quarter of the memory
    app = make_app(service)
    statuses: list[int] = []

    async def post(chunks: list[bytes], pause: asyncio.Event | None) -> None:
        queue = list(chunks)

        async def receive() -> dict[str, Any]:
            if pause is not None and len(queue) < len(chunks):
                await pause.wait()
            return {"type": "http.request", "body": queue.pop(0), "more_body": bool(queue)}

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        scope = {"type": "http", "method": "POST", "path": "/predict", "headers": []}
        await app({**scope, "query_string": b"", "root_path": ""}, receive, send)

    async def main() -> None:
        async with service.lifespan(app):
            slow = asyncio.ensure_future(post([body[:50_000], body[50_000:]], asyncio.Event()))
            while not service.uploads.taken:
                await asyncio.sleep(0.01)
            await post([body], None)
            await slow

    asyncio.run(main())
    assert statuses == [200, 429] or statuses == [429, 200]
    assert service.uploads.taken == 0


def test_memory_is_given_in_turn_and_never_too_much() -> None:
    memory, lock, used, most = Memory(100), threading.Lock(), 0, 0

    def work(size: int) -> None:
        nonlocal used, most
        with memory.hold(size):
            with lock:
                used += min(size, 100)
                most = max(most, used)
            threading.Event().wait(0.005)
            with lock:
                used -= min(size, 100)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, [30, 60, 1000, 10, 80, 20, 50, 100] * 3))
    assert (used, most) == (0, 100)


def test_what_decoding_needs(picture: Any) -> None:
    import io

    from PIL import Image

    assert check_header(picture(1, ".jpg", 40, 60), 10_000) == 40 * 60 * 10
    file = io.BytesIO()
    Image.new("RGBA", (60, 40)).save(file, "PNG")
    assert check_header(file.getvalue(), 10_000) == 40 * 60 * 20


def test_a_png_is_inflated_as_far_as_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        end = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + end

    rows = b"".join(b"\0" + bytes([level]) * 96 for level in range(32))
    squeezed = zlib.compressobj(0)  # not compressed: as large as what makes it suspicious
    body = squeezed.compress(rows + bytes(1_200_000)) + squeezed.flush()
    head = struct.pack(">IIBBBBB", 32, 32, 8, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")

    def opencv(*arguments: object) -> None:
        raise AssertionError("it inflates all of it")

    monkeypatch.setattr("cv2.imdecode", opencv)
    image = decode_rgb(b"\x89PNG\r\n\x1a\n" + chunks, "x")
    assert image.shape == (32, 32, 3) and image[:, 5, 1].tolist() == list(range(32))


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--timeout", "nan", "--timeout: expected a number from 0 on, found 'nan'"),
        ("--timeout", "inf", "--timeout: expected a number from 0 on, found 'inf'"),
        ("--read-timeout", "0", "read_timeout: expected a number above 0"),
        (
            "--max-megapixels",
            "300",
            "max_pixels: expected a number above 0 and at most 178,000,000",
        ),
        ("--max-megabytes", "nan", "--max-megabytes: expected a number"),
        ("--max-megabytes", "1e300", "max_bytes: expected"),
        ("--max-wait-ms", "-1", "--max-wait-ms: expected a number"),
        ("--memory-megabytes", "20", "does not fit into the quarter of the memory"),
        ("--queue", "0", "--queue: expected a whole number"),
        ("--decode-threads", "100000", "decode_threads: expected a number above 0 and at most 256"),
    ],
)
def test_options_that_make_no_sense_are_one_message(
    option: str, value: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        cli.run(["--model", "nowhere", option, value])
    except UserError as error:
        assert says in str(error)
    except SystemExit as end:
        assert end.code == 2 and says in capsys.readouterr().err
    else:
        raise AssertionError("it was taken")
