"""Official weights: looked for, downloaded whole or not at all, otherwise explained."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ppcls_lite.errors import UserError
from ppcls_lite.models.create import create_model
from ppcls_lite.models.weights import pretrained
from ppcls_lite.models.weights.load import write_state
from ppcls_lite.models.weights.pretrained import resolve_pretrained

FILE = "PPLCNet_x0_5_pretrained.pdparams"


class Server(http.server.BaseHTTPRequestHandler):
    content = b"\x80weight" * 30_000
    announced = len(content)
    page = b"<html>please log in</html>"
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if not self.path.startswith("/legendary_models/PPLCNet"):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(self.announced))
        self.end_headers()
        self.wfile.write(self.page if "x2_5" in self.path else self.content)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    Server.asked, Server.announced = [], len(Server.content)
    with http.server.HTTPServer(("127.0.0.1", 0), Server) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PPCLS_LITE_HOME", str(tmp_path))
    return tmp_path / "weights"


def test_a_download_lands_under_the_official_name_once(server: str, home: Path) -> None:
    path = resolve_pretrained("PPLCNet_x0_5", server=server)
    assert path == home / FILE
    assert path.read_bytes() == Server.content
    assert resolve_pretrained("PPLCNet_x0_5", server=server) == path
    assert Server.asked == [f"/legendary_models/{FILE}"]
    assert [p.name for p in home.iterdir()] == [FILE]


def test_ssld_has_its_own_file(server: str, home: Path) -> None:
    path = resolve_pretrained("PPLCNet_x0_5", use_ssld=True, server=server)
    assert path.name == "PPLCNet_x0_5_ssld_pretrained.pdparams"
    with pytest.raises(UserError, match="no SSLD weights are published for PPLCNet_x0_25, only"):
        resolve_pretrained("PPLCNet_x0_25", use_ssld=True, server=server)


def test_a_download_that_breaks_off_leaves_nothing(server: str, home: Path) -> None:
    Server.announced = len(Server.content) + 1
    with pytest.raises(UserError, match="it broke off after 210000"):
        resolve_pretrained("PPLCNet_x0_5", server=server)
    assert list(home.iterdir()) == []


def test_a_web_page_is_not_taken_for_weights(server: str, home: Path) -> None:
    Server.announced = len(Server.page)
    with pytest.raises(UserError, match="what came is no file of weights"):
        resolve_pretrained("PPLCNet_x2_5", server=server)
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("name", ["MobileNetV2", "PPLCNet_x0_5"])
def test_without_a_file_or_a_network_the_message_says_what_to_do(
    name: str, server: str, home: Path
) -> None:
    address = server if name == "MobileNetV2" else "http://127.0.0.1:9/"  # 404, and nobody there
    with pytest.raises(UserError) as caught:
        resolve_pretrained(name, server=address)
    message = str(caught.value)
    assert f"{name}_pretrained.pdparams" in message and str(home) in message
    assert f"Download {address}" in message and "PPCLS_LITE_HOME" in message


def test_a_full_disk_is_not_called_a_network_error(
    server: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.parent.mkdir(exist_ok=True)
    home.write_text("a file where the folder should be")
    with pytest.raises(UserError, match="could not be written"):
        resolve_pretrained("PPLCNet_x0_5", server=server)


def test_a_name_outside_the_zoo_needs_a_path() -> None:
    with pytest.raises(UserError, match="needs a name of the zoo, not 'PPLCNet'"):
        resolve_pretrained("PPLCNet")


def test_create_model_uses_the_local_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "OFFICIAL", "http://127.0.0.1:9/")
    source = create_model("PPLCNet_x0_5")
    write_state(home / FILE, source.state_dict())
    model = create_model("PPLCNet_x0_5", class_num=3, pretrained=True)
    np.testing.assert_array_equal(model.last_conv.weight.numpy(), source.last_conv.weight.numpy())
    assert model.fc.weight.shape == [1280, 3]
