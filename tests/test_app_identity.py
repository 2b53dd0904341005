"""Another map at the same place is another map: its pictures, the cache beside it, the events of pages."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
from pathlib import Path

import pytest
from sqlite_utils import Database

from layer_generation.camera import MercatorGrid
from layer_generation.pictures import png
from layer_generation.quadrant_tables import identity_of
from layer_generation.quadrants import FILENAME, QuadrantStore
from layer_generation.web.events import Cursor
from layer_generation.web.opening import opened
from layer_generation.web.overviews import CHUNK, Made, NotYet, Overviews, Stamps
from layer_generation.web.overviews import FILENAME as CACHE
from tests.layers import picture, write_map
from tests.test_app_routes import served

ALL = [(0, 0), (1, 0), (0, 1), (1, 1)]


def made(folder: Path, *, is_bright: bool) -> Path:
    """Write a map with the same revisions as any other of these."""
    if (folder / FILENAME).exists():
        for one in folder.glob(f"{FILENAME}*"):
            one.unlink()
    write_map(folder, MercatorGrid(zoom=5), [])
    with QuadrantStore(folder) as store:
        for x, y in ALL:
            store.put("render", [(x, y, png(picture(0, 0) * 0 + (250 if is_bright else 5)))])
    return folder


def told(folder: Path) -> tuple[dict[str, tuple[str, bytes]], str]:
    """Return tags and bytes by path, and an event's id that is new."""
    desk = opened(folder, environment={}, generates=False).desk
    try:
        with served(desk) as client:
            answers = {
                path: client.get(path)
                for path in ("/tiles/render/0/0/0", "/pictures/render/0/0.png", "/tiles/render/1/0/0")
            }
        assert all(one.status_code == 200 for one in answers.values())
        return {path: (one.headers["etag"], one.content) for path, one in answers.items()}, str(
            desk.board.now()
        )
    finally:
        desk.close()


def first_event(folder: Path, cursor: Cursor | None, *, is_new: bool) -> str:
    desk = opened(folder, environment={}, generates=False).desk

    async def listen() -> str:
        stream = desk.board.events(cursor, is_new=is_new)
        text = await asyncio.wait_for(anext(stream), 60)
        await stream.aclose()  # type: ignore[attr-defined]
        return text

    try:
        return asyncio.run(listen())
    finally:
        desk.close()


def test_a_map_made_anew_at_the_same_place_shows_its_own_pictures(tmp_path: Path) -> None:
    before, cursor = told(made(tmp_path / "map", is_bright=True))
    after, _ = told(made(tmp_path / "map", is_bright=False))
    for path, (tag, content) in before.items():
        assert after[path][0] != tag
        assert after[path][1] != content
    event = first_event(tmp_path / "map", Cursor.of(cursor), is_new=False)
    assert "event: reset" in event


def test_a_copy_of_a_map_is_another_map(tmp_path: Path) -> None:
    made(tmp_path / "map", is_bright=True)
    shutil.copytree(tmp_path / "map", tmp_path / "copy")
    with QuadrantStore(tmp_path / "map") as one, QuadrantStore(tmp_path / "copy") as other:
        assert one.identity != other.identity
    with QuadrantStore(tmp_path / "map") as again:
        identity = again.identity
        again.mark("flagged", [(0, 0)])
        assert again.identity == identity


def test_a_map_that_was_never_given_an_id_is_told_by_its_file_and_its_last_change(tmp_path: Path) -> None:
    path = made(tmp_path / "map", is_bright=True) / FILENAME
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE identity")
    connection.close()
    db = Database(path)
    before = identity_of(db, path)
    assert identity_of(db, path) == before
    os.utime(path, ns=(1, 1))
    assert identity_of(db, path) != before
    db.close()


def test_the_cache_of_another_map_is_emptied(tmp_path: Path) -> None:
    stamps = Stamps({(0, 0): 1, (1, 0): 1}, "one")
    cache = Overviews(tmp_path, "one")
    cache.keep("render", 1, 0, 0, Made(b"tile", stamps.of(1, 0, 0), "one"))
    assert cache.kept(stamps, "render", 1, 0, 0) == b"tile"
    cache.close()
    Overviews(tmp_path, "other").close()
    again = Overviews(tmp_path, "one")
    assert again.kept(stamps, "render", 1, 0, 0) is None
    again.close()


def test_a_cache_that_is_no_database_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / CACHE).write_bytes(b"no database" * 1000)
    cache = Overviews(tmp_path, "one")
    cache.keep("render", 1, 0, 0, Made(b"tile", (1, 1), "one"))
    cache.close()


def test_overviews_are_made_from_the_middle_of_what_is_looked_at_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = opened(made(tmp_path / "map", is_bright=True), environment={}, generates=False).desk
    (pictures, *_) = desk.shelf.all()
    order: list[int] = []

    def tile(_pictures: object, _stamps: object, _level: int, x: int, _y: int, most: int) -> None:
        if most != CHUNK:
            raise NotYet
        order.append(x)
        desk._closing = len(order) == 4

    monkeypatch.setattr(desk._overviews, "tile", tile)
    for x, far in ((1, 3), (2, 0), (3, 2), (4, 1)):
        with pytest.raises(NotYet):
            desk.tile(pictures, 2, x, 0, far)
    desk._make_tiles()
    assert order == [2, 4, 3, 1]
    desk.close()


@pytest.mark.parametrize("stated", ["garbage", "1", "-1.-1", "0.0"])
def test_an_id_that_is_none_begins_anew(tmp_path: Path, stated: str) -> None:
    folder = made(tmp_path / "map", is_bright=True)
    assert Cursor.of(stated) is None
    assert "event: reset" in first_event(folder, Cursor.of(stated), is_new=False)
    assert "event: hello" in first_event(folder, None, is_new=True)
