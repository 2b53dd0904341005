"""The server: tiles, TileJSON, archives by ranges, pictures, and who may ask."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import mercantile
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pmtiles.reader import Reader

from fusi_pipeline import lineage
from fusi_pipeline.at import at
from fusi_pipeline.commands.serving import Origin
from fusi_pipeline.errors import AddressUnavailable, ArchiveMissing, ArchiveUnreadable
from fusi_pipeline.tiles import grid, terrarium
from fusi_pipeline.tiles.grid import Bounds, Tile
from fusi_pipeline.tiles.image import decode_webp
from fusi_pipeline.tiles.open import open_archive
from fusi_pipeline.viewer import ranges, server
from fusi_pipeline.viewer.app import application
from fusi_pipeline.viewer.guard import is_loopback
from fusi_pipeline.viewer.shelf import Shelf
from fusi_pipeline.viewer.tilejson import tilejson, unwrapped
from tests import served
from tests.command import Fusi, fusi  # noqa: F401 - a fixture

HOST = "http://127.0.0.1:8080"
IPV6 = "[::1]"
ZOOMS = range(4, 8)
INSIDE = grid.tile_at(7.0, 44.5, 7)
"""A tile of the highest zoom that holds terrain."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    served.write_merged(folder, ZOOMS)
    served.write_source(folder, ZOOMS)
    return folder


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[httpx.Client]:
    with serving(folder / "hills.pmtiles", folder / "source.mbtiles") as client:
        yield client


@contextmanager
def serving(*paths: Path, **options: Any) -> Iterator[httpx.Client]:
    with Shelf(paths) as shelf:
        transport = served.InProcess(application(shelf, **options))
        with httpx.Client(transport=transport, base_url=HOST) as client:
            yield client


@contextmanager
def running(*paths: Path, **options: Any) -> Iterator[str]:
    """Serve archives from a real socket; yield the address."""
    with Shelf(paths) as shelf:
        listener = server.listen("127.0.0.1", 0)
        ready = threading.Event()
        instance = server.Server(application(shelf, **options), ready.set)
        thread = threading.Thread(target=instance.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            assert ready.wait(20)
            yield server.url_of(listener).rstrip("/")
        finally:
            instance.should_exit = True
            thread.join(20)
            listener.close()
        assert not thread.is_alive()


# Names


def test_archives_are_named_by_their_files_and_the_lineage_beside_one_is_served_too(
    client: httpx.Client,
) -> None:
    assert client.get("/health").json() == {"status": "ok", "archives": ["hills", "source", "hills.lineage"]}
    listed = {one["name"]: one for one in client.get("/archives.json").json()}
    assert listed["hills"] == {
        "name": "hills", "title": "Hills", "tilejson": "hills.json", "file": "archives/hills.pmtiles",
        "encoding": "terrarium", "lineage": "hills.lineage", "gaps": True,
    }  # fmt: skip
    assert listed["source"]["lineage"] is None
    assert listed["source"]["gaps"] is True


def test_two_archives_of_one_stem_and_reserved_words_get_names_of_their_own(
    folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    paths = [folder / "hills.pmtiles", tmp_path / "other" / "hills.pmtiles", tmp_path / "archives.pmtiles"]
    for path in paths[1:]:
        shutil.copy(paths[0], path)
    with serving(*paths, paths[0]) as client:
        names = client.get("/health").json()["archives"]
        assert names == ["hills", "hills-2", "archives-2", "hills.lineage"]
        for name in names:
            told = client.get(f"/{name}.json").json()
            assert f"/{name}/" in told["tiles"][0]
        assert client.get("/archives/hills-2.pmtiles").content == paths[1].read_bytes()


def test_a_lineage_belongs_to_the_only_terrain_whatever_the_names(folder: Path, tmp_path: Path) -> None:
    terrain, sources = tmp_path / "a.pmtiles", tmp_path / "b.pmtiles"
    shutil.copy(folder / "hills.pmtiles", terrain)
    shutil.copy(folder / "hills.lineage.pmtiles", sources)
    with serving(terrain, sources) as client:
        assert client.get("/archives.json").json()[0]["lineage"] == "b"
    with serving(terrain, folder / "source.mbtiles", sources) as client:
        assert [one["lineage"] for one in client.get("/archives.json").json()] == [None] * 3


def test_names_with_unusual_letters_are_escaped(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "a b?ü.pmtiles"
    shutil.copy(folder / "hills.pmtiles", path)
    with serving(path) as client:
        (one,) = client.get("/archives.json").json()
        told = client.get(f"/{one['tilejson']}").json()
        url = told["tiles"][0].format(z=INSIDE.z, x=INSIDE.x, y=INSIDE.y)
        assert client.get(url).status_code == 200
        assert client.get(f"/{one['file']}").content == path.read_bytes()


def test_what_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArchiveMissing, match=r"nothing\.pmtiles"):
        Shelf([tmp_path / "nothing.pmtiles"])
    (tmp_path / "text.pmtiles").write_text("no archive")
    with pytest.raises(ArchiveUnreadable, match=r"text\.pmtiles"):
        Shelf([tmp_path / "text.pmtiles"])


# Tiles


@pytest.mark.parametrize(("name", "file"), [("hills", "hills.pmtiles"), ("source", "source.mbtiles")])
def test_every_tile_is_sent_as_it_is_stored(client: httpx.Client, folder: Path, name: str, file: str) -> None:
    with open_archive(folder / file) as reader:
        for z in reader.counts():
            for x, y in reader.coordinates(z).tolist():
                answer = client.get(f"/{name}/{z}/{x}/{y}.webp")
                assert answer.content == reader.read(Tile(z, x, y))
                assert answer.headers["content-type"] == "image/webp"


def test_a_tile_has_a_strong_tag_and_is_not_sent_twice(client: httpx.Client) -> None:
    path = f"/hills/{INSIDE}.webp"
    first = client.get(path)
    tag = first.headers["etag"]
    assert re.fullmatch(r'"[0-9a-f]+"', tag)
    assert first.headers["cache-control"] == "no-cache"
    for condition in (tag, f'"other", {tag}', f"W/{tag}", "*"):
        again = client.get(path, headers={"If-None-Match": condition})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert client.get(path, headers={"If-None-Match": '"other"'}).content == first.content
    assert client.get(f"/source/{INSIDE}.webp").headers["etag"] != tag


def test_head_answers_like_get_without_the_bytes(client: httpx.Client) -> None:
    for path in (f"/hills/{INSIDE}.webp", "/hills.json", "/archives/hills.pmtiles", "/", "/nothing.json"):
        whole, head = client.get(path), client.head(path)
        assert head.content == b""
        assert head.status_code == whole.status_code
        assert head.headers["content-length"] == str(len(whole.content))
        assert head.headers["content-type"] == whole.headers["content-type"]


@pytest.mark.parametrize("missing", [404, 204])
def test_a_tile_that_is_not_there(folder: Path, missing: int) -> None:
    with serving(folder / "hills.pmtiles", missing=missing) as client:
        absent = f"/hills/{Tile(7, 0, 0)}.webp"
        answer = client.get(absent)
        assert answer.status_code == missing
        assert answer.content == b"" if missing == 204 else "no tile 7/0/0" in answer.json()["error"]
        assert client.get(f"{absent}?missing=204").status_code == 204
        assert client.get(f"{absent}?missing=404").status_code == 404
        assert client.get(f"{absent}?missing=200").status_code == missing
        deeper = grid.children(INSIDE)[0]
        assert client.get(f"/hills/{deeper}.webp").status_code == 404
        assert client.get("/hills/3/4/2.webp").status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "hills/7/200/3.webp",
        "hills/7/3/200.webp",
        "hills/31/0/0.webp",
        "hills/-1/0/0.webp",
        "hills/7/1.5/2.webp",
        "hills/a/b/c.webp",
        f"hills/7/0/{'9' * 5000}.webp",
        f"hills/{INSIDE}.png",
        f"hills/{INSIDE}",
        "none/0/0/0.webp",
        f"hills.lineage/surface/{INSIDE}.webp",
        f"hills/gaps/{INSIDE}.webp",
        "static/nothing.js",
        "static/..%2Fapp.py",
        "archives/none.pmtiles",
        "archives/..%2Fhills.pmtiles",
        "none/at?lon=0&lat=0",
        "hills/none",
    ],
)
def test_what_there_is_not_is_a_404_with_a_reason(client: httpx.Client, path: str) -> None:
    answer = client.get(f"/{path}")
    assert answer.status_code == 404
    assert answer.json()["error"]


def test_other_methods_are_refused(client: httpx.Client) -> None:
    answer = client.post(f"/hills/{INSIDE}.webp")
    assert answer.status_code == 405
    assert answer.json()["error"]
    assert "GET" in answer.headers["allow"]


def test_a_tile_that_is_corrupt_is_an_error_by_name(tmp_path: Path) -> None:
    facts = served.metadata([7])
    path = served.write_mbtiles(tmp_path / "bad.mbtiles", {INSIDE: b"no image"}, facts)
    with serving(path) as client:
        assert client.get(f"/bad/{INSIDE}.webp").content == b"no image"
        answer = client.get(f"/bad/surface/{INSIDE}.webp")
        assert answer.status_code == 500
        assert str(INSIDE) in answer.json()["error"]


def test_many_threads_read_one_archive(folder: Path) -> None:
    with running(folder / "source.mbtiles", folder / "hills.pmtiles") as address:
        expected = {}
        for name, file in (("source", "source.mbtiles"), ("hills", "hills.pmtiles")):
            with open_archive(folder / file) as reader:
                for x, y in reader.coordinates(7).tolist():
                    expected[f"{address}/{name}/7/{x}/{y}.webp"] = reader.read(Tile(7, x, y))
        wrong: list[str] = []

        def read() -> None:
            with httpx.Client(trust_env=False) as client:
                wrong.extend(url for url, data in expected.items() if client.get(url).content != data)

        threads = [threading.Thread(target=read) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []


def test_an_archive_that_is_replaced_is_served_anew(tmp_path: Path) -> None:
    path = served.write_source(tmp_path, [5])
    with serving(path) as client:
        assert client.get("/source.json").json()["maxzoom"] == 5
        (tmp_path / "new").mkdir()
        os.replace(served.write_source(tmp_path / "new", [5, 6]), path)
        assert client.get("/source.json").json()["maxzoom"] == 6
        assert client.get(f"/source/{grid.parent(INSIDE)}.webp").status_code == 200


OF_TERRAIN = [
    "hills.json", f"hills/{INSIDE}.webp", f"hills/surface/{INSIDE}.webp", f"hills/gaps/{INSIDE}.png",
    "hills/at?lon=7&lat=44.5", "hills/legend.json", "hills/relief.json?bbox=6,44,8,45",
    "archives/hills.pmtiles",
]  # fmt: skip


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.fixture
def own(folder: Path, tmp_path: Path) -> Path:
    """A folder of the test's own with archives that it may damage."""
    for name in ("hills.pmtiles", "hills.lineage.pmtiles", "source.mbtiles"):
        shutil.copy(folder / name, tmp_path / name)
    return tmp_path


def replace(path: Path) -> None:
    """Replace a file by a copy of it, as an output is replaced."""
    os.replace(shutil.copy(path, path.with_name("copy")), path)


@pytest.mark.parametrize("name", ["hills.pmtiles", "source.mbtiles"])
def test_an_archive_that_is_replaced_often_holds_one_file_open(own: Path, name: str) -> None:
    stem = Path(name).stem
    with serving(own / name) as client:
        assert client.get(f"/{stem}/surface/{INSIDE}.webp").status_code == 200
        before = open_files()
        for _ in range(20):
            replace(own / name)
            assert client.get(f"/{stem}/surface/{INSIDE}.webp").status_code == 200
        assert open_files() == before


def test_a_reader_is_open_as_long_as_a_request_has_it(own: Path) -> None:
    with Shelf([own / "hills.pmtiles"]) as shelf:
        held = shelf.find("hills")
        assert held is not None
        before = open_files()
        for _ in range(3):
            replace(own / "hills.pmtiles")
            assert shelf.find("hills") is not held
        assert open_files() == before + 1
        assert held.reader.read(INSIDE) is not None
        del held
        assert open_files() == before


def test_a_file_that_is_gone_is_a_404_until_it_is_back(own: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = own / "hills.pmtiles"
    with serving(path, own / "source.mbtiles") as client:
        path.rename(own / "elsewhere")
        for asked in OF_TERRAIN:
            answer = client.get(f"/{asked}")
            assert (asked, answer.status_code) == (asked, 404)
            assert "hills.pmtiles" in answer.json()["error"]
        assert [one["name"] for one in client.get("/archives.json").json()] == ["source", "hills.lineage"]
        (own / "elsewhere").rename(path)
        for asked in OF_TERRAIN:
            assert (asked, client.get(f"/{asked}").status_code) == (asked, 200)
    said = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert said == [f"hills is not served: {path}: no such archive"]


@pytest.mark.parametrize("garbage", [b"", b"no archive", b"PMTiles\x03" + bytes(200), b"SQLite format 3\x00"])
def test_a_file_that_is_no_archive_any_more_is_a_500(own: Path, garbage: bytes) -> None:
    path = own / "hills.pmtiles"
    with serving(path) as client:
        path.write_bytes(garbage)
        for asked in OF_TERRAIN:
            answer = client.get(f"/{asked}")
            assert (asked, answer.status_code) == (asked, 500)
            assert "hills.pmtiles" in answer.json()["error"]
        assert [one["name"] for one in client.get("/archives.json").json()] == ["hills.lineage"]


@pytest.mark.parametrize(("opener", "named"), [("builtin", "hills.pmtiles"), ("sqlite", "source.mbtiles")])
def test_what_cannot_be_opened_for_want_of_files_is_a_503(
    own: Path, opener: str, named: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path, stem = own / named, Path(named).stem
    asked = [f"{stem}.json", f"{stem}/{INSIDE}.webp", f"{stem}/at?lon=7&lat=44.5", f"archives/{named}"]
    with serving(path) as client:
        replace(path)
        with monkeypatch.context() as patched:
            if opener == "builtin":
                patched.setattr(Path, "open", scarce)
            else:
                patched.setattr(sqlite3, "connect", unconnected)
            for one in asked:
                answer = client.get(f"/{one}")
                assert (one, answer.status_code) == (one, 503)
                assert "ulimit" in answer.json()["error"]
            assert client.get("/archives.json").status_code == 503
            assert client.get("/health").status_code == 200
        for one in asked:
            assert (one, client.get(f"/{one}").status_code) == (one, 200)
        with monkeypatch.context() as patched:
            patched.setattr(os, "open", scarce)
            assert client.get(f"/archives/{named}").status_code == 503
    assert any(record.getMessage().startswith(f"{stem} is not served: ") for record in caplog.records)


def scarce(*_: Any, **__: Any) -> Any:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def unconnected(*_: Any, **__: Any) -> Any:
    error = sqlite3.OperationalError("unable to open database file")
    error.sqlite_errorcode = sqlite3.SQLITE_CANTOPEN
    raise error


def test_a_lineage_that_is_replaced_or_gone_is_noticed(own: Path) -> None:
    with serving(own / "hills.pmtiles") as client:
        before = client.get(f"/hills/gaps/{INSIDE}.png").content
        replace(own / "hills.lineage.pmtiles")
        assert client.get(f"/hills/gaps/{INSIDE}.png").content == before
        (own / "hills.lineage.pmtiles").write_bytes(b"no archive")
        assert client.get("/hills/legend.json").status_code == 500
        assert client.get("/archives.json").json()[0]["lineage"] is None
        (own / "hills.lineage.pmtiles").unlink()
        assert client.get("/hills/legend.json").json() == []


# TileJSON


@pytest.mark.parametrize(("name", "file"), [("hills", "hills.pmtiles"), ("source", "source.mbtiles")])
def test_tilejson_says_what_the_archive_says(
    client: httpx.Client, folder: Path, name: str, file: str
) -> None:
    told = client.get(f"/{name}.json").json()
    with open_archive(folder / file) as reader:
        facts, counts = reader.metadata, reader.counts()
    assert told["tilejson"] == "3.0.0"
    assert told["scheme"] == "xyz"
    assert told["tiles"] == [f"{HOST}/{name}/{{z}}/{{x}}/{{y}}.webp"]
    assert (told["minzoom"], told["maxzoom"]) == (min(counts), max(counts))
    assert (told["encoding"], told["tileSize"], told["format"]) == ("terrarium", 512, "webp")
    assert (told["name"], told["attribution"]) == (facts.name, facts.attribution)
    box = facts.bounds
    assert told["bounds"] == pytest.approx([box.west, box.south, box.east, box.north], abs=1e-6)
    west, south, east, north = told["bounds"]
    lon, lat, zoom = told["center"]
    assert west <= lon <= east
    assert south <= lat <= north
    assert told["minzoom"] <= zoom <= told["maxzoom"]
    at_center = mercantile.tile(lon, lat, told["maxzoom"])
    url = told["tiles"][0].format(z=at_center.z, x=at_center.x, y=at_center.y)
    assert client.get(url).status_code == 200


def test_tilejson_addresses_are_those_of_the_request(client: httpx.Client) -> None:
    for host in ("localhost:1234", "127.0.0.1", "[::1]:8080"):
        told = client.get("/hills.json", headers={"Host": host}).json()
        assert told["tiles"][0].startswith(f"http://{host}/hills/")


def test_zooms_are_those_of_the_tiles_and_not_those_stated(tmp_path: Path) -> None:
    tiles = dict(served.source_contents([5, 6]))
    path = served.write_mbtiles(tmp_path / "wide.mbtiles", tiles, served.metadata([0, 9]))
    with serving(path) as client:
        told = client.get("/wide.json").json()
    assert (told["minzoom"], told["maxzoom"]) == (5, 6)
    assert 5 <= told["center"][2] <= 6


def test_bounds_across_the_antimeridian_are_the_whole_width() -> None:
    facts = served.metadata([0, 3], bounds=Bounds(170.0, -20.0, -170.0, 10.0))
    told = tilejson(facts, "fiji", (0, 3), HOST)
    assert told["bounds"] == [-180.0, -20.0, 180.0, 10.0]
    center = told["center"]
    assert isinstance(center, list)
    assert abs(center[0]) == 180.0


@given(
    st.floats(-180, 180), st.floats(-90, 89), st.floats(-180, 180), st.floats(0.1, 1), st.integers(0, 20),
    st.integers(0, 10),
)  # fmt: skip
def test_bounds_and_center_are_always_valid(
    west: float, south: float, east: float, height: float, minzoom: int, more: int
) -> None:
    box = Bounds(west, south, east, south + height)
    facts = served.metadata([0, 30], bounds=box)
    told: Any = tilejson(facts, "any", (minzoom, minzoom + more), HOST)
    left, bottom, right, top = unwrapped(box)
    assert -180 <= left <= right <= 180
    assert -90 <= bottom < top <= 90
    lon, lat, zoom = told["center"]
    assert -180 <= lon <= 180
    assert bottom <= lat <= top
    assert minzoom <= zoom <= minzoom + more
    json.dumps(told, allow_nan=False)


def test_what_an_archive_does_not_state_is_absent(tmp_path: Path) -> None:
    facts = served.metadata([7], attribution="", encoding="", tile_size=0)
    path = served.write_mbtiles(tmp_path / "bare.mbtiles", dict(served.source_contents([7])), facts)
    with serving(path) as client:
        assert {"attribution", "encoding", "description"}.isdisjoint(client.get("/bare.json").json())
        assert client.get("/bare/surface/0/0/0.webp").status_code == 404


# Archives


def test_an_archive_is_sent_in_ranges(client: httpx.Client, folder: Path) -> None:
    data = (folder / "hills.pmtiles").read_bytes()
    path, size = "/archives/hills.pmtiles", len(data)
    whole = client.get(path)
    assert whole.content == data
    assert whole.headers["accept-ranges"] == "bytes"
    for asked, first, end in [
        ("bytes=0-126", 0, 127),
        ("bytes=100-", 100, size),
        ("bytes=-7", size - 7, size),
        (f"bytes=-{size + 5}", 0, size),
        (f"bytes=5-{size * 2}", 5, size),
    ]:
        part = client.get(path, headers={"Range": asked})
        assert part.status_code == 206
        assert part.content == data[first:end]
        assert part.headers["content-range"] == f"bytes {first}-{end - 1}/{size}"
        assert part.headers["content-length"] == str(end - first)
        assert part.headers["etag"] == whole.headers["etag"]
    for asked in ("bytes=5-2", "bytes=a-b", "lines=0-5", "bytes=0-1,5-9", "bytes=-"):
        assert client.get(path, headers={"Range": asked}).content == data
    for asked in (f"bytes={size}-", "bytes=-0"):
        beyond = client.get(path, headers={"Range": asked})
        assert beyond.status_code == 416
        assert beyond.headers["content-range"] == f"bytes */{size}"
        assert beyond.json()["error"]


def test_a_range_is_sent_only_of_the_archive_that_is_meant(client: httpx.Client, folder: Path) -> None:
    path, part = "/archives/hills.pmtiles", {"Range": "bytes=0-6"}
    whole = client.get(path)
    for same in (whole.headers["etag"], whole.headers["last-modified"]):
        assert client.get(path, headers={**part, "If-Range": same}).content == b"PMTiles"
    other = client.get(path, headers={**part, "If-Range": '"another"'})
    assert (other.status_code, other.content) == (200, whole.content)
    same = client.get(path, headers={"If-None-Match": whole.headers["etag"]})
    assert (same.status_code, same.content) == (304, b"")
    head = client.head(path, headers=part)
    assert (head.status_code, head.headers["content-length"], head.content) == (206, "7", b"")


@given(st.binary(min_size=1, max_size=64), st.integers(0, 80), st.one_of(st.none(), st.integers(0, 80)))
def test_ranges_are_slices(data: bytes, first: int, last: int | None) -> None:
    header = f"bytes={first}-{'' if last is None else last}"
    if last is not None and last < first:
        assert ranges.span(header, len(data)) is None
    elif first >= len(data):
        with pytest.raises(ranges.RangeUnsatisfiable):
            ranges.span(header, len(data))
    else:
        found = ranges.span(header, len(data))
        assert found is not None
        assert data[slice(*found)] == data[first : None if last is None else last + 1]


def test_the_pmtiles_package_reads_an_archive_over_http(folder: Path) -> None:
    asked = []
    with running(folder / "hills.pmtiles") as address, httpx.Client(trust_env=False) as client:

        def bytes_at(offset: int, length: int) -> bytes:
            wanted = {"Range": f"bytes={offset}-{offset + length - 1}"}
            answer = client.get(f"{address}/archives/hills.pmtiles", headers=wanted)
            assert answer.status_code == 206
            asked.append(len(answer.content))
            return answer.content

        remote = Reader(bytes_at)
        with open_archive(folder / "hills.pmtiles") as reader:
            assert remote.metadata()["encoding"] == "terrarium"
            for z in ZOOMS:
                for x, y in reader.coordinates(z).tolist():
                    assert remote.get(z, x, y) == reader.read(Tile(z, x, y))
    assert max(asked) < (folder / "hills.pmtiles").stat().st_size


def test_nobody_reads_on_for_a_client_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.pmtiles"
    shutil.copy(served.write_source(tmp_path, [5]), path)
    os.truncate(path, 1 << 30)
    read: list[int] = []
    pread = os.pread

    def counted(file: int, count: int, offset: int) -> bytes:
        read.append(count)
        return pread(file, count, offset)

    with running(path) as address, httpx.Client(trust_env=False) as client:
        monkeypatch.setattr(os, "pread", counted)
        with client.stream("GET", f"{address}/archives/large.pmtiles") as answer:
            assert answer.headers["content-length"] == str(1 << 30)
            next(answer.iter_raw())
        assert client.get(f"{address}/health").status_code == 200
    assert sum(read) < 1 << 28


# Pictures


def test_a_surface_has_no_gaps(client: httpx.Client) -> None:
    stored = decode_webp(client.get(f"/source/{INSIDE}.webp").content)
    flat = decode_webp(client.get(f"/source/surface/{INSIDE}.webp").content)
    assert stored.shape[2] == 4
    assert flat.shape[2] == 3
    heights = terrarium.decode(stored)
    np.testing.assert_array_equal(terrarium.decode(flat), np.nan_to_num(heights, nan=0.0))
    whole = f"/hills/surface/{INSIDE}.webp"
    assert client.get(whole).content == client.get(f"/hills/{INSIDE}.webp").content


def test_a_surface_is_enlarged_where_the_archive_is_coarser(tmp_path: Path) -> None:
    tiles = dict(served.terrain_contents([5, 6, 7], Bounds(0.0, 40.0, 20.0, 48.0)))
    true = terrarium.decode(decode_webp(tiles.pop(INSIDE)))
    del tiles[grid.parent(INSIDE)]
    path = served.write_pmtiles(tmp_path / "sparse.pmtiles", tiles, served.metadata([5, 7]))
    with serving(path) as client:
        assert client.get(f"/sparse/{INSIDE}.webp").status_code == 404
        found = terrarium.decode(decode_webp(client.get(f"/sparse/surface/{INSIDE}.webp").content))
        assert np.median(np.abs(found - true)) < 60 < np.ptp(true)
        assert client.get(f"/sparse/surface/{Tile(7, 0, 0)}.webp").status_code == 404


@pytest.mark.parametrize("name", ["hills", "source"])
def test_gaps_are_what_no_source_has(client: httpx.Client, name: str) -> None:
    answer = client.get(f"/{name}/gaps/{INSIDE}.png?rgb=0a0b0c")
    with Image.open(io.BytesIO(answer.content)) as image:
        picture = np.asarray(image.convert("RGBA"))
    there = served.within(INSIDE, served.BOX)
    np.testing.assert_array_equal(picture[..., 3] == 0, there)
    assert {tuple(pixel) for pixel in picture[~there].tolist()} == {(10, 11, 12, 255)}
    assert client.get(f"/{name}/gaps/{INSIDE}.png?rgb=red").status_code == 400


def test_lineage_is_drawn_in_the_colours_of_its_legend(client: httpx.Client, folder: Path) -> None:
    answer = client.get(f"/hills.lineage/{INSIDE}.png")
    assert answer.headers["content-type"] == "image/png"
    with Image.open(io.BytesIO(answer.content)) as image:
        drawn = np.asarray(image)
    with open_archive(folder / "hills.lineage.pmtiles") as reader:
        data = reader.read(INSIDE)
        assert data is not None
        expected = lineage.picture(decode_webp(data), lineage.legend(reader.metadata))
    np.testing.assert_array_equal(drawn, expected)
    told = client.get("/hills.lineage.json").json()
    assert told["encoding"] == "lineage"
    assert told["pictures"] == [f"{HOST}/hills.lineage/{{z}}/{{x}}/{{y}}.png"]
    assert client.get(f"/hills.lineage/{INSIDE}.webp").headers["content-type"] == "image/webp"


def test_the_legend_names_the_sources(client: httpx.Client) -> None:
    for name in ("hills", "hills.lineage"):
        told = client.get(f"/{name}/legend.json").json()
        assert [entry["name"] for entry in told] == ["Lidar", "Satellites"]
        assert told[0] == served.LEGEND[0]
    assert client.get("/source/legend.json").json() == []


def test_the_relief_of_a_place_is_that_of_its_heights(client: httpx.Client) -> None:
    box = grid.bounds(INSIDE)
    asked = f"{box.west},{box.south},{box.east},{box.north}"
    told = client.get(f"/source/relief.json?bbox={asked}").json()
    heights = terrarium.decode(decode_webp(client.get(f"/source/{INSIDE}.webp").content))
    assert told["minimum_m"] == pytest.approx(np.nanmin(heights))
    assert told["maximum_m"] == pytest.approx(np.nanmax(heights))
    low, high = np.percentile(heights[heights > 0], (1, 99))
    assert told["land_m"] == pytest.approx([low, high])
    whole = client.get("/source/relief.json?bbox=-180,-85,180,85").json()
    assert whole["maximum_m"] > 500
    nowhere = client.get("/source/relief.json?bbox=-100,10,-99,11").json()
    assert nowhere == {"minimum_m": None, "maximum_m": None, "land_m": None, "sea_m": None}


@pytest.mark.parametrize("name", ["hills", "source"])
def test_the_relief_leaves_out_what_no_source_has(folder: Path, tmp_path: Path, name: str) -> None:
    """Land at 500 m and more: 0 m is only what a merge writes where no source has a pixel."""
    there = served.within(INSIDE, served.BOX)
    assert 0 < there.mean() < 1
    high = served.hills(INSIDE) + 900
    facts = served.metadata([7], extra={"lineage": "hills.lineage.pmtiles", "nodata": "0 m"})
    merged = {INSIDE: served.encoded(np.where(there, high, np.float32(0)), 7)}
    source = {INSIDE: served.encoded(np.where(there, high, np.float32(np.nan)), 7)}
    shutil.copy(folder / "hills.lineage.pmtiles", tmp_path)
    path = (
        served.write_pmtiles(tmp_path / "hills.pmtiles", merged, facts)
        if name == "hills"
        else served.write_mbtiles(tmp_path / "source.mbtiles", source, served.metadata([7]))
    )
    box = grid.bounds(INSIDE)
    with serving(path) as client:
        told = client.get(f"/{name}/relief.json?bbox={box.west},{box.south},{box.east},{box.north}").json()
    assert told["minimum_m"] == pytest.approx(high[there].min(), abs=1)
    assert told["maximum_m"] == pytest.approx(high[there].max(), abs=1)
    assert told["minimum_m"] > 0
    assert told["sea_m"] is None


def test_the_relief_of_the_world_reads_few_tiles(tmp_path: Path) -> None:
    data = served.encoded(np.full((512, 512), 7, dtype=np.float32), 5)
    tiles = {Tile(5, x, y): data for x in range(32) for y in range(32)}
    path = served.write_pmtiles(tmp_path / "world.pmtiles", tiles, served.metadata([5]))
    with serving(path) as client:
        assert client.get("/world/relief.json?bbox=-180,-85,180,85").json()["maximum_m"] == 7
        assert client.get("/world/relief.json?bbox=170,-10,-170,10").json()["maximum_m"] == 7


@pytest.mark.parametrize("bbox", ["", "1,2,3", "a,b,c,d", "0,10,5,0", "0,0,nan,1", "-200,0,1,1", "1,0,1,2"])
def test_a_box_that_is_none_is_refused(client: httpx.Client, bbox: str) -> None:
    answer = client.get(f"/hills/relief.json?bbox={bbox}")
    assert answer.status_code == 400
    assert "bbox" in answer.json()["error"]


# Positions


@pytest.mark.parametrize(("lon", "lat"), [(6.5, 44.5), (6.9, 44.2), (7.5, 44.5), (8.3, 44.5)])
def test_at_answers_as_the_command_does(client: httpx.Client, folder: Path, lon: float, lat: float) -> None:
    told = client.get(f"/hills/at?lon={lon}&lat={lat}").json()
    (report,) = at([folder / "hills.pmtiles"], lon, lat)
    assert told["height_m"] == report.height_m
    assert told["source"] == report.source
    assert told["second_source"] == report.second_source
    assert told["second_share"] == report.second_share
    assert told["zoom"] == report.zoom == 7
    assert (told["archive"], told["lineage"]) == ("hills.pmtiles", "hills.lineage.pmtiles")
    assert told["source"] == ("Lidar" if lon < 7 else "Satellites" if lon < 8 else None)


def test_at_can_be_asked_for_a_zoom(client: httpx.Client) -> None:
    assert client.get("/source/at?lon=7&lat=44.5&zoom=5").json()["zoom"] == 5


@pytest.mark.parametrize(
    "query",
    ["", "lon=1", "lon=a&lat=b", "lon=181&lat=0", "lon=0&lat=86", "lon=nan&lat=0", "lon=1,2&lat=0",
     "lon=0&lat=0&zoom=x", "lon=0&lat=0&zoom=99"],
)  # fmt: skip
def test_a_position_that_is_none_is_refused(client: httpx.Client, query: str) -> None:
    answer = client.get(f"/hills/at?{query}")
    assert answer.status_code == 400
    assert answer.json()["error"]


# Who may ask


@pytest.mark.parametrize("host", ["localhost", "localhost:80", "127.0.0.1:8080", "127.8.9.1", "[::1]:80"])
def test_names_of_this_machine(host: str, client: httpx.Client) -> None:
    assert is_loopback(host)
    assert client.get("/health", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["", "evil.example", "localhost.evil.example", "10.0.0.1", "127.0.0.1.evil.example:80", "[::2]"],
)
def test_other_names_are_refused(host: str, client: httpx.Client) -> None:
    assert not is_loopback(host)
    for path in ("/", "/health", f"/hills/{INSIDE}.webp", "/archives/hills.pmtiles"):
        answer = client.get(path, headers={"Host": host})
        assert answer.status_code == 421
        assert "Host" in answer.json()["error"]


def test_other_names_are_welcome_where_others_may_ask(folder: Path) -> None:
    with serving(folder / "hills.pmtiles", loopback_only=False) as client:
        told = client.get("/hills.json", headers={"Host": "maps.example"}).json()
        assert told["tiles"][0].startswith("http://maps.example/")


def test_pages_of_this_machine_may_read_and_others_only_when_told(folder: Path) -> None:
    def allowed(client: httpx.Client, origin: str) -> str | None:
        path = f"/hills/{INSIDE}.webp"
        return client.get(path, headers={"Origin": origin}).headers.get("access-control-allow-origin")

    with serving(folder / "hills.pmtiles") as client:
        for origin in ("http://localhost:5173", "http://127.0.0.1:3000", f"https://{IPV6}:1"):
            assert allowed(client, origin) == origin
        for origin in ("https://example.org", "http://localhost.evil.example", "null"):
            assert allowed(client, origin) is None
        asked = {"Origin": "http://localhost:1", "Access-Control-Request-Method": "GET"}
        before = client.options(
            "/archives/hills.pmtiles", headers={**asked, "Access-Control-Request-Headers": "range"}
        )
        assert before.status_code == 200
    with serving(folder / "hills.pmtiles", origins=["https://example.org"]) as client:
        assert allowed(client, "https://example.org") == "https://example.org"
        assert allowed(client, "https://example.com") is None
    with serving(folder / "hills.pmtiles", origins=["*"]) as client:
        assert allowed(client, "https://example.com") == "*"


# The page


def test_without_the_bundle_the_page_says_how_to_build_it(folder: Path, tmp_path: Path) -> None:
    with serving(folder / "hills.pmtiles", static=tmp_path / "none") as client:
        page = client.get("/")
        assert page.headers["content-type"].startswith("text/html")
        assert "just pages viewer" in page.text
        assert "<script" not in page.text
        assert client.get("/static/viewer.js").status_code == 404
        assert client.get("/hills.json").status_code == 200


def test_the_page_may_load_from_its_own_server_only(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<!doctype html><title>page</title>")
    (tmp_path / "viewer.js").write_text("1")
    with serving(folder / "hills.pmtiles", static=tmp_path) as client:
        page = client.get("/")
        assert page.text.endswith("<title>page</title>")
        policy = page.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'")
        assert "http" not in policy
        assert "*" not in policy
        script = client.get("/static/viewer.js")
        assert script.headers["content-type"].startswith("text/javascript")
        tag = {"If-None-Match": script.headers["etag"]}
        assert client.get("/static/viewer.js", headers=tag).status_code == 304


# The command


def begun(*words: object) -> tuple[subprocess.Popen[str], str]:
    """Start `fusi serve`; return the process and the first line it prints."""
    process = subprocess.Popen(
        [sys.executable, "-m", "fusi_pipeline.cli", "serve", *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    return process, process.stdout.readline()


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_the_command_says_where_it_listens_and_ends_cleanly(folder: Path, end: signal.Signals) -> None:
    process, line = begun(folder / "hills.pmtiles", "--port", "auto")
    try:
        match = re.match(r"(http://127\.0\.0\.1:\d+/) serves hills, hills\.lineage", line)
        assert match, line
        answer = httpx.get(f"{match[1]}hills/{INSIDE}.webp", trust_env=False)
        assert answer.status_code == 200
        process.send_signal(end)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (process.returncode, out, err) == (0, "", "")


def test_a_port_in_use_is_named(folder: Path, fusi: Fusi) -> None:  # noqa: F811
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        answer = fusi("serve", folder / "hills.pmtiles", "--port", port)
    assert answer.code == 1
    (line,) = answer.said
    assert f"127.0.0.1:{port}" in line
    assert "--port auto" in line
    with pytest.raises(AddressUnavailable, match=r"no\.such\.host\.invalid"):
        server.listen("no.such.host.invalid", 0)


@pytest.mark.parametrize("words", [["--port", "0"], ["--port", "70000"], ["--port", "x"], ["--missing", "1"]])
def test_options_that_are_none_are_refused(folder: Path, fusi: Fusi, words: list[str]) -> None:  # noqa: F811
    assert fusi("serve", folder / "hills.pmtiles", *words).code == 2


@pytest.mark.parametrize(
    "origin",
    ["foo", "", "null", "example.org", "https://", "https://example.org/", "https://example.org/map", "https://*",
     "https://a@example.org", "https://example.org:", "https://example.org:0", "https://example.org:65536",
     "https://example.org ", "https://exam ple.org", "//example.org", "**", "https://-a.example"],
)  # fmt: skip
def test_an_origin_that_is_none_is_refused(folder: Path, fusi: Fusi, origin: str) -> None:  # noqa: F811
    answer = fusi("serve", folder / "hills.pmtiles", "--cors", origin)
    assert answer.code == 2
    assert "scheme://host" in answer.err


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("*", "*"),
        ("https://Example.org", "https://example.org"),
        ("https://example.org:443", "https://example.org"),
        ("http://example.org:443", "http://example.org:443"),
        (f"http://{IPV6}:80", f"http://{IPV6}"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("http://192.0.2.1:8000", "http://192.0.2.1:8000"),
    ],
)
def test_an_origin_is_taken_as_browsers_send_it(text: str, sent: str) -> None:
    assert Origin().convert(text, None, None) == sent


def test_an_archive_that_is_not_there_is_named(tmp_path: Path, fusi: Fusi) -> None:  # noqa: F811
    answer = fusi("serve", tmp_path / "none.pmtiles")
    assert answer.code == 2
    assert "none.pmtiles" in answer.said[0]


def test_listening_elsewhere_is_warned_of(folder: Path, monkeypatch: pytest.MonkeyPatch, fusi: Fusi) -> None:  # noqa: F811
    told: dict[str, Any] = {}

    def serve(app: Any, listener: socket.socket, started: Any) -> None:
        told["alone"] = server.on_loopback(listener)
        started()
        listener.close()

    class Elsewhere(socket.socket):
        def getsockname(self) -> Any:
            return "192.0.2.1", super().getsockname()[1]

    monkeypatch.setattr(server, "serve", serve)
    monkeypatch.setattr(socket, "socket", Elsewhere)
    answer = fusi("serve", folder / "hills.pmtiles", "--port", "auto")
    assert answer.code == 0
    assert not told["alone"]
    assert "warning" in answer.said[0]
    assert answer.out.startswith("http://192.0.2.1:")
