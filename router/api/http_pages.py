"""``/``: the chat page. Fixed files of the package, open to all; it asks the API with a key."""

from __future__ import annotations

from importlib.resources import files
from pathlib import PurePath
from typing import Final

from fastapi import FastAPI, HTTPException
from fastapi.responses import Response

_PAGE: Final = "chat.html"
_TYPE_BY_SUFFIX: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
HEADERS_OF_ALL_PAGES: Final = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_HEADERS: Final = {
    # Trusted Types: the browser itself refuses to make markup or code of a string.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    "Cache-Control": "no-cache",
    **HEADERS_OF_ALL_PAGES,
}


def static_file(name: str) -> str:
    """Text of a file of the pages."""
    return files("router.api").joinpath("static", name).read_text(encoding="utf-8")


def add_chat_page(app: FastAPI) -> None:
    """The page at ``/``, and its parts under ``/static/``."""
    pages = ChatPages()
    for path, endpoint in (("/", pages.page), ("/static/{name}", pages.part)):
        app.add_api_route(path, endpoint, methods=["GET", "HEAD"])


class ChatPages:
    """Holds the files, so that no name of a request ever becomes a path."""

    def __init__(self) -> None:
        folder = files("router.api").joinpath("static")
        names = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
        self._body_by_name = {name: static_file(name) for name in names if _type_of(name)}

    async def page(self) -> Response:
        """GET /."""
        return self._answer(_PAGE)

    async def part(self, name: str) -> Response:
        """GET /static/NAME.

        Raises:
            HTTPException: There is no such file.
        """
        if name not in self._body_by_name:
            raise HTTPException(404, "not found")
        return self._answer(name)

    def _answer(self, name: str) -> Response:
        headers = {"Content-Type": _type_of(name), **_HEADERS}
        return Response(self._body_by_name[name], headers=headers)


def _type_of(name: str) -> str:
    """Its media type; empty for what is no file of the pages."""
    return _TYPE_BY_SUFFIX.get(PurePath(name).suffix, "")
