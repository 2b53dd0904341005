"""Folders, configuration and the index, without opening a raster."""

from __future__ import annotations

import math
import os
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusi_pipeline import sources
from fusi_pipeline.errors import SourceConfigInvalid, SourceIndexInvalid, SourceMissing, UsageError
from fusi_pipeline.sources import BrokenFile, SourceConfig, SourceFile, SourceIndex, write_index
from fusi_pipeline.tiles.grid import HALF_WORLD_M, XYBounds

CONFIG = SourceConfig(name="test")


def a_file(filename: str, box: XYBounds, **changes: object) -> SourceFile:
    file = SourceFile(
        filename=filename,
        size_bytes=10,
        mtime_ns=1_700_000_000_000_000_001,
        fingerprint="00" * 32,
        crs="WKT",
        transform=(1.0, 0.0, 5.0, 0.0, -1.0, 7.0),
        width=10,
        height=20,
        dtype="int16",
        nodata=None,
        scale=1.0,
        offset=0.0,
        has_mask=False,
        valid_pixels=200,
        minimum=-1.5,
        maximum=9.25,
        box=box,
        maxzoom=12,
    )
    return replace(file, **changes)  # type: ignore[arg-type]


def write_toml(folder: Path, text: str) -> Path:
    (folder / "source.toml").write_text(text, encoding="utf-8")
    return folder


def test_config_defaults_to_the_name_of_the_folder(tmp_path: Path) -> None:
    assert sources.read_config(tmp_path) == SourceConfig(name=tmp_path.name)


@pytest.mark.parametrize("spelling", ["license", "licence"])
def test_config_reads_every_key(tmp_path: Path, spelling: str) -> None:
    text = f"""
        name = "Näme"
        attribution = "© A"
        {spelling} = "CC0"
        website = "https://example.org"
        resampling = "cubicspline"
        nodata = -9999
        unit_factor = 0.3048
        offset_m = -1
        max_zoom = 14
        vertical_datum = "EGM2008"
    """
    assert sources.read_config(write_toml(tmp_path, text)) == SourceConfig(
        name="Näme",
        attribution="© A",
        license="CC0",
        website="https://example.org",
        resampling="cubicspline",
        nodata=-9999.0,
        unit_factor=0.3048,
        offset_m=-1.0,
        max_zoom=14,
        vertical_datum="EGM2008",
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("colour = 1", "unknown key 'colour'"),
        ("name = 3", "name = 3: expected some text"),
        ("name = ''", "expected some text"),
        ("website = true", "expected text"),
        ("resampling = 'lanczos'", "expected one of bilinear"),
        ("nodata = '-9999'", "expected a number"),
        ("nodata = true", "expected a number"),
        ("unit_factor = 0", "other than 0"),
        ("unit_factor = inf", "other than 0"),
        ("offset_m = nan", "a number of metres"),
        ("max_zoom = 14.5", "a whole number from 0"),
        ("max_zoom = 99", "a whole number from 0"),
        ("max_zoom = false", "a whole number from 0"),
        ("license = 'a'\nlicence = 'b'", "keep one"),
        ("name = ", "is not TOML"),
    ],
)
def test_config_that_cannot_be_used_is_named(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(SourceConfigInvalid, match=r"source\.toml") as caught:
        sources.read_config(write_toml(tmp_path, text))
    assert told in str(caught.value)
    assert caught.value.exit_code == 2


def test_config_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "source.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SourceConfigInvalid, match="cannot be read"):
        sources.read_config(tmp_path)


def test_sources_are_folders_with_rasters_or_a_config(tmp_path: Path) -> None:
    for name in ("b/x.tif", "a/deep/y.HGT", "c/source.toml", "notes/readme.md", ".hidden/x.tif", "loose.tif"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert sources.find_sources(tmp_path) == ["a", "b", "c"]
    assert sources.find_sources(tmp_path / "none") == []


def test_source_folder_by_name(tmp_path: Path) -> None:
    (tmp_path / "alps").mkdir()
    (tmp_path / "alps" / "a.tif").touch()
    assert sources.source_folder(tmp_path, "alps") == tmp_path / "alps"
    with pytest.raises(SourceMissing, match="it holds alps"):
        sources.source_folder(tmp_path, "andes")


@pytest.mark.parametrize("name", ["", ".", "..", ".git", "a/b", "/etc", "a\\b", "a\0b"])
def test_names_that_leave_the_store_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="source name"):
        sources.source_folder(tmp_path, name)


def test_raster_files_leave_out_sidecars_and_hidden_files(tmp_path: Path) -> None:
    rasters = ["B.TIF", "a.tif", "grid/w001001.adf", "sub/c.vrt", "x.bil", "y.dt2", "z.nc"]
    others = [
        *("bounds.csv", "source.toml", "a.tif.aux.xml", "a.tif.ovr", "a.tif.msk", "a.tfw", "a.prj", "x.hdr"),
        *(
            "readme.TXT",
            "b.json",
            "old.bak",
            "grid/hdr.adf",
            ".hidden.tif",
            ".git/d.tif",
            "sub/e.zip",
            "q.png",
        ),
    ]
    for name in rasters + others:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.relative_to(tmp_path).as_posix() for path in sources.raster_files(tmp_path)] == rasters


def test_raster_entries_know_their_sidecars_and_survive_loops(tmp_path: Path) -> None:
    for name in ("a.tif", "a.tif.aux.xml", "a.tfw", "b.tif"):
        (tmp_path / name).touch()
    (tmp_path / "loop").symlink_to(tmp_path)
    entries = sources.raster_entries(tmp_path)
    assert [(entry.filename, entry.sidecars) for entry in entries] == [
        ("a.tif", ("a.tfw", "a.tif.aux.xml")),
        ("b.tif", ()),
    ]


@pytest.mark.parametrize(
    ("nodata", "where"),
    [
        (None, [1, 2, 3]),
        (math.nan, [1, 2, 3]),
        (-9999.0, [1, 2, 3, 4]),
        (-3.4e38, [1, 2, 3, 5]),
        (0.1, [0, 1, 2, 3]),
    ],
)
def test_missing_numbers(nodata: float | None, where: list[int]) -> None:
    numbers = np.array([0.1, np.nan, np.inf, -np.inf, -9999, -3.4028235e38], np.float32)
    absent = sources.missing(numbers, nodata)
    assert absent is not None
    assert np.flatnonzero(absent).tolist() == where


@pytest.mark.parametrize("nodata", [-9999.0, 256.0, 0.5, math.nan, -3.4e38, math.inf])
def test_nodata_that_the_type_cannot_hold_matches_nothing(nodata: float) -> None:
    assert sources.missing(np.arange(256).astype(np.uint8), nodata) is None


def test_heights_in_metres() -> None:
    file = a_file("a.tif", XYBounds(0, 0, 1, 1), nodata=-1.0, scale=0.1, offset=5.0)
    raw = np.array([[0, 10, -1, 20]], np.int16)
    mask = np.array([[255, 255, 255, 0]], np.uint8)
    heights = sources.heights_m(raw, mask, file, unit_factor=0.5, offset_m=100.0)
    np.testing.assert_allclose(heights, [[102.5, 103.0, np.nan, np.nan]])
    assert heights.dtype == np.float32


def test_index_returns_what_was_written(tmp_path: Path) -> None:
    plain = a_file("b.tif", XYBounds(0, 0, 10, 10), nodata=math.nan, minimum=math.nan, maximum=math.nan)
    parts = (("b.vrt", 1, 2), ("../x.tif", 3, 4))
    other = a_file("a.tif", XYBounds(-5, 3, 4, 12), parts=parts, warnings=("odd",), nodata=-1e38, maxzoom=15)
    broken = BrokenFile(filename="c.tif", problem="no", size_bytes=1, mtime_ns=2)
    path = tmp_path / "x" / "it's an index?.sqlite"
    write_index(path, iter([plain, other]), [broken], name="n", config=CONFIG)
    with SourceIndex(path) as index:
        assert index.name == "n"
        assert index.config_digest == sources.config_digest(CONFIG)
        assert index.count() == 2
        assert index.maxzoom() == 15
        assert index.bounds() == XYBounds(-5, 0, 10, 12)
        assert index.broken() == [("c.tif", "no")]
        assert [repr(file) for file in index.files()] == [repr(other), repr(plain)]
        assert index.file("a.tif") == other
        assert index.file("none") is None
    assert [item.name for item in path.parent.iterdir()] == [path.name]


def test_touching_finds_what_overlaps_also_across_the_antimeridian(tmp_path: Path) -> None:
    edge = HALF_WORLD_M
    files = [
        a_file("crossing", XYBounds(edge - 100, 0, -edge + 100, 100)),
        a_file("east", XYBounds(edge - 50, 0, edge, 100)),
        a_file("middle", XYBounds(-10, 0, 10, 100)),
        a_file("neighbour", XYBounds(10, 0, 30, 100)),
    ]
    write_index(tmp_path / "i", files, name="n", config=CONFIG)
    with SourceIndex(tmp_path / "i") as index:

        def names(*box: float) -> list[str]:
            return [file.filename for file in index.touching(XYBounds(*box))]

        assert names(-10, 0, 10, 100) == ["middle"]
        assert names(9, 0, 11, 1) == ["middle", "neighbour"]
        assert names(-edge, 10, -edge + 10, 20) == ["crossing"]
        assert names(edge - 10, 10, edge, 20) == ["crossing", "east"]
        assert names(edge - 10, 10, -edge + 10, 20) == ["crossing", "east"]
        assert names(-10, 100, 10, 200) == []
        assert names(-edge, -edge, edge, edge) == ["crossing", "east", "middle", "neighbour"]


def test_many_files_are_searched_by_the_rtree(tmp_path: Path) -> None:
    side = 142
    boxes = {
        f"{row:03}-{col:03}": XYBounds(col * 100.0, row * 100.0, col * 100.0 + 100, row * 100.0 + 100)
        for row in range(side)
        for col in range(side)
    }
    write_index(tmp_path / "i", (a_file(name, box) for name, box in boxes.items()), name="n", config=CONFIG)
    with SourceIndex(tmp_path / "i") as index:
        assert index.count() == side * side > 20_000
        window = XYBounds(5050, 7000, 5150, 7101)
        found = [file.filename for file in index.touching(window)]
        assert found == sorted(name for name, box in boxes.items() if box.intersects(window))
        files = index.files()
        assert next(files).filename == "000-000"
    with sqlite3.connect(tmp_path / "i") as connection:
        box = {"left": 0, "right": 1, "bottom": 0, "top": 1}
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sources._TOUCHING}", box)]
        assert plan[0].startswith("SCAN boxes VIRTUAL TABLE INDEX 2:")
        assert all(step.startswith("SEARCH") for step in plan[1:])
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sources._ROWS} ORDER BY filename")]
        assert not any("TEMP B-TREE" in step for step in plan)
    connection.close()


def test_union_crosses_the_antimeridian_only_where_the_files_meet_there() -> None:
    edge = HALF_WORLD_M
    west, east = XYBounds(-edge, 0, -edge + 10, 5), XYBounds(edge - 10, 1, edge, 6)
    inner = XYBounds(-100, 0, 100, 1)
    assert sources.union([west]) == west
    assert sources.union([west, inner]) == XYBounds(-edge, 0, 100, 5)
    assert sources.union([west, east]) == XYBounds(edge - 10, 0, -edge + 10, 6)
    assert sources.union([XYBounds(edge - 9, 0, -edge + 9, 1), inner]) == XYBounds(-100, 0, -edge + 9, 1)
    apart = [XYBounds(-edge + 50, 0, -edge + 60, 1), XYBounds(edge - 60, 0, edge - 50, 1)]
    assert sources.union(apart) == XYBounds(-edge + 50, 0, edge - 50, 1)
    world = XYBounds(-edge, -edge, edge, edge)
    assert sources.union([world, west, east]) == world


spans = st.tuples(st.floats(-1, 1), st.floats(0.001, 0.5), st.floats(-1, 0.9))


@given(st.lists(spans, min_size=1, max_size=8))
def test_union_covers_every_box(places: list[tuple[float, float, float]]) -> None:
    boxes = []
    for start, width, low in places:
        stop = start + width if start + width <= 1 else start + width - 2
        boxes.append(
            XYBounds(
                start * HALF_WORLD_M, low * HALF_WORLD_M, stop * HALF_WORLD_M, (low + 0.1) * HALF_WORLD_M
            )
        )
    whole = sources.union(boxes)
    for part in (part for box in boxes for part in box.parts()):
        assert whole.bottom <= part.bottom <= part.top <= whole.top
        assert any(piece.left <= part.left <= part.right <= piece.right for piece in whole.parts())


def test_index_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "i"
    with pytest.raises(SourceIndexInvalid, match="no index"):
        SourceIndex(path)
    path.write_bytes(b"not a database, by far" * 100)
    with pytest.raises(SourceIndexInvalid, match="is not an index"):
        SourceIndex(path)
    path.unlink()
    write_index(path, [a_file("a", XYBounds(0, 0, 1, 1))], name="n", config=CONFIG)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 0")
    connection.close()
    with pytest.raises(SourceIndexInvalid, match="version 0"):
        SourceIndex(path)
    assert not sources.is_current(tmp_path, path)


def test_interrupted_index_is_absent(tmp_path: Path) -> None:
    path = tmp_path / "i"

    def files() -> list[SourceFile]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_index(path, (file for _ in [0] for file in files()), name="n", config=CONFIG)
    assert list(tmp_path.iterdir()) == []


def entries_as_files(folder: Path) -> list[SourceFile]:
    box = XYBounds(0, 0, 1, 1)
    return [
        a_file(
            entry.filename,
            box,
            size_bytes=entry.size_bytes,
            mtime_ns=entry.mtime_ns,
            parts=tuple(sources.part_state(folder, name) for name in (*entry.sidecars, "../outside.tif")),
        )
        for entry in sources.raster_entries(folder)
    ]


def test_index_is_current_until_something_changes(tmp_path: Path) -> None:
    folder, path = tmp_path / "source", tmp_path / "i"
    folder.mkdir()
    for name in ("a.tif", "b.tif", "b.tif.aux.xml", "../outside.tif"):
        (folder / name).write_text("x", encoding="utf-8")

    def again() -> None:
        config = sources.read_config(folder)
        write_index(path, entries_as_files(folder), name="n", config=config)
        assert sources.is_current(folder, path)

    assert not sources.is_current(folder, path)
    changes: list[Callable[[], object]] = [
        lambda: (folder / "c.tif").touch(),
        lambda: (folder / "c.tif").unlink(),
        lambda: (folder / "a.tif").write_text("xy", encoding="utf-8"),
        lambda: os.utime(folder / "a.tif", ns=(1, 1)),
        lambda: (folder / "a.tfw").touch(),
        lambda: (folder / "b.tif.aux.xml").write_text("xyz", encoding="utf-8"),
        lambda: (folder / "b.tif.aux.xml").unlink(),
        lambda: (folder / "../outside.tif").unlink(),
        lambda: write_toml(folder, "nodata = 0"),
    ]
    for change in changes:
        again()
        change()
        assert not sources.is_current(folder, path)
    again()
    (folder / "readme.txt").touch()
    (folder / "bounds.csv").touch()
    assert sources.is_current(folder, path)
