"""What browsers load: the built page, its assets, and plain words where there is none.

Files with a hash in their name are cached for ever; the page itself is asked for anew each time.
No token is needed: the page is the same for everyone, and knows nothing until its requests do.
"""

import mimetypes
import re
from html import escape
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response

from madang.api.problems import Problem

HASHED = re.compile(r"[-.][A-Za-z0-9_-]{8,}\.[a-z0-9]+(\.map)?$")
FOREVER = "public, max-age=31536000, immutable"
ALWAYS_ASK = "no-cache"
# Addresses that the page makes by itself: a reload of one must give the page again.
PAGE_PATHS = re.compile(r"^/(|(jobs|queue|usage)(/.*)?)$")
STYLE = Path(__file__).parent / "static" / "plain.css"


class Pages:
    """ASGI-free lookup: a path in, a response out."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder or Path(__file__).parent.parent / "_web"
        self._files: dict[str, Path] = {}
        self._built_ns = -1
        self._look()

    async def get(self, request: Request) -> Response:
        """An asset, the page, or 404. Also the answer to every unknown path."""
        path = request.url.path
        if path == "/plain.css":
            return _file(request, STYLE, ALWAYS_ASK)
        file = self._files.get(path)
        if file is None and path.startswith("/assets/"):
            self._look()  # the page may have been built anew: its files have other names then
            file = self._files.get(path)
        if file is not None and path != "/index.html":
            return _file(request, file, FOREVER if HASHED.search(path) else ALWAYS_ASK)
        if not PAGE_PATHS.match(path):
            raise unknown_path(request)
        index = self._files.get("/index.html")
        if index is None:
            return HTMLResponse(_NO_PAGE, 503, {"cache-control": "no-store"})
        return _file(request, index, ALWAYS_ASK)

    def _look(self) -> None:
        """Find the page's files, if they are not those known."""
        assets = self._folder / "assets"
        built_ns = assets.stat().st_mtime_ns if assets.is_dir() else 0
        if built_ns != self._built_ns:
            self._built_ns = built_ns
            self._files = _files(self._folder)


def _file(request: Request, file: Path, caching: str) -> Response:
    """The file, or 304 where the browser has it already."""
    try:
        stat = file.stat()
    except FileNotFoundError:  # the page was built anew: its files have other names now
        raise unknown_path(request) from None
    headers = {"cache-control": caching}
    response = FileResponse(file, headers=headers, media_type=_type(file), stat_result=stat)
    if request.headers.get("if-none-match") == response.headers["etag"]:
        return Response(status_code=304, headers={**headers, "etag": response.headers["etag"]})
    return response


def unknown_path(request: Request) -> Problem:
    """404 for a path that is nothing at all."""
    return Problem(
        404,
        "no_such_path",
        f"there is nothing at {request.url.path[:200]}",
        given=request.url.path[:200],
        tries=["/docs lists the paths of the API", "/ is the page"],
    )


def wrong_method(request: Request, allowed: list[str]) -> Problem:
    """405 for a path that knows other methods."""
    return Problem(
        405,
        "wrong_method",
        f"{request.url.path[:200]} has no {request.method[:20]}",
        given=request.method[:20],
        allowed=allowed,
        headers={"allow": ", ".join(allowed)},
    )


def _files(folder: Path) -> dict[str, Path]:
    """Every file under the folder by its path in the address; a request can name no other."""
    if not folder.is_dir():
        return {}
    found = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return {f"/{file.relative_to(folder).as_posix()}": file for file in found}


def _type(file: Path) -> str:
    if file.suffix == ".js":
        return "text/javascript"  # some machines' tables say otherwise, and nosniff is strict
    return mimetypes.guess_type(file.name)[0] or "application/octet-stream"


def simple_page(title: str, *lines: str) -> str:
    """A page of a few words, under the same policy as all others."""
    text = "\n".join(f"<p>{_marked(line)}</p>" for line in lines)
    return FRAME.format(title=escape(title), body=f"<h1>{escape(title)}</h1>\n{text}")


def _marked(line: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(line))


FRAME = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title} · Madang</title>
<link rel="stylesheet" href="/plain.css">
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""

_NO_PAGE = simple_page(
    "The page is not built",
    "Madang runs; only its web page is missing from this installation.",
    "In a checkout, `make page` builds it. A released package has it.",
    "Meanwhile: `madang ls`, `madang top`, and the API at /docs.",
)
