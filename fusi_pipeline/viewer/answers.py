"""What each path of the server answers, from a shelf of archives."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import lru_cache
from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from fusi_pipeline import at as place
from fusi_pipeline import lineage
from fusi_pipeline.errors import FusiError
from fusi_pipeline.tiles.grid import Tile
from fusi_pipeline.viewer import pictures, queries
from fusi_pipeline.viewer.responses import FilePart, content, document, refusal
from fusi_pipeline.viewer.shelf import Served, Shelf
from fusi_pipeline.viewer.tilejson import extension, tilejson

_CACHED_SURFACES = 256
"""About 20 MB of encoded tiles."""
_MEDIA_TYPES = {
    "webp": "image/webp",
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "avif": "image/avif",
    "pbf": "application/x-protobuf",
}
_BYTES = "application/octet-stream"
_FILE_TYPES = {".pmtiles": "application/vnd.pmtiles", ".mbtiles": "application/vnd.mbtiles"}


class Answers:
    """What each path answers, from a shelf."""

    def __init__(self, shelf: Shelf, missing: int) -> None:
        self._shelf = shelf
        self._missing = missing
        self._surface = lru_cache(maxsize=_CACHED_SURFACES)(_surface)

    def health(self, request: Request) -> Response:
        """Say that the server answers, and what it serves."""
        return document(request, {"status": "ok", "archives": [one.name for one in self._shelf]})

    def archives(self, request: Request) -> Response:
        """List the archives that can be read, for the page."""
        listed = []
        for one in self._shelf:
            with _left_out():
                listed.append(self._listed(self._found(one.name)))
        return document(request, listed)

    def archive(self, request: Request) -> Response:
        """Send an archive itself."""
        wanted = request.path_params["file"]
        for one in self._shelf:
            if one.file == wanted:
                self._found(one.name)
                return FilePart(one.path, _FILE_TYPES.get(one.path.suffix, _BYTES))
        raise HTTPException(404, f"no archive {wanted!r} is served; /archives.json lists them")

    def tilejson(self, request: Request) -> Response:
        """Describe an archive as TileJSON."""
        one = self._served(request)
        address = str(request.base_url).rstrip("/")
        told = tilejson(one.metadata, one.name, one.zooms, address, pictured=one.is_lineage)
        return document(request, told)

    def tile(self, request: Request) -> Response:
        """Send a tile as it is stored, or the picture of a lineage tile."""
        one = self._served(request)
        tile, suffix = queries.tile(request, one)
        if suffix == "png" and one.is_lineage:
            picture = pictures.lineage_picture(one, tile)
            return self._sent(request, one, tile, picture, "image/png")
        return self._sent(request, one, tile, one.reader.read(tile), _media_type(one, suffix))

    def surface(self, request: Request) -> Response:
        """Send a terrain tile without gaps."""
        one = self._terrain(request)
        tile, suffix = queries.tile(request, one)
        media_type = _media_type(one, suffix)
        data = self._surface(weakref.ref(one), tile)
        return self._sent(request, one, tile, data, media_type)

    def gaps(self, request: Request) -> Response:
        """Send where a surface is invented: what no source has."""
        one = self._terrain(request)
        color = queries.color(request)
        tile, suffix = queries.tile(request, one)
        if suffix != "png":
            raise HTTPException(404, "gaps are drawn as .png")
        picture = pictures.gaps_picture(one, self._lineage(one), tile, color)
        return self._sent(request, one, tile, picture, "image/png")

    def at(self, request: Request) -> Response:
        """Tell what is at a position."""
        one, (lon, lat), zoom = self._served(request), queries.position(request), queries.zoom(request)
        companion = self._lineage(one)
        report, *_ = place.at([one.path], lon, lat, zoom, companion.path if companion else None)
        told = asdict(report)
        for key, path in (("archive", report.archive), ("lineage", report.lineage)):
            told[key] = path and path.name
        return document(request, told)

    def legend(self, request: Request) -> Response:
        """Tell what the colours of an archive's lineage mean."""
        one = self._served(request)
        found = one if one.is_lineage else self._lineage(one)
        entries = lineage.legend(found.metadata) if found else ()
        return document(request, [asdict(entry) for entry in entries])

    def relief(self, request: Request) -> Response:
        """Tell the heights of a place, for its colours."""
        one, box = self._terrain(request), queries.box(request)
        return document(request, asdict(pictures.relief(one, self._lineage(one), box)))

    def _served(self, request: Request) -> Served:
        return self._found(request.path_params["name"])

    def _found(self, name: str) -> Served:
        """Return the archive of a name as its file is now. Raises HTTPException."""
        try:
            found = self._shelf.find(name)
        except FusiError as error:
            raise refusal(error) from error
        if found is None:
            raise HTTPException(404, f"no archive {name!r} is served; /archives.json lists them")
        return found

    def _lineage(self, one: Served) -> Served | None:
        """Return the lineage of a terrain archive, None without one. Raises HTTPException, as `_found`."""
        try:
            return self._shelf.lineage_of(one) if one.is_terrain else None
        except FusiError as error:
            raise refusal(error) from error

    def _terrain(self, request: Request) -> Served:
        one = self._served(request)
        if not one.is_terrain:
            raise HTTPException(404, f"{one.name} is no terrain: its metadata does not state terrarium")
        return one

    def _sent(
        self, request: Request, one: Served, tile: Tile, data: bytes | None, media_type: str
    ) -> Response:
        """Return a tile's bytes, or what stands for a missing one: `?missing=` or the server's own."""
        if data is None:
            if queries.missing(request, self._missing) == 204:
                return Response(status_code=204, headers={"Cache-Control": "no-cache"})
            raise HTTPException(404, f"{one.name} has no tile {tile}")
        gzipped = media_type == _MEDIA_TYPES["pbf"] and data[:2] == b"\x1f\x8b"
        return content(request, data, media_type, {"Content-Encoding": "gzip"} if gzipped else None)

    def _listed(self, one: Served) -> dict[str, object]:
        companion = None
        with _left_out():
            companion = self._lineage(one)
        return {
            "name": one.name,
            "title": one.metadata.name or one.name,
            "tilejson": f"{quote(one.name, safe='')}.json",
            "file": f"archives/{quote(one.file, safe='')}",
            "encoding": one.metadata.encoding,
            "lineage": companion.name if companion else None,
            "gaps": one.is_terrain and (companion is not None or "nodata" not in one.metadata.extra),
        }


@contextmanager
def _left_out() -> Iterator[None]:
    """Leave out of a list what is gone or damaged, but not what only cannot be opened just now."""
    try:
        yield
    except HTTPException as error:
        if error.status_code == 503:
            raise


def _surface(one: weakref.ref[Served], tile: Tile) -> bytes | None:
    """Return a surface; what is kept of it does not keep the archive open."""
    served = one()
    assert served is not None, "the request holds it"
    return pictures.surface(served, tile)


def _media_type(one: Served, suffix: str) -> str:
    """Return the type of an archive's tiles. Raises HTTPException 404 where they do not end in `suffix`."""
    if suffix != extension(one.metadata):
        raise HTTPException(404, f"tiles of {one.name} end in .{extension(one.metadata)}")
    return _MEDIA_TYPES.get(suffix, _BYTES)
