"""Weights of the Hugging Face hub: from a cache, from a server in its layout, or explained."""

from __future__ import annotations

import hashlib
import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ppcls_lite.config.complete import Recipe
from ppcls_lite.config.file import load_config
from ppcls_lite.errors import UserError
from ppcls_lite.models.create import create_model
from ppcls_lite.models.weights import hub
from ppcls_lite.models.weights.hub import HubFile, hub_file, parse
from ppcls_lite.models.weights.load import write_state
from ppcls_lite.models.weights.pretrained import fetch_weights, list_pretrained, weights_file
from ppcls_lite.models.weights.safetensors_file import write_safetensors
from ppcls_lite.models.weights.timm_config import preparation_of, read_config
from ppcls_lite.models.weights.torch_names import to_theirs
from ppcls_lite.recipe.networks import build_model
from ppcls_lite.system.processes import environment

COMMIT = "0123456789" * 4
ADDRESS = "timm://starnet_s1.in1k"


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No cache, no library, no address outside this machine."""
    for name in ("HF_HOME", "HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PPCLS_LITE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(hub, "_has_library", lambda: False)


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers as the hub does: weights by way of another host."""

    files: dict[str, bytes]
    asked: list[tuple[str, str | None]]
    storage: str

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers.get("Authorization")))
        name = self.path.rpartition("/")[2]
        if "/timm/" in self.path and name.endswith(".safetensors"):
            self.send_response(302)
            self.send_header("Location", f"{self.storage}/blobs/{name}")
            self.end_headers()
        elif name in self.files:
            self.send_response(200)
            self.send_header("Content-Length", str(len(self.files[name])))
            self.end_headers()
            self.wfile.write(self.files[name])
        else:
            self.send_error(404)

    def do_HEAD(self) -> None:
        """Two headers that huggingface_hub wants to see before it fetches anything."""
        name = self.path.rpartition("/")[2]
        self.send_response(200 if name in self.files else 404)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", '"0123abcd"')
        self.send_header("Content-Length", str(len(self.files.get(name, b""))))
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[Hub]]:
    write_safetensors(tmp_path / "model.safetensors", {"a": np.ones(3, np.float32)})
    Hub.asked, Hub.files = [], {"model.safetensors": (tmp_path / "model.safetensors").read_bytes()}
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{running.server_port}")
        Hub.storage = f"http://localhost:{running.server_port}"
        yield Hub
        running.shutdown()


def cached(tmp_path: Path, file: str, content: bytes) -> Path:
    folder = tmp_path / "cache" / "models--timm--starnet_s1.in1k"
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text(COMMIT)
    path = folder / "snapshots" / COMMIT / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_forms() -> None:
    assert parse("timm://lcnet_050.ra2_in1k") == HubFile("timm/lcnet_050.ra2_in1k")
    assert parse("hf://me/net@v1/sub/a.safetensors") == HubFile("me/net", "v1", "sub/a.safetensors")
    for wrong in ("hf://me", "hf://", "timm://a b", "hf://me/net/../x y"):
        with pytest.raises(UserError, match="expected hf://OWNER/NAME"):
            parse(wrong)


def test_the_cache_is_read_without_a_request(tmp_path: Path) -> None:
    path = cached(tmp_path, "model.safetensors", b"x")
    assert weights_file("", ADDRESS) == path
    assert hub_file(HubFile("timm/starnet_s1.in1k", COMMIT)) == path


def test_a_file_is_fetched_once_and_the_key_stays_with_its_host(
    server: type[Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    path = weights_file("", ADDRESS)
    assert Path(path).read_bytes() == Hub.files["model.safetensors"]
    assert weights_file("", ADDRESS) == path
    assert server.asked == [
        ("/timm/starnet_s1.in1k/resolve/main/model.safetensors", "Bearer secret"),
        ("/blobs/model.safetensors", None),
    ]


def test_every_way_is_named_when_nothing_is_reachable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = r"(?s)put it at .*home.*give the path of the file.*HF_HUB_CACHE; set HF_ENDPOINT"
    with pytest.raises(UserError, match=expected):
        weights_file("", ADDRESS)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="HF_HUB_OFFLINE forbids to ask for it"):
        weights_file("", ADDRESS)


def test_the_library_fetches_into_its_cache_and_finds_it_there_offline(
    server: type[Hub], tmp_path: Path
) -> None:
    pytest.importorskip("huggingface_hub", reason="pip install huggingface_hub")
    program = (
        "from ppcls_lite.models.weights.hub import HubFile, hub_file\n"
        "print(hub_file(HubFile('me/net', 'main', 'model.safetensors')))\n"
    )

    def run(**variables: str) -> str:  # it reads its variables when it is imported
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=environment(**variables),
            capture_output=True,
            text=True,
            timeout=120,
        )
        return done.stdout + done.stderr[-2000:]

    expected = f"{tmp_path / 'cache' / 'models--me--net' / 'snapshots' / COMMIT}/model.safetensors"
    assert run().splitlines()[-1] == expected
    assert Path(expected).read_bytes() == Hub.files["model.safetensors"]
    asked = len(Hub.asked)
    assert run(HF_HUB_OFFLINE="1").splitlines()[-1] == expected and len(Hub.asked) == asked
    nowhere = run(HF_HUB_OFFLINE="1", HF_HUB_CACHE=str(tmp_path / "other"))
    assert "Any of these helps: download http://127.0.0.1" in nowhere


def test_an_address_with_a_checksum(server: type[Hub], tmp_path: Path) -> None:
    right = hashlib.sha256(Hub.files["model.safetensors"]).hexdigest()
    address = f"{Hub.storage}/blobs/model.safetensors"
    with pytest.raises(UserError, match=f"its SHA-256 is {right}, not 00ff"):
        fetch_weights(f"{address}#sha256=00ff")
    path = fetch_weights(f"{address}#sha256={right}")
    assert path.read_bytes() == Hub.files["model.safetensors"]
    with pytest.raises(UserError, match="remove the file"):
        fetch_weights(f"{address}#sha256=00ff")


CONFIG = {
    "architecture": "starnet_s1",
    "num_classes": 1000,
    "model_args": {"in_chans": 3, "global_pool": "avg"},
    "pretrained_cfg": {
        **{"input_size": [3, 224, 224], "crop_pct": 0.95, "interpolation": "bicubic"},
        **{"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "crop_mode": "center"},
    },
}


def test_the_preparation_of_a_config(tmp_path: Path) -> None:
    cached(tmp_path, "config.json", json.dumps(CONFIG).encode())
    found = preparation_of(ADDRESS)
    assert (found.size, found.resize_short, found.interpolation) == (224, 235, "bicubic")
    assert found.mean == (0.5, 0.5, 0.5)
    assert preparation_of(tmp_path / "elsewhere.safetensors") is None
    wrong = tmp_path / "config.json"
    for change, text in (
        ({"model_args": {"act_layer": "silu"}}, "model_args has act_layer='silu'"),
        ({"model_args": {"global_pool": "max"}}, "model_args has global_pool='max'"),
        ({"pretrained_cfg": {}}, "no config.json of timm's"),
    ):
        wrong.write_text(json.dumps(CONFIG | change))
        with pytest.raises(UserError, match=text):
            read_config(wrong)


def test_list_pretrained() -> None:
    found = list_pretrained("PPLCNet_x0_5")
    assert found == ["PPLCNet_x0_5", "PPLCNet_x0_5_ssld", "timm://lcnet_050.ra2_in1k"]
    assert list_pretrained("PPLCNetV3_x0_5") == []
    assert "PPHGNetV2_B0" not in list_pretrained() and "PPHGNetV2_B0_ssld" in list_pretrained()


def test_a_network_by_its_address(tmp_path: Path) -> None:
    before = create_model("StarNet_S1", class_num=3)
    state = {key: value.numpy() for key, value in before.state_dict().items()}
    path = cached(tmp_path, "model.safetensors", b"")
    write_safetensors(path, to_theirs(before, state))
    after = create_model("StarNet_S1", class_num=3, pretrained=ADDRESS)
    for key, value in after.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), state[key])


def test_photographs_reach_their_weights_by_any_of_four_ways(
    server: type[Hub], tmp_path: Path
) -> None:
    """The quick start's recipe: by the official name, a path, an address, the hub's cache."""
    source = create_model("PPLCNet_x1_0")
    state = {key: value.numpy() for key, value in source.state_dict().items()}
    name = "PPLCNet_x1_0_pretrained.pdparams"
    path = write_state(tmp_path / "home" / "weights" / name, state)
    Hub.files["mine.pdparams"] = path.read_bytes()
    folder = tmp_path / "cache" / "models--someone--pplcnet"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    (folder / "snapshots" / COMMIT).mkdir(parents=True)
    write_safetensors(folder / "snapshots" / COMMIT / "model.safetensors", state)
    ways = ["true", str(path), f"{Hub.storage}/files/mine.pdparams", "hf://someone/pplcnet"]
    for way in ways:
        overrides = [f"Arch.pretrained={json.dumps(way) if way != 'true' else way}"]
        recipe = load_config("configs/quickstart/photos.yaml", [*overrides, "Arch.class_num=2"])
        model = build_model(Recipe.of(recipe).settings, training=True)
        for key, value in model.state_dict().items():
            if not key.startswith("fc."):  # 2 classes instead of 1000
                np.testing.assert_array_equal(value.numpy(), state[key], err_msg=f"{way} {key}")
    assert [asked for asked, _ in Hub.asked] == ["/files/mine.pdparams"]
