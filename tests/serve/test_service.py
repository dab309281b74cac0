"""The service's answers and refusals, with a stand-in for the network."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

starlette = pytest.importorskip("starlette", reason="the service needs pip install .[serve]")
pytest.importorskip("prometheus_client", reason="the service needs pip install .[serve]")
pytest.importorskip("python_multipart", reason="the service needs pip install .[serve]")
pytest.importorskip("httpx", reason="Starlette's test client needs httpx")

import cv2  # noqa: E402
import numpy as np  # noqa: E402
from starlette.testclient import TestClient  # noqa: E402

from ppcls_lite.errors import UserError  # noqa: E402
from ppcls_lite.inference.predictor import Predictor  # noqa: E402
from ppcls_lite.inference.preprocess import Meta, Prepared  # noqa: E402
from ppcls_lite.serve.app import Service, make_app  # noqa: E402
from ppcls_lite.serve.batcher import Batcher  # noqa: E402
from ppcls_lite.serve.options import ServeOptions  # noqa: E402

OPTIONS = ServeOptions(max_bytes=200_000, max_pixels=1_000_000, queue=4, timeout=5, read_timeout=1)


@pytest.fixture
def service(predictor: Predictor) -> Service:
    return Service(predictor, OPTIONS)


@pytest.fixture
def client(service: Service) -> Iterator[TestClient]:
    with TestClient(make_app(service), raise_server_exceptions=False) as client:
        yield client


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few kilobytes that announces a huge image."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(100_000))
    chunks = chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def test_an_image_as_body_or_in_a_form(client: TestClient, picture: Any) -> None:
    expected = {"class_ids": [2, 1], "label_names": ["weiß", "grey"]}
    raw = client.post("/predict", content=picture(255))
    form = client.post("/predict", files={"whatever": ("ü 1.jpg", picture(255))}, data={"a": "b"})
    for response in (raw, form):
        assert response.status_code == 200, response.text
        answer = response.json()
        assert {key: answer[key] for key in expected} == expected
        assert answer["scores"][0] > 0.99
    assert client.post("/predict", content=picture(0, ".png")).json()["class_ids"][0] == 0


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"", 422, "empty: expected an image file"),
        (b"garbage" * 100, 415, "not an image of a known format"),
        (b"x" * 200_001, 413, "too large: at most 200000 bytes"),
        (bomb(20_000, 20_000), 413, "at most 1 million"),
        (bomb(1_001, 1_000), 413, "1001 x 1000 pixels; at most 1 million"),
        (bomb(100, 100)[:60], 422, "PNG"),
        (b"\xff\xd8\xff\xe0", 422, "damaged image file: truncated JPEG"),
        (
            b"BM"
            + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 40_000, 40_000, 1, 24, *[0] * 6),
            413,
            "too many",
        ),
    ],
)
def test_what_is_refused(client: TestClient, body: bytes, status: int, says: str) -> None:
    for response in (
        client.post("/predict", content=body),
        client.post("/predict", content=iter([body[:50], body[50:]])),  # chunked: no length
        client.post("/predict", files={"file": ("a.jpg", body)}),
    ):
        assert (response.status_code, says in response.json()["error"]) == (status, True)


def test_a_damaged_image_and_a_wrong_form(client: TestClient, picture: Any) -> None:
    whole = picture(9)
    response = client.post("/predict", content=whole[:-40])
    assert response.status_code == 422 and "truncated JPEG" in response.json()["error"]
    two = {"a": ("a.jpg", whole), "b": ("b.jpg", whole)}
    assert client.post("/predict", files=two).status_code == 422
    assert client.post("/predict", data={"a": "b"}, files={}).status_code == 415
    headers = {"Content-Type": "multipart/form-data"}
    response = client.post("/predict", content=whole, headers=headers)
    assert response.status_code == 422 and "boundary" in response.json()["error"]


def test_errors_are_json(client: TestClient) -> None:
    for method, path, status in [
        ("GET", "/predict", 405),
        ("DELETE", "/predict", 405),
        ("POST", "/healthz", 405),
        ("GET", "/nowhere", 404),
    ]:
        response = client.request(method, path)
        assert response.status_code == status
        assert f"{method} {path}" in response.json()["error"]


def test_a_bug_is_500_without_details(
    client: TestClient, predictor: Predictor, picture: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> None:
        raise ZeroDivisionError("secret")

    predictor.pipeline = replace(predictor.pipeline, answer=broken)
    response = client.post("/predict", content=picture(1))
    assert response.status_code == 500 and "secret" not in response.text
    assert response.json()["error"].startswith("internal error")


def test_many_requests_at_once_get_their_own_answers(
    predictor: Predictor, engine: Any, picture: Any
) -> None:
    service = Service(predictor, ServeOptions(queue=64, max_batch=8))
    levels = [(0, 128, 255)[i % 3] for i in range(48)]
    with TestClient(make_app(service)) as client, ThreadPoolExecutor(16) as pool:
        found = pool.map(lambda level: client.post("/predict", content=picture(level)), levels)
        classes = [response.json()["class_ids"][0] for response in found]
    assert classes == [(0, 128, 255).index(level) for level in levels]
    assert sum(engine.batches) == 48 and max(engine.batches) <= 8


def test_a_full_queue_is_429_and_a_late_answer_504(
    predictor: Predictor, engine: Any, picture: Any
) -> None:
    service = Service(predictor, ServeOptions(queue=3, timeout=1.5, max_batch=1))
    engine.hold.clear()
    with TestClient(make_app(service)) as client, ThreadPoolExecutor(8) as pool:
        body = picture(255)
        sent = [pool.submit(client.post, "/predict", content=body) for _ in range(8)]
        responses = [future.result() for future in sent]
        statuses = sorted(response.status_code for response in responses)
        engine.hold.set()
        assert statuses == [429] * 5 + [504] * 3
        full = next(r for r in responses if r.status_code == 429)
        assert full.headers["Retry-After"] == "1" and "busy: 3 requests" in full.json()["error"]
        assert client.post("/predict", content=body).status_code == 200  # nothing is stuck
        assert 'ppcls_requests_total{status="429"} 5.0' in client.get("/metrics").text


def test_batches_form_while_the_engine_runs(
    predictor: Predictor, engine: Any, picture: Any
) -> None:
    service = Service(predictor, ServeOptions(max_batch=16, queue=64))
    engine.hold.clear()
    with TestClient(make_app(service)) as client, ThreadPoolExecutor(20) as pool:
        sent = [pool.submit(client.post, "/predict", content=picture(0)) for _ in range(20)]
        while service.queue.taken < 20:
            threading.Event().wait(0.01)
        threading.Event().wait(0.3)  # let them be decoded
        engine.hold.set()
        assert {future.result().status_code for future in sent} == {200}
    assert sum(engine.batches) == 20 and len(engine.batches) <= 5


def test_health_and_metrics(client: TestClient, service: Service, picture: Any) -> None:
    assert client.get("/healthz").json() == {"status": "ok", "model": "Brightness"}
    client.post("/predict", content=picture(1))
    client.post("/predict", content=b"")
    text = client.get("/metrics").text
    values = dict(re.findall(r"^(\w+(?:\{.*\})?) ([\d.]+)$", text, re.M))
    assert values['ppcls_requests_total{status="200"}'] == "1.0"
    assert values['ppcls_requests_total{status="422"}'] == "1.0"
    assert values["ppcls_batch_size_count"] == values["ppcls_inference_seconds_count"] == "1.0"
    assert values["ppcls_queue"] == "0.0"
    service.draining = True
    assert client.get("/healthz").status_code == 503


def test_a_dead_engine_is_503(client: TestClient, engine: Any, picture: Any) -> None:
    def died(inputs: np.ndarray) -> list[np.ndarray]:
        engine.alive = False
        raise UserError("the engine's process died (signal 9)")

    engine.run = died
    response = client.post("/predict", content=picture(1))
    assert response.status_code == 503 and "died" in response.json()["error"]
    assert client.get("/healthz").json()["status"] == "engine died"


def test_the_pages_need_nothing_from_elsewhere(client: TestClient, predictor: Predictor) -> None:
    for page in ("/", "/docs"):
        response = client.get(page)
        assert response.headers["content-type"].startswith("text/html")
        assert "default-src 'none'" in response.headers["content-security-policy"]
        assert f"<h1>{predictor.spec.model_name}</h1>" in response.text
        parts = re.findall(r'(?:src|href)="([^"]+)"', response.text)
        for part in parts:  # relative, so that a proxy may put the service below a path
            assert not part.startswith("/"), part
            text = client.get("/" + part.removeprefix(".")).raise_for_status().text
            assert not re.findall(r"\bhttps?://(?!www\.w3\.org/2000/svg)|@import", text), part
            for other in re.findall(r'from "\./(.+?)"', text):
                kind = client.get(f"/page/{other}").headers["content-type"]
                assert kind.startswith("text/javascript")
    assert client.get("/page/index.html").status_code == 404
    assert client.get("/page/..%2Fapp.py").status_code == 404


def test_a_networks_name_is_text(predictor: Predictor, engine: Any) -> None:
    spec = replace(predictor.spec, model_name="<b>&$x")
    app = make_app(Service(Predictor.of(spec, engine), OPTIONS))
    with TestClient(app) as client:
        assert "<h1>&lt;b&gt;&amp;$x</h1>" in client.get("/").text


def test_the_description_has_an_answer_of_this_network(client: TestClient, engine: Any) -> None:
    found = client.get("/openapi.json").json()
    assert found["info"]["title"] == "Brightness"
    content = found["paths"]["/predict"]["post"]["responses"]["200"]["content"]
    shown = content["application/json"]
    assert shown["example"]["label_names"][0] == "grey"
    assert shown["schema"]["properties"]["class_ids"]["items"] == {"type": "integer"}
    assert client.get("/openapi.json").json() == found
    assert engine.batches == [1]  # it is asked once


def test_the_description_stands_without_an_answer(client: TestClient, engine: Any) -> None:
    engine.run = lambda inputs: [np.full((1, 3), np.nan, np.float32)]
    post = client.get("/openapi.json").json()["paths"]["/predict"]["post"]
    content = post["responses"]["200"]["content"]["application/json"]
    assert content == {"schema": {"type": "object"}}


@pytest.mark.parametrize("wrong", [{"queue": 0}, {"timeout": -1}, {"max_wait": -0.1}])
def test_options_that_make_no_sense(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match="expected a number above 0"):
        ServeOptions(**wrong)


def prepared(shape: tuple[int, ...]) -> Prepared:
    return Prepared(np.zeros(shape), Meta())


def run_batcher(use: Callable[[Batcher], Any], **arguments: Any) -> Any:
    async def main() -> Any:
        batcher = Batcher(**arguments)
        try:
            return await use(batcher)
        finally:
            assert await batcher.close(5)

    return asyncio.run(main())


def test_images_of_different_shapes_run_apart_and_in_order() -> None:
    seen: list[list[tuple[int, ...]]] = []

    def shapes(images: list[Prepared]) -> list[dict[str, Any]]:
        seen.append([image.array.shape for image in images])
        return [{"shape": image.array.shape} for image in images]

    async def use(batcher: Batcher) -> list[dict[str, Any]]:
        sizes = [(3, 4, 4), (3, 8, 8), (3, 4, 4), (3, 8, 8), (3, 4, 4)]
        return await asyncio.gather(*(batcher.submit(prepared(size)) for size in sizes))

    answers = run_batcher(use, run=shapes, max_batch=8, max_wait=0.01, coming=lambda: 0)
    assert [answer["shape"][1] for answer in answers] == [4, 8, 4, 8, 4]
    assert [len(set(batch)) for batch in seen] == [1, 1] and sorted(map(len, seen)) == [2, 3]


def test_one_waits_only_for_those_who_come() -> None:
    def sizes(images: list[Prepared]) -> list[dict[str, Any]]:
        return [{"batch": len(images)} for _ in images]

    coming = 1

    async def use(batcher: Batcher) -> tuple[dict[str, Any], ...]:
        first = asyncio.create_task(batcher.submit(prepared((1,))))
        await asyncio.sleep(0.1)
        assert not first.done()
        nonlocal coming
        coming = 0
        return tuple(await asyncio.gather(first, batcher.submit(prepared((1,)))))

    both = run_batcher(use, run=sizes, max_batch=8, max_wait=60, coming=lambda: coming)
    assert both == ({"batch": 2}, {"batch": 2})

    async def alone(batcher: Batcher) -> dict[str, Any]:
        return await asyncio.wait_for(batcher.submit(prepared((1,))), 5)

    found = run_batcher(alone, run=sizes, max_batch=8, max_wait=60, coming=lambda: 0)
    assert found == {"batch": 1}


def test_an_error_reaches_all_of_its_batch() -> None:
    def fails(images: list[Prepared]) -> list[dict[str, Any]]:
        raise UserError("no")

    async def use(batcher: Batcher) -> list[Any]:
        waiting = [batcher.submit(prepared((1,))) for _ in range(3)]
        return await asyncio.gather(*waiting, return_exceptions=True)

    found = run_batcher(use, run=fails, max_batch=2, max_wait=0, coming=lambda: 0)
    assert [str(error) for error in found] == ["no"] * 3


def test_where_the_image_speaks_for_a_class(predictor: Predictor, picture: Any, maps: Any) -> None:
    """A layer over the photograph, of its size; what cannot be shown is refused in words."""
    image = picture(200, height=40, width=80)
    with TestClient(make_app(Service(predictor, OPTIONS, maps))) as client:
        answer = client.post("/predict?map=1", content=image).json()
        assert answer["class_ids"] and "layer" not in client.post("/predict", content=image).json()
        layer = cv2.imdecode(
            np.frombuffer(base64.b64decode(answer["layer"]), np.uint8), cv2.IMREAD_UNCHANGED
        )
        assert layer.shape == (40, 80, 4)
        assert layer[20, 5, :3].sum() > layer[20, 75, :3].sum() + 300
        for asked, message in (("3", "from 0 to 2, found 3"), ("cat", "found 'cat'"), ("", "''")):
            refused = client.post(f"/predict?map={asked}", content=image)
            assert refused.status_code == 422 and message in refused.json()["error"]
        described = json.dumps(client.get("/openapi.json").json())
        assert "Grad-CAM" in described and "--with-maps" not in described
        maps.alive = False
        assert client.post("/predict?map=1", content=image).status_code == 503
        assert client.post("/predict", content=image).status_code == 200


def test_a_folder_without_maps_says_so(client: TestClient, picture: Any) -> None:
    refused = client.post("/predict?map=1", content=picture(200))
    assert refused.status_code == 422 and "export --with-maps" in refused.json()["error"]
    assert "--with-maps" in json.dumps(client.get("/openapi.json").json())


def test_an_answer_that_is_not_certain_enough_is_none(
    predictor: Predictor, engine: Any, picture: Any
) -> None:
    """As `export --reject-precision` leaves it in inference.yml."""

    sure = predictor.spec.answering({"reject_below": 0.9})
    with TestClient(make_app(Service(Predictor.of(sure, engine), OPTIONS))) as client:
        black = client.post("/predict", content=picture(0)).json()
        between = client.post("/predict", content=picture(64)).json()
    assert black["class_ids"][0] == 0 and "unknown" not in black
    assert between["unknown"] is True and between["class_ids"] == []
    assert between["guess"]["class_ids"] and between["guess"]["scores"][0] < 0.9
