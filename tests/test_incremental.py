"""Whatever changed, stopped or was damaged since the last run: the next one ends with a clean one's bytes.

And it makes no more than it must, and says what it made. With `--hypothesis-profile=long`
the state machine tries hundreds of histories instead of a few.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Generator
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import mercantile
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, note
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from fusi_pipeline.aggregate import build_source
from fusi_pipeline.build import BuildReport
from fusi_pipeline.errors import ArchiveUnsuitable, OutputExists
from fusi_pipeline.input_options import InputOptions
from fusi_pipeline.plan import BuildOptions
from fusi_pipeline.progress import Progress
from fusi_pipeline.publish import MergeReport, merge_archives
from fusi_pipeline.tiles import grid
from fusi_pipeline.tiles.grid import Tile
from fusi_pipeline.tiles.mbtiles import MBTilesReader
from fusi_pipeline.tiles.open import open_archive
from tests import rasters
from tests.test_build import built, finish, settings, sha256

SIDE_PX = 40
PIXEL_DEG = 0.05
"""About a pixel of zoom 4."""
SPOTS = ((3.0, 48.0), (4.2, 47.5), (6.0, 48.5), (30.0, 20.0))
"""Outer corners of files; the first three overlap, across a border of tiles; the last is in another block."""


@dataclass(frozen=True)
class File:
    """One raster of a source."""

    spot: int
    height_m: float
    edits: int = 0
    empty: bool = False

    def write(self, path: Path) -> None:
        heights = rasters.terrain(SIDE_PX, SIDE_PX, base_m=self.height_m, relief_m=80, phase=self.spot)
        heights[:8, :8] += 10 * self.edits
        absent = rasters.hole(SIDE_PX, SIDE_PX, share=0.1)
        heights = np.where(absent | self.empty, -9999, np.rint(heights))
        left, top = SPOTS[self.spot]
        rasters.write(path, heights, left=left, top=top, pixel=PIXEL_DEG, nodata=-9999)


@dataclass(frozen=True)
class Source:
    """One source: its files by name, what its source.toml says, and what a merge is told of it."""

    files: tuple[tuple[str, File], ...]
    config: tuple[tuple[str, object], ...] = ()
    options: tuple[tuple[str, object], ...] = ()


@dataclass(frozen=True)
class State:
    """All that decides about the outputs."""

    sources: tuple[tuple[str, Source], ...]
    mode: str = "priority"
    feather_m: float = 0.0
    lineage: str = ""
    maxzoom: int = 4

    def source(self, name: str) -> Source:
        return dict(self.sources)[name]

    def having(self, name: str, source: Source) -> State:
        return replace(
            self, sources=tuple((one, source if one == name else old) for one, old in self.sources)
        )


CUT = '{"type": "Polygon", "coordinates": [[[3.5, 40], [5.5, 40], [5.5, 47.2], [3.5, 47.9], [3.5, 40]]]}'


@dataclass
class Place:
    """A source store, and folders of outputs made from it."""

    root: Path
    clean: dict[State, dict[str, str]] = field(default_factory=dict)

    def write(self, state: State, earlier: State | None = None) -> None:
        """Make the store as a state says, touching only what is otherwise than in an earlier one."""
        (self.root / "cut.geojson").write_text(CUT)
        known = dict(earlier.sources) if earlier else {}
        for name in set(known) - {name for name, _ in state.sources}:
            shutil.rmtree(self.root / "store" / name)
        for name, source in state.sources:
            folder, old = self.root / "store" / name, known.get(name, Source(()))
            folder.mkdir(parents=True, exist_ok=True)
            for filename in set(dict(old.files)) - set(dict(source.files)):
                (folder / filename).unlink()
            for filename, file in source.files:
                if dict(old.files).get(filename) != file:
                    file.write(folder / filename)
            lines = [f"{key} = {value!r}\n" for key, value in source.config]
            if source.config != old.config:
                (folder / "source.toml").write_text("".join(lines))

    def work(
        self, state: State, output: Path, *, overwrite: bool = False
    ) -> Generator[Progress, None, MergeReport]:
        """Build every source, then merge them."""
        told = settings(self.root, FUSI_OUTPUT_DIR=str(output), FUSI_WORKERS="1")
        zooms = BuildOptions(minzoom=1, maxzoom=state.maxzoom)
        inputs = []
        for name, source in state.sources:
            report = yield from build_source(name, told, zooms, overwrite=overwrite)
            assert report.built + report.reused + report.resumed == report.blocks
            assert report.tiles_built + report.tiles_reused == report.tiles
            assert report.bytes_built + report.bytes_reused == report.bytes
            options = dict(source.options)
            if "cut_line" in options:
                options["cut_line"] = self.root / "cut.geojson"
            inputs.append(InputOptions(path=report.path, **options))  # type: ignore[arg-type]
        merged = yield from merge_archives(
            inputs,
            output / "all.pmtiles",
            told,
            mode=state.mode,
            feather_m=state.feather_m,
            lineage_output=output / state.lineage if state.lineage else None,
            overwrite=overwrite,
        )
        assert merged.merged + merged.copied + merged.reused == merged.tiles
        return merged

    def hashes(self, state: State, output: Path) -> dict[str, str]:
        """Return the hash of every output."""
        names = [*(f"sources/{name}.mbtiles" for name, _ in state.sources), "all.pmtiles", state.lineage]
        return {name: sha256(output / name) for name in names if name}

    def expected(self, state: State) -> dict[str, str]:
        """Return the hashes of a clean run into an empty folder; none where nothing is left to merge."""
        if state not in self.clean:
            output = self.root / "clean"
            self.clean[state] = {}
            with suppress(ArchiveUnsuitable):
                finish(self.work(state, output))
                self.clean[state] = self.hashes(state, output)
            shutil.rmtree(output)
        return self.clean[state]


def flip(path: Path, at: int) -> None:
    """Damage one byte."""
    with path.open("r+b") as file:
        file.seek(at % path.stat().st_size)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 0x55]))


def damage_rows(path: Path, choice: int) -> None:
    """Damage one byte of a tile or of the ledger of an MBTiles."""
    with MBTilesReader(path) as reader:
        tiles = [row[0] for row in reader._query("SELECT tile_data FROM tiles", ())]
        rows = list(reader._query("SELECT key, overview, digests FROM fusi_blocks", ()))
    blobs = [*tiles, *(key.encode() for key, _, _ in rows)]
    blobs += [blob for _, *both in rows for blob in both if blob]
    blob = blobs[choice % len(blobs)]
    at = path.read_bytes().find(blob[:48])
    assert at >= 0
    flip(path, at + choice % min(len(blob), 48))


spots = st.integers(0, len(SPOTS) - 1)
big = st.integers(0, 1 << 30)


class Incremental(RuleBasedStateMachine):
    """Changes, interruptions and damage in any order; every run that ends, ends like a clean one."""

    def __init__(self) -> None:
        super().__init__()
        self.place = Place(Path(tempfile.mkdtemp(prefix="fusi-incremental-")))
        self.output = self.place.root / "output"
        self.made = 0
        self.state = State(())
        self.ran = False
        self.seen: set[str] = set()

    @initialize()
    def begin(self) -> None:
        self.change(
            State(
                (
                    ("a", Source((("0.tif", File(0, 300.0)), ("1.tif", File(3, 200.0))))),
                    ("b", Source((("0.tif", File(1, 700.0)),))),
                )
            )
        )

    def teardown(self) -> None:
        try:
            if self.state.sources:
                self.run()
        finally:
            shutil.rmtree(self.place.root)

    def change(self, state: State) -> None:
        self.place.write(state, self.state if self.state.sources else None)
        self.state = state

    def pick(self, which: int) -> tuple[str, Source]:
        return self.state.sources[which % len(self.state.sources)]

    @rule(which=big, number=big)
    def edit_a_part_of_a_file(self, which: int, number: int) -> None:
        name, source = self.pick(which)
        filename, file = source.files[number % len(source.files)]
        files = {**dict(source.files), filename: replace(file, edits=(file.edits + 1) % 3)}
        self.change(self.state.having(name, replace(source, files=tuple(files.items()))))

    @rule(which=big, number=big)
    def rename_a_file(self, which: int, number: int) -> None:
        name, source = self.pick(which)
        chosen, file = source.files[number % len(source.files)]
        self.made += 1
        rest = tuple(one for one in source.files if one[0] != chosen)
        renamed = (f"{'an'[self.made % 2]}{self.made}.tif", file)
        self.change(self.state.having(name, replace(source, files=(*rest, renamed))))

    @rule(which=big, spot=spots)
    def add_a_file(self, which: int, spot: int) -> None:
        name, source = self.pick(which)
        self.made += 1
        files = (*source.files, (f"n{self.made}.tif", File(spot, 100.0 + 50 * (self.made % 3))))
        self.change(self.state.having(name, replace(source, files=files)))

    @rule(which=big, number=big, empty=st.booleans())
    def remove_or_empty_a_file(self, which: int, number: int, empty: bool) -> None:
        name, source = self.pick(which)
        chosen, _ = source.files[number % len(source.files)]
        rest = tuple(one for one in source.files if one[0] != chosen)
        if all(file.empty for _, file in rest):
            return  # a source without a valid pixel is refused
        kept = tuple(
            (one, replace(file, empty=True) if one == chosen else file) for one, file in source.files
        )
        self.change(self.state.having(name, replace(source, files=kept if empty else rest)))

    @precondition(lambda self: len(self.state.sources) < 3)
    @rule(spot=spots, first=st.booleans())
    def add_a_source(self, spot: int, first: bool) -> None:
        name = min({"a", "b", "c"} - {name for name, _ in self.state.sources})
        new = ((name, Source((("0.tif", File(spot, 500.0)),))),)
        sources = new + self.state.sources if first else self.state.sources + new
        self.change(replace(self.state, sources=sources))

    @precondition(lambda self: len(self.state.sources) > 1)
    @rule(which=big)
    def remove_a_source(self, which: int) -> None:
        name, _ = self.pick(which)
        rest = tuple(one for one in self.state.sources if one[0] != name)
        self.change(replace(self.state, sources=rest))

    @rule()
    def turn_the_order_around(self) -> None:
        self.change(replace(self.state, sources=self.state.sources[::-1]))

    @rule(
        which=big,
        said=st.sampled_from(
            [("resampling", "nearest"), ("resampling", "cubic"), ("unit_factor", 2.0), ("offset_m", 7.5),
             ("nodata", -9999.0), ("attribution", "Somebody")]
        ),
    )  # fmt: skip
    def change_a_parameter(self, which: int, said: tuple[str, object]) -> None:
        name, source = self.pick(which)
        config = () if said in source.config else (said,)
        self.change(self.state.having(name, replace(source, config=config)))

    @rule(
        rule_of=st.sampled_from(
            [("priority", 0.0), ("max", 0.0), ("mean", 0.0), ("feather", 2e4), ("feather", 5e4)]
        )
    )
    def change_the_rule(self, rule_of: tuple[str, float]) -> None:
        self.state = replace(self.state, mode=rule_of[0], feather_m=rule_of[1])

    @rule(maxzoom=st.sampled_from([3, 4]))
    def change_the_base_zoom(self, maxzoom: int) -> None:
        self.state = replace(self.state, maxzoom=maxzoom)

    @rule(lineage=st.sampled_from(["", "from.pmtiles", "from.mbtiles"]))
    def change_the_lineage(self, lineage: str) -> None:
        self.state = replace(self.state, lineage=lineage)

    @rule(
        which=big,
        said=st.sampled_from(
            [
                ("missing", ((290.0, 310.0),)),
                ("offset_m", 3.0),
                ("max_zoom", 3),
                ("cut_line", True),
                ("name", "N"),
            ]
        ),
    )
    def change_an_option_of_an_input(self, which: int, said: tuple[str, object]) -> None:
        name, source = self.pick(which)
        options = () if said in source.options else (said,)
        self.state = self.state.having(name, replace(source, options=options))

    @rule(which=big, number=big)
    def touch_a_file(self, which: int, number: int) -> None:
        name, source = self.pick(which)
        os.utime(self.place.root / "store" / name / source.files[number % len(source.files)][0])

    @rule(steps=st.integers(1, 25))
    def interrupt_a_run(self, steps: int) -> None:
        work = self.place.work(self.state, self.output)
        with suppress(StopIteration, OutputExists):
            for _ in range(steps):
                next(work)
        work.close()
        self.seen |= {name for name, _ in self.state.sources}

    @precondition(lambda self: self.ran)
    @rule(
        name=st.sampled_from(
            ["all.pmtiles.ledger", "all.pmtiles", "from.pmtiles", "from.mbtiles", "sources/a.mbtiles"]
        )
    )
    def delete_an_output(self, name: str) -> None:
        (self.output / name).unlink(missing_ok=True)

    @precondition(lambda self: self.ran)
    @rule(name=st.sampled_from(["all.pmtiles.ledger", "all.pmtiles", "from.pmtiles", "from.mbtiles"]), at=big)
    def damage_what_a_merge_wrote(self, name: str, at: int) -> None:
        if (self.output / name).exists():
            flip(self.output / name, at)

    @precondition(lambda self: self.ran)
    @rule(name=st.sampled_from("abc"), choice=big)
    def damage_what_a_build_wrote(self, name: str, choice: int) -> None:
        if (self.output / "sources" / f"{name}.mbtiles").exists():
            damage_rows(self.output / "sources" / f"{name}.mbtiles", choice)

    @rule()
    def run(self) -> None:
        """Run to the end, and compare with a clean run."""
        made: dict[str, str] = {}
        with suppress(ArchiveUnsuitable):  # the options leave no pixel; a clean run must find that too
            try:
                finish(self.place.work(self.state, self.output))
            except OutputExists as error:  # an output that can no longer be told to be fusi's
                note(str(error))
                finish(self.place.work(self.state, self.output, overwrite=True))
            made = self.place.hashes(self.state, self.output)
        self.ran = True
        self.seen |= {name for name, _ in self.state.sources}
        assert made == self.place.expected(self.state)
        found = {str(path.relative_to(self.output)) for path in self.output.rglob("*") if path.is_file()}
        mine = {f"sources/{name}.{suffix}" for name in self.seen for suffix in ("mbtiles", "index.db")}
        mine |= {"all.pmtiles", "all.pmtiles.ledger", "from.pmtiles", "from.mbtiles"}
        assert not {
            one for one in found - mine if not one.split("/")[-1].removeprefix(".").startswith(self.gone())
        }

    def gone(self) -> tuple[str, ...]:
        """Return how files begin of sources that are no more, whose builds may have been left unfinished."""
        now = {name for name, _ in self.state.sources}
        return tuple(f"{name}." for name in self.seen - now) or ("\0",)


_CHOSEN = hypothesis_settings().max_examples
Incremental.TestCase.settings = hypothesis_settings(
    max_examples=6 if _CHOSEN == 100 else _CHOSEN,
    stateful_step_count=12 if _CHOSEN == 100 else 40,
    deadline=None,
    database=None,
    phases=[Phase.generate],  # a history is made shorter too slowly to wait for
    suppress_health_check=list(HealthCheck),
)
TestIncremental = Incremental.TestCase


# What is made again, and what is not


def merged(place: Path, names: tuple[str, ...], name: str = "all", **how: Any) -> MergeReport:
    """Merge built sources of a place."""
    paths = [place / "output" / "sources" / f"{one}.mbtiles" for one in names]
    return finish(merge_archives(paths, place / "output" / f"{name}.pmtiles", settings(place), **how))


def contents(path: Path) -> dict[Tile, bytes]:
    """Return every tile of an archive."""
    with open_archive(path) as reader:
        return {
            Tile(z, x, y): reader.read(Tile(z, x, y)) or b""
            for z in reader.counts()
            for x, y in reader.coordinates(z).tolist()
        }


def keys(path: Path) -> dict[Tile, str]:
    """Return the key of every block of an archive."""
    with MBTilesReader(path) as reader:
        return {record.tile: record.key for record in reader.ledger()}


FILES: dict[str, Any] = {"left": 9.5, "top": 50.4, "pixel": 0.01}
"""Over the corner of four blocks of zoom 5, at 11.25 east and 48.92 north."""


@pytest.fixture(scope="module")
def country(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source of 3 x 3 files, to zoom 7, built; and a coarse one below it; merged."""
    place = tmp_path_factory.mktemp("country")
    rasters.write_many(place / "store" / "fine", rasters.terrain(300, 360), 3, **FILES)
    coarse = rasters.terrain(80, 90, phase=2)
    rasters.write(place / "store" / "coarse" / "a.tif", coarse, left=7.0, top=53.0, pixel=0.1)
    for name in ("fine", "coarse"):
        built(place, name)
    merged(place, ("fine", "coarse"))
    return place


@pytest.fixture
def own(country: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed; times and all."""
    shutil.copytree(country, tmp_path / "own")
    return tmp_path / "own"


WEST, NORTH = 9.5 + 2 * 1.2, 50.4 - 2 * 1.0
"""Corner of the file `2-2.tif`, 1.2 by 1 degrees."""


def change_one_file(place: Path) -> Path:
    path = place / "store" / "fine" / "2-2.tif"
    return rasters.write(path, rasters.terrain(100, 120, phase=5), **{**FILES, "left": WEST, "top": NORTH})


def reachable(z: int) -> set[Tile]:
    """Return the blocks of zoom `z` that the file can reach, three of its pixels around it."""
    margin = 3 * 0.01
    box = (WEST - margin, NORTH - 1 - margin, WEST + 1.2 + margin, NORTH + margin)
    return {Tile(one.z, one.x, one.y) for one in mercantile.tiles(*box, z)}


def above(tiles: set[Tile]) -> set[Tile]:
    return {grid.parent(tile, levels) for tile in tiles for levels in range(1, tile.z + 1)}


def test_a_changed_file_costs_the_blocks_it_reaches_and_the_tiles_above(own: Path) -> None:
    path = own / "output" / "sources" / "fine.mbtiles"
    before, tiles_before = keys(path), contents(path)
    change_one_file(own)
    report = built(own, "fine")
    after, tiles_after = keys(path), contents(path)
    blocks = reachable(report.metadata.maxzoom - 2)
    wanted = (blocks | above(blocks)) & set(before)
    assert {tile for tile in before if before[tile] != after[tile]} == wanted
    assert len(blocks) == 1
    assert len(wanted) < len(before)
    assert (report.built, report.reused, report.removed) == (len(wanted), len(before) - len(wanted), 0)
    within = {
        tile
        for tile in tiles_after
        if tile in wanted or any(grid.parent(tile, up) in blocks for up in (0, 1, 2))
    }
    assert (report.tiles_built, report.tiles_reused) == (len(within), len(tiles_after) - len(within))
    assert report.bytes_built == sum(len(tiles_after[tile]) for tile in within)
    assert report.bytes_built + report.bytes_reused == report.bytes
    assert all(tiles_after[tile] == tiles_before[tile] for tile in set(tiles_after) - within)


def test_a_merge_makes_only_the_tiles_whose_contributors_changed(own: Path, tmp_path: Path) -> None:
    path = own / "output" / "sources" / "fine.mbtiles"
    before = contents(path)
    change_one_file(own)
    built(own, "fine")
    after = contents(path)
    report = merged(own, ("fine", "coarse"))
    changed = {tile for tile in after if before.get(tile) != after[tile]}
    assert report.merged + report.copied == len(changed)
    assert report.reused == report.tiles - len(changed)
    terrain = contents(report.path)
    assert report.bytes_merged + report.bytes_copied == sum(len(terrain[tile]) for tile in changed)
    assert report.bytes_reused == sum(len(data) for tile, data in terrain.items() if tile not in changed)
    clean = tmp_path / "all.pmtiles"
    finish(merge_archives([path, path.with_name("coarse.mbtiles")], clean, settings(tmp_path)))
    assert sha256(clean) == sha256(report.path)


def test_removed_tiles_and_blocks_are_counted(own: Path) -> None:
    path = own / "output" / "sources" / "fine.mbtiles"
    before, tiles_before = keys(path), contents(path)
    for path_of_file in (own / "store" / "fine").glob("*-[12].tif"):
        path_of_file.unlink()
    report = built(own, "fine")
    gone = len(set(tiles_before) - set(contents(path)))
    assert (report.removed, report.tiles_removed) == (len(set(before) - set(keys(path))), gone)
    out_before = contents(own / "output" / "all.pmtiles")
    merge = merged(own, ("fine", "coarse"))
    assert merge.removed == len(set(out_before) - set(contents(merge.path)))
    assert gone > 0


def test_a_file_of_another_resolution_far_away_costs_nothing_elsewhere(own: Path) -> None:
    options = BuildOptions(maxzoom=5)  # so that the fine files are averaged
    built(own, "fine", options)
    before = keys(own / "output" / "sources" / "fine.mbtiles")
    rasters.write(own / "store" / "fine" / "far.tif", rasters.plane(50, 50), left=60, top=0, pixel=0.008)
    report = built(own, "fine", options)
    after = keys(report.path)
    assert {tile for tile in before if tile.z == 3 and before[tile] != after[tile]} == set()


def test_a_damaged_block_alone_is_made_again(country: Path, own: Path) -> None:
    path = own / "output" / "sources" / "fine.mbtiles"
    with MBTilesReader(path) as reader:
        record = next(reader.ledger())
        (tile, data), *_ = reader.square(record.tile, record.tile.z + 2)
    flip(path, path.read_bytes().find(data[:64]) + 40)
    report = built(own, "fine")
    assert (report.built, report.reused) == (1, report.blocks - 1), tile
    assert sha256(path) == sha256(country / "output" / "sources" / "fine.mbtiles")


def test_a_damaged_tile_of_a_merge_alone_is_made_again(country: Path, own: Path) -> None:
    path = own / "output" / "all.pmtiles"
    tile, data = next(
        (tile, data)
        for tile, data in contents(path).items()
        if data not in contents(own / "output" / "sources" / "fine.mbtiles").values()
    )
    flip(path, path.read_bytes().find(data) + len(data) // 2)
    report = merged(own, ("fine", "coarse"))
    assert (report.changed, report.merged) == (True, 1), tile
    assert sha256(path) == sha256(country / "output" / "all.pmtiles")


def test_nothing_is_written_where_nothing_changed(own: Path) -> None:
    files = {path: path.stat().st_mtime_ns for path in (own / "output").rglob("*") if path.is_file()}
    (own / "store" / "fine" / "0-0.tif").touch()
    report = built(own, "fine")
    merge = merged(own, ("fine", "coarse"))
    assert (report.built, report.tiles_built, report.bytes_built) == (0, 0, 0)
    assert (merge.changed, merge.merged, merge.copied, merge.bytes_merged) == (False, 0, 0, 0)
    assert merge.bytes_reused == sum(map(len, contents(merge.path).values()))
    now = {path: path.stat().st_mtime_ns for path in (own / "output").rglob("*") if path.is_file()}
    assert {path.name for path in now if files.get(path) != now[path]} <= {"fine.index.db"}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sources that share tiles of low zooms and no pixel, built and merged."""
    place = tmp_path_factory.mktemp("two")
    rasters.write(place / "store" / "west" / "a.tif", rasters.terrain(60, 60), left=-60, top=40, pixel=0.1)
    rasters.write(place / "store" / "east" / "a.tif", rasters.plane(60, 60), left=20, top=50, pixel=0.1)
    for name in ("west", "east"):
        built(place, name)
    merged(place, ("west", "east"))
    return place


@pytest.fixture
def apart(two: Path, tmp_path: Path) -> Path:
    """A copy of them, to be changed."""
    shutil.copytree(two, tmp_path / "apart")
    return tmp_path / "apart"


@pytest.mark.parametrize(("mode", "feather_m"), [("priority", 0.0), ("mean", 0.0), ("feather", 5000.0)])
def test_sources_that_do_not_overlap_may_change_places_for_nothing(
    apart: Path, mode: str, feather_m: float
) -> None:
    merged(apart, ("west", "east"), mode=mode, feather_m=feather_m, lineage_output=apart / "from.pmtiles")
    shared = set(contents(apart / "output" / "sources" / "west.mbtiles")) & set(
        contents(apart / "output" / "sources" / "east.mbtiles")
    )
    assert shared
    how: dict[str, Any] = {"mode": mode, "feather_m": feather_m, "lineage_output": apart / "from.pmtiles"}
    report = merged(apart, ("east", "west"), **how)
    assert (report.merged, report.copied, report.reused) == (0, 0, report.tiles)
    kept, lineage = sha256(report.path), sha256(apart / "from.pmtiles")
    for path in (report.path, apart / "from.pmtiles", report.path.with_name("all.pmtiles.ledger")):
        path.unlink()
    clean = merged(apart, ("east", "west"), **how)
    assert clean.reused == 0
    assert (sha256(clean.path), sha256(apart / "from.pmtiles")) == (kept, lineage)


def test_a_source_far_away_touches_nothing_of_the_others(apart: Path) -> None:
    rasters.write(apart / "store" / "south" / "a.tif", rasters.plane(60, 60), left=30, top=-30, pixel=0.1)
    south = built(apart, "south")
    others: list[BuildReport] = [built(apart, name) for name in ("west", "east")]
    assert [one.built for one in others] == [0, 0]
    report = merged(apart, ("south", "west", "east"))
    assert report.merged + report.copied == south.tiles
    assert report.removed == 0


def test_a_lineage_that_is_wanted_later_costs_no_terrain(apart: Path) -> None:
    before = contents(apart / "output" / "all.pmtiles")
    report = merged(apart, ("west", "east"), lineage_output=apart / "from.mbtiles")
    assert (report.merged, report.copied, report.bytes_merged) == (0, 0, 0)
    assert contents(report.path) == before
    assert set(contents(apart / "from.mbtiles")) == set(before)


def test_what_lies_wholly_below_another_source_may_change_for_nothing(tmp_path: Path) -> None:
    pixel = 360 / 512 / 64
    for name, size, left, top in (("over", 1024, 0.0, 60.0), ("under", 128, 4.0, 57.0)):
        rasters.write(
            tmp_path / "store" / name / "a.tif", rasters.terrain(size, size), left=left, top=top, pixel=pixel
        )
        built(tmp_path, name, BuildOptions(minzoom=6, maxzoom=6))
    inner = set(contents(tmp_path / "output" / "sources" / "under.mbtiles"))
    first = merged(tmp_path, ("over", "under"))
    rasters.write(
        tmp_path / "store" / "under" / "a.tif", rasters.plane(128, 128), left=4.0, top=57.0, pixel=pixel
    )
    assert built(tmp_path, "under", BuildOptions(minzoom=6, maxzoom=6)).built > 0
    again = merged(tmp_path, ("over", "under"))
    with MBTilesReader(tmp_path / "output" / "sources" / "over.mbtiles") as reader:
        whole = [tile for tile in inner if (data := reader.read(tile)) and not data[24] >> 4 & 1]
    assert whole
    assert again.merged + again.copied <= len(inner) - len(whole)
    assert first.tiles == again.tiles


def test_the_hash_of_nothing_but_the_state_decides(country: Path, tmp_path: Path) -> None:
    """A copy of store and outputs with other times is read through and left as it is."""
    shutil.copytree(country, tmp_path / "copy", copy_function=shutil.copy)
    path = tmp_path / "copy" / "output" / "sources" / "fine.mbtiles"
    report = built(tmp_path / "copy", "fine")
    assert (report.built, report.reused) == (0, report.blocks)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == sha256(
        country / "output" / "sources" / "fine.mbtiles"
    )


def test_a_damaged_input_is_not_merged_into_anything(own: Path) -> None:
    path = own / "output" / "sources" / "coarse.mbtiles"
    fine = contents(own / "output" / "sources" / "fine.mbtiles")
    tile = next(tile for tile in contents(path) if tile in fine)
    other = next(data for one, data in contents(path).items() if one != tile)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "UPDATE tiles SET tile_data = ? WHERE zoom_level = ? AND tile_column = ? AND tile_row = ?",
            (other, tile.z, tile.x, (1 << tile.z) - 1 - tile.y),
        )
    with pytest.raises(ArchiveUnsuitable, match=f"{tile} is not what its ledger says"):
        merged(own, ("fine", "coarse"), "another")
    report = built(own, "coarse")
    assert 0 < report.built < report.blocks
    assert merged(own, ("fine", "coarse")).merged == 0
