"""The pages of the service: the files of page/, with the network's name in them.

They load nothing from elsewhere. Read before: app.py.
"""

from __future__ import annotations

import html
from importlib.resources import files
from string import Template

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'"
)
_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


class Pages:
    """The handlers of pages and of what they load.

    model: the network's name, which pages show. has_maps: whether the page offers where in an image
    a class is found.
    """

    def __init__(self, model: str, has_maps: bool = False) -> None:
        found = files("ppcls_lite.serve").joinpath("page").iterdir()
        texts = {file.name: file.read_text(encoding="utf-8") for file in found if file.is_file()}
        name = html.escape(model)
        self._pages = {
            file: Template(text).substitute(model=name, maps="yes" if has_maps else "no")
            for file, text in texts.items()
            if file.endswith(".html")
        }
        self._parts = {file: texts[file] for file in texts.keys() - self._pages.keys()}

    async def index(self, request: Request) -> Response:
        """`GET /`: a page to try the network on."""
        return self._page("index.html")

    async def docs(self, request: Request) -> Response:
        """`GET /docs`: what programs may ask, for people."""
        return self._page("docs.html")

    async def part(self, request: Request) -> Response:
        """`GET /page/NAME`: a script, style or picture of the pages."""
        name = request.path_params["name"]
        if name not in self._parts:
            raise HTTPException(404, "no such file")
        kind = _TYPES[name[name.rindex(".") :]]
        return Response(self._parts[name], media_type=kind, headers={"Cache-Control": "no-cache"})

    def _page(self, name: str) -> Response:
        return HTMLResponse(self._pages[name], headers={"Content-Security-Policy": _POLICY})
