"""The plan of a layer as a page: every block by step and status, in one file that needs no network."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fusi_pipeline.errors import OutputExists
from fusi_pipeline.tiles.files import replacing
from layer_generation.advance import Advance
from layer_generation.camera import Geometry, geometry_json
from layer_generation.layer_config import LayerConfig, read_layer
from layer_generation.map_picture import map_picture
from layer_generation.progress import STATUSES, BlockRow, Progress
from layer_generation.quadrants import QuadrantStore

FILENAME = "debug_map.html"
SOURCES = Path(__file__).with_name("page") / "src"
STATIC = Path(__file__).with_name("static")
"""Where the build leaves Leaflet (see `pages.mjs`)."""
MOST_PICTURED = 6000
"""Quadrants of which a picture is put under the blocks without being asked for."""
_SHOWN_STATUSES = (*STATUSES, "blocked")
_TEXT_CHARS = 500
_MARK = '<meta name="generator" content="fusi layer debug-map">'


@dataclass(frozen=True, slots=True)
class DebugMapReport:
    """What was written."""

    path: Path
    blocks: int
    bytes: int
    leaflet: bool
    """Whether Leaflet is in it; without, the page draws its map itself."""
    picture: bool
    """Whether a picture of the map lies under the blocks."""


def write_debug_map(
    layer_dir: Path, output: Path, *, picture: bool | None = None, overwrite: bool = False
) -> Generator[Advance, None, DebugMapReport]:
    """Write the page of a layer, absent or complete.

    `picture` tells whether the map's own pictures lie under the blocks; None for
    where that takes seconds. Raises LayerMissing, MapMissing, MapUnreadable,
    OutputExists for a file that is no such page.
    """
    if output.exists() and not overwrite and not _is_page(output):
        raise OutputExists(output)
    config = read_layer(layer_dir)
    with Progress(layer_dir) as progress:
        blocks = list(progress.blocks())
        blocked = progress.blocked()
        edges = progress.edges()
        counts = progress.counts()
    with QuadrantStore(config.map_folder(layer_dir)) as store:
        geometry, terrain = store.geometry, store.fact("terrain")
        few = picture is None and len(store.coordinates()) <= MOST_PICTURED
        drawn = (yield from map_picture(store, config)) if picture or few else None
    credit = str(terrain.get("attribution") or "") if isinstance(terrain, dict) else ""
    document = {
        **_described(config, geometry, credit),
        **_columns(blocks, blocked),
        "waits": _unmet(blocks, edges.tolist()),
        "stats": {str(step): found for step, found in counts.items()},
        "picture": None
        if drawn is None
        else {"src": f"data:image/webp;base64,{base64.b64encode(drawn.data).decode()}", "box": drawn.box},
    }
    leaflet = _leaflet()
    page = _page(config.name, document, leaflet)
    with replacing(output) as scratch:
        scratch.write_text(page, encoding="utf-8")
    yield Advance("write", len(blocks), len(blocks), "blocks")
    return DebugMapReport(output, len(blocks), output.stat().st_size, leaflet is not None, drawn is not None)


def _described(config: LayerConfig, geometry: Geometry, credit: str) -> dict[str, object]:
    return {
        "name": config.name,
        "source": config.source_layer,
        "geometry": geometry_json(geometry),
        "credit": re.sub(r"<[^>]*>", "", html.unescape(credit)),
        "statuses": _SHOWN_STATUSES,
    }


def _columns(blocks: list[BlockRow], blocked: set[int]) -> dict[str, object]:
    """Return what is known of the blocks, a list for each fact; `kind` is step, status and size in one."""
    texts, models = _Numbers(), _Numbers()
    number = {name: place for place, name in enumerate(_SHOWN_STATUSES)}
    box = None
    if blocks:
        box = (
            min(one.x for one in blocks),
            min(one.y for one in blocks),
            max(one.x + one.width for one in blocks) - 1,
            max(one.y + one.height for one in blocks) - 1,
        )
    return {
        "box": box,
        "id": [one.id for one in blocks],
        "x": [one.x for one in blocks],
        "y": [one.y for one in blocks],
        "kind": [
            one.step * 100
            + number["blocked" if one.id in blocked else one.status] * 10
            + (one.width - 1)
            + (one.height - 1) * 2
            for one in blocks
        ],
        "attempts": [one.attempts for one in blocks],
        "model": [models.of(one.model_name) for one in blocks],
        "text": [texts.of(one.error_message) for one in blocks],
        "reason": [texts.of(one.reason) for one in blocks],
        "texts": texts.known(),
        "models": models.known(),
    }


class _Numbers:
    """Texts that occur again and again, by number; -1 for none."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}

    def of(self, text: str | None) -> int:
        """Return the number of a text, cut to a readable length."""
        return -1 if not text else self._places.setdefault(text[:_TEXT_CHARS], len(self._places))

    def known(self) -> list[str]:
        """Return the texts by number."""
        return list(self._places)


def _unmet(blocks: list[BlockRow], edges: Iterable[tuple[int, int]]) -> dict[int, list[int]]:
    """Return, by place, the places of the blocks that each unfinished block still waits for."""
    places = {one.id: place for place, one in enumerate(blocks)}
    waits: dict[int, list[int]] = {}
    for block, other in edges:
        place, before = places[block], places[other]
        if "complete" not in (blocks[place].status, blocks[before].status):
            waits.setdefault(place, []).append(before)
    return waits


def _leaflet() -> tuple[str, str] | None:
    """Return Leaflet's script and style sheet, None where they are not bundled."""
    try:
        script = (STATIC / "leaflet.js").read_text(encoding="utf-8")
        sheet = (STATIC / "leaflet.css").read_text(encoding="utf-8")
        terms = (STATIC / "leaflet-LICENSE.txt").read_text(encoding="utf-8")
    except OSError:
        return None
    script = re.sub(r"^//# sourceMappingURL=.*$", "", script, flags=re.M)
    return f"/*\n{terms}*/\n{script}", re.sub(r"url\(images/[^)]*\)", "none", sheet)


def _page(name: str, document: Mapping[str, object], leaflet: tuple[str, str] | None) -> str:
    scripts = [(SOURCES / "debug_map.js").read_text(encoding="utf-8")]
    sheets = [(SOURCES / "debug_map.css").read_text(encoding="utf-8")]
    if leaflet is not None:
        scripts.insert(0, leaflet[0])
        sheets.insert(0, leaflet[1])
    known = {
        "title": html.escape(f"{name}: blocks"),
        "style": "\n".join(sheets),
        "policy": " ".join(f"'sha256-{_digest(one)}'" for one in scripts),
        "data": json.dumps(document, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"),
        "scripts": "\n".join(f"<script>{one}</script>" for one in scripts),
    }
    template = (SOURCES / "debug_map.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: known[match[1]], template)


def _digest(script: str) -> str:
    """Return the hash by which the page's policy lets a script run, and no other."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _is_page(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8") as file:
            return _MARK in file.read(1000)
    except (OSError, UnicodeDecodeError):
        return False
