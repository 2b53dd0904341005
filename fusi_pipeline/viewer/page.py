"""The page: the bundle that the build leaves in `static`, or a word on how to make it."""

from __future__ import annotations

from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from fusi_pipeline.viewer.responses import content

STATIC = Path(__file__).with_name("static")
"""Where the build leaves the bundle (see `pages.mjs`)."""
_INDEX = "index.html"
_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
_ALONE = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; worker-src 'self'; style-src 'self'; "
        "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
}
"""The page loads nothing from elsewhere, whatever an archive's attribution holds."""
_UNBUILT = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>fusi serve</title>
<h1>The viewer is not built</h1>
<p>Tiles, TileJSON and archives are served all the same:
<a href="archives.json">archives.json</a> lists them.</p>
<p>To have the map here, with Node.js and npm installed, run in a clone of fusi:</p>
<pre>uvx --from rust-just just pages viewer</pre>
<p>and load this page again.</p>
</html>
"""


class Page:
    """The files of the page in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def index(self, request: Request) -> Response:
        """Send the page, or how to build it."""
        path = self._folder / _INDEX
        data = path.read_bytes() if path.is_file() else _UNBUILT.encode()
        return content(request, data, _MEDIA_TYPES[".html"], _ALONE)

    def file(self, request: Request) -> Response:
        """Send a file of the bundle."""
        wanted = request.path_params["file"]
        names = [path.name for path in self._folder.iterdir()] if self._folder.is_dir() else []
        if wanted not in names:
            raise HTTPException(404, f"the page has no file {wanted!r}")
        path = self._folder / wanted
        return content(request, path.read_bytes(), _MEDIA_TYPES.get(path.suffix, "application/octet-stream"))
