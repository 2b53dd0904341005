"""pmtiles.js, which map pages use, reads our archives as we do.

`npm ci --prefix tests/js` brings it; without it the test is skipped.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from fusi_pipeline.tiles.archive import ArchiveMetadata
from fusi_pipeline.tiles.grid import Bounds, Tile, children
from fusi_pipeline.tiles.pmtiles import tile_ids
from fusi_pipeline.tiles.pmtiles_writer import PMTilesWriter

JS = Path(__file__).parent / "js"

pytestmark = [
    pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed"),
    pytest.mark.skipif(
        not (JS / "node_modules" / "pmtiles").is_dir(),
        reason="pmtiles.js is not installed: npm ci --prefix tests/js",
    ),
]


@pytest.mark.parametrize("leaf_entries", [None, 16], ids=["root only", "with leaves"])
def test_pmtiles_js_reads_every_tile_and_the_metadata(tmp_path: Path, leaf_entries: int | None) -> None:
    tiles = [Tile(0, 0, 0)]
    for _ in range(3):
        tiles += [child for tile in tiles[-(4**_) :] for child in children(tile)]
    tiles.sort(key=lambda tile: int(tile_ids(tile.z, [tile.x], [tile.y])[0]))
    contents = {tile: f"tile {tile}".encode() * 3 for tile in tiles}
    metadata = ArchiveMetadata(
        name="everywhere",
        minzoom=0,
        maxzoom=3,
        bounds=Bounds(-180, -85, 180, 85),
        attribution="© somebody",
    )
    path = tmp_path / "everywhere.pmtiles"
    with PMTilesWriter(path, metadata, len(tiles), leaf_entries=leaf_entries) as writer:
        for tile in tiles:
            writer.write(tile, contents[tile])
    absent = "4/0/0"

    answer = subprocess.run(
        ["node", str(JS / "read.mjs"), str(path), *map(str, tiles), absent],
        check=True,
        capture_output=True,
        text=True,
    )
    found = json.loads(answer.stdout)

    assert found["digests"] == {
        **{str(tile): hashlib.sha256(data).hexdigest() for tile, data in contents.items()},
        absent: None,
    }
    header = found["header"]
    assert header["clustered"] is True
    assert (header["tileType"], header["tileCompression"]) == (4, 1)
    assert (header["minZoom"], header["maxZoom"]) == (0, 3)
    assert header["numAddressedTiles"] == len(tiles)
    assert found["metadata"]["encoding"] == "terrarium"
    assert found["metadata"]["attribution"] == "© somebody"
