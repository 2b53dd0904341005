"""What a merge is told of each archive, on the command line or in a small TOML file."""

from __future__ import annotations

import hashlib
import math
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeGuard

from fusi_pipeline.errors import InputOptionsInvalid, UsageError
from fusi_pipeline.tiles.grid import MAX_ZOOM
from fusi_pipeline.tiles.terrarium import DECODERS

_TABLE = "input"
_TEXTS = ("encoding", "name", "attribution", "license", "website", "vertical_datum")
_MOST_OFFSET_M = 20_000
_EXACT_M = 1 / 512
"""How far a decoded height may be from a value given by itself: half of Terrarium's finest step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputOptions:
    """One archive of a merge. Empty texts: what the archive itself says."""

    path: Path
    encoding: str = ""
    """`terrarium` or `mapbox`."""
    missing: tuple[tuple[float, float], ...] = ()
    """Ranges of stored heights, in metres and both ends included, that stand for no height."""
    cut_line: Path | None = None
    """GeoJSON of areas; pixels whose centre is in none of them are missing."""
    offset_m: float = 0.0
    """Added to every height."""
    max_zoom: int | None = None
    """Zoom above which the archive's tiles are not used; its tiles of this zoom are enlarged instead."""
    name: str = ""
    attribution: str = ""
    license: str = ""
    website: str = ""
    vertical_datum: str = ""

    @property
    def changes_heights(self) -> bool:
        """Whether a pixel may come out otherwise than it is stored."""
        return bool(self.missing or self.cut_line or self.offset_m)

    def digest(self) -> bytes:
        """Return a hash of what of this decides heights, apart from which tiles are used."""
        cut = b"" if self.cut_line is None else self.cut_line.read_bytes()
        decisive = (self.encoding, self.missing, self.offset_m)
        return hashlib.blake2b(repr(decisive).encode() + b"\0" + cut, digest_size=16).digest()


def inputs_from(archives: Sequence[Path], listing: Path | None) -> list[InputOptions]:
    """Return the inputs of a merge, in order of precedence.

    Without archives those of the file, in its order; with archives those, and
    what the file says of them. Raises InputOptionsInvalid, UsageError.
    """
    listed = [] if listing is None else read_inputs(listing)
    if not archives:
        if not listed:
            raise UsageError("nothing to merge: name archives, or a file with --inputs that lists some")
        return listed
    known = {_identity(one.path): one for one in listed}
    if len(known) < len(listed):
        raise InputOptionsInvalid(listing, "tells of one archive twice; leave one of the tables out")
    wanted = [_identity(path) for path in archives]
    for one in listed:
        if _identity(one.path) not in wanted:
            raise InputOptionsInvalid(
                listing,
                f"tells of {one.path}, which is not among the archives named; leave it out or name it",
            )
    return [known.get(key) or InputOptions(path=path) for key, path in zip(wanted, archives, strict=True)]


def _identity(path: Path) -> str:
    return os.path.realpath(path)


def read_inputs(listing: Path) -> list[InputOptions]:
    """Return the inputs that a TOML file lists; paths in it are relative to it.

    Raises InputOptionsInvalid.
    """
    try:
        document = tomllib.loads(listing.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputOptionsInvalid(listing, error.strerror or str(error)) from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputOptionsInvalid(listing, f"is no TOML ({error})") from error
    tables = document.pop(_TABLE, [])
    if document:
        raise InputOptionsInvalid(listing, f"{next(iter(document))!r}: expected [[input]] tables only")
    if not isinstance(tables, list) or not all(isinstance(one, dict) for one in tables):
        raise InputOptionsInvalid(listing, "expected [[input]] tables, with two brackets")
    return [_input(listing, number, table) for number, table in enumerate(tables, 1)]


def _input(listing: Path, number: int, table: Mapping[str, Any]) -> InputOptions:
    names = [field.name for field in fields(InputOptions)]
    for key in table:
        if key not in names:
            raise InputOptionsInvalid(listing, f"input {number}: {key!r}: expected one of {', '.join(names)}")

    def fail(key: str, expected: str) -> InputOptionsInvalid:
        return InputOptionsInvalid(listing, f"input {number}: {key} = {table[key]!r}: expected {expected}")

    given: dict[str, Any] = dict(table)
    if not isinstance(given.get("path"), str) or not given["path"]:
        raise InputOptionsInvalid(listing, f"input {number}: expected a path, a text")
    given["path"] = listing.parent / given["path"]
    for key in _TEXTS:
        if key in given and not isinstance(given[key], str):
            raise fail(key, "a text")
    if given.get("encoding", "terrarium") not in DECODERS:
        raise fail("encoding", " or ".join(DECODERS))
    if "cut_line" in given:
        if not isinstance(given["cut_line"], str):
            raise fail("cut_line", "the path of a GeoJSON file")
        given["cut_line"] = listing.parent / given["cut_line"]
    if "offset_m" in given:
        if not _is_number(given["offset_m"]) or abs(given["offset_m"]) > _MOST_OFFSET_M:
            raise fail("offset_m", f"metres as a number, {_MOST_OFFSET_M} at most")
        given["offset_m"] = float(given["offset_m"])
    if "max_zoom" in given and not (type(given["max_zoom"]) is int and 0 <= given["max_zoom"] <= MAX_ZOOM):
        raise fail("max_zoom", f"a whole number of 0..{MAX_ZOOM}")
    if "missing" in given:
        ranges = _ranges(given["missing"])
        if ranges is None:
            raise fail("missing", "a list of numbers and of [low, high] pairs, in metres")
        given["missing"] = ranges
    return InputOptions(**given)


def _ranges(value: object) -> tuple[tuple[float, float], ...] | None:
    """Return ranges of heights, or None where a value is none."""
    found = []
    for one in value if isinstance(value, list) else [None]:
        if _is_number(one):
            found.append((float(one) - _EXACT_M, float(one) + _EXACT_M))
        elif isinstance(one, list) and len(one) == 2 and all(map(_is_number, one)) and one[0] <= one[1]:
            found.append((float(one[0]), float(one[1])))
        else:
            return None
    return tuple(found)


def _is_number(value: object) -> TypeGuard[float]:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
