"""The command: what it makes of good and bad input, in exit codes, one line and JSON."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

from fusi_pipeline import cli
from fusi_pipeline.tiles.grid import Tile, tile_at
from fusi_pipeline.tiles.image import encode_webp
from fusi_pipeline.tiles.mbtiles_writer import MBTilesWriter
from fusi_pipeline.tiles.pmtiles import PMTilesReader
from tests import rasters

PROGRESS = re.compile(r"(scan|build|merge|pack|verify)( \S+)? \d+/\d+ ")
ENVIRONMENT = (
    *("FUSI_SOURCE_STORE", "FUSI_OUTPUT_DIR", "FUSI_WORKERS", "FUSI_MEMORY_MB", "FUSI_WARP_THREADS"),
    *("FUSI_IO_SLEEP_MS", "FUSI_PROGRESS_INTERVAL", "GDAL_CACHEMAX", "TMPDIR"),
)


@dataclass(frozen=True)
class Answer:
    """What a command answered."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> list[str]:
        """The lines on standard error that are no progress."""
        return [line for line in self.err.splitlines() if line and not PROGRESS.match(line)]

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class Fusi:
    """The command in a folder with `store` and `output`."""

    folder: Path
    patched: pytest.MonkeyPatch
    captured: pytest.CaptureFixture[str]

    def __call__(self, *words: object, **environment: str) -> Answer:
        for name, value in environment.items():
            self.patched.setenv(name, value)
        self.patched.setattr(sys, "argv", ["fusi", *map(str, words)])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = 0 if end.code is None else int(end.code)
        out, err = self.captured.readouterr()
        assert "Traceback" not in err
        return Answer(code, out, err)


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two small sources, built and merged, not to be changed."""
    folder = tmp_path_factory.mktemp("ready")
    rasters.write(folder / "store" / "hills" / "a.tif", rasters.terrain(60, 60), pixel=0.02)
    absent = rasters.hole(60, 60)
    rasters.write(
        folder / "store" / "dales" / "a.tif",
        rasters.plane(60, 60),
        left=7.7,
        pixel=0.02,
        nodata=-1,
        absent=absent,
    )
    subprocess.run(
        [
            sys.executable,
            "-m",
            "fusi_pipeline.cli",
            "aggregate",
            "hills",
            "dales",
            "-o",
            folder / "all.pmtiles",
            "--source-store",
            folder / "store",
            "--output-dir",
            folder / "output",
        ],
        check=True,
        capture_output=True,
    )
    return folder


@pytest.fixture
def fusi(
    ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Fusi:
    shutil.copytree(ready, tmp_path, dirs_exist_ok=True)
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FUSI_SOURCE_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("FUSI_OUTPUT_DIR", str(tmp_path / "output"))
    monkeypatch.chdir(tmp_path)
    return Fusi(tmp_path, monkeypatch, capsys)


# Reports


REPORTING = {
    "scan": ("scan", "hills", "dales"),
    "plan": ("plan", "hills", "--max-zoom", 6),
    "build": ("build", "hills"),
    "merge": ("merge", "output/sources/hills.mbtiles", "-o", "one.pmtiles"),
    "aggregate": ("aggregate", "hills", "dales", "-o", "all.pmtiles"),
    "convert": ("convert", "store/hills/a.tif", "hills.pmtiles"),
    "pack": ("pack", "output/sources/hills.mbtiles", "packed.pmtiles"),
    "show": ("show", "all.pmtiles"),
    "tile": ("tile", "all.pmtiles", 0, 0, 0),
    "verify": ("verify", "all.pmtiles"),
}


@pytest.mark.parametrize("command", REPORTING)
def test_every_report_is_json_when_asked_for(fusi: Fusi, command: str) -> None:
    answer = fusi(*REPORTING[command], "--json")
    assert answer.code == 0, answer.err
    assert answer.said == []
    assert answer.json


@pytest.mark.parametrize("command", [name for name in REPORTING if name != "tile"])
def test_every_report_is_text_otherwise(fusi: Fusi, command: str) -> None:
    answer = fusi(*REPORTING[command])
    assert (answer.code, answer.said) == (0, [])
    assert answer.out.strip()


def test_every_command_that_reports_has_json() -> None:
    reporting = {
        name for name, one in cli.cli.commands.items() if any(p.name == "as_json" for p in one.params)
    }
    assert reporting >= set(REPORTING)


def test_json_says_what_was_done(fusi: Fusi) -> None:
    (scanned,) = fusi("scan", "dales", "--json").json
    assert (scanned["name"], scanned["files"], scanned["broken"]) == ("dales", 1, [])
    assert 0.5 < scanned["valid_share"] < 0.9
    (built,) = fusi("build", "dales", "--json").json
    assert built["built"] == 0
    assert built["metadata"]["encoding"] == "terrarium"
    merged = fusi("merge", built["path"], "-o", "dales.pmtiles", "--json").json
    assert merged["tiles"] == built["tiles"]
    verified = fusi("verify", "dales.pmtiles", "--json").json
    assert verified["sound"] is True
    assert verified["tiles"] == merged["tiles"]
    shown = fusi("show", "dales.pmtiles", "--json").json
    assert sum(shown["tiles_by_zoom"].values()) == merged["tiles"]
    assert shown["metadata"]["maxzoom"] == built["metadata"]["maxzoom"]


def test_a_plan_is_an_upper_bound_of_the_build(fusi: Fusi) -> None:
    (planned,) = fusi("plan", "hills", "--json").json
    (built,) = fusi("build", "hills", "--json").json
    assert planned["tiles"] >= built["tiles"]
    assert planned["blocks"] >= 1
    assert {"bytes", "memory_mib", "scratch_bytes", "seconds"} <= planned.keys()


def test_a_height_is_that_of_the_source(fusi: Fusi) -> None:
    rasters.write(fusi.folder / "store" / "flat" / "a.tif", np.full((60, 60), 417.0), pixel=0.02)
    (built,) = fusi("build", "flat", "--json").json
    tile = tile_at(7.3, 46.7, built["metadata"]["maxzoom"])
    words = ("tile", built["path"], tile.z, tile.x, tile.y, "--elevation", "7.3,46.7")
    assert fusi(*words).out == "417 m\n"
    assert fusi(*words, "--json").json == {"elevation_m": 417.0}
    nowhere = fusi("tile", built["path"], 0, 0, 0, "--elevation", "100,0")
    assert (nowhere.code, nowhere.out) == (0, "no data\n")


def test_a_tile_goes_to_a_file_as_it_is(fusi: Fusi) -> None:
    with PMTilesReader(fusi.folder / "all.pmtiles") as reader:
        data = reader.read(Tile(0, 0, 0))
    assert fusi("tile", "all.pmtiles", 0, 0, 0, "-o", "tile.webp").code == 0
    assert (fusi.folder / "tile.webp").read_bytes() == data


# Settings and options


def test_the_environment_says_where_things_are(fusi: Fusi) -> None:
    elsewhere = fusi.folder / "elsewhere"
    answer = fusi("build", "hills", "--json", FUSI_OUTPUT_DIR=str(elsewhere))
    assert answer.json[0]["path"] == str(elsewhere / "sources" / "hills.mbtiles")
    assert (elsewhere / "sources" / "hills.mbtiles").exists()


def test_an_option_outweighs_the_environment(fusi: Fusi) -> None:
    answer = fusi(
        "build", "hills", "--output-dir", "here", "--json", FUSI_OUTPUT_DIR=str(fusi.folder / "there")
    )
    assert answer.code == 0
    assert (fusi.folder / "here" / "sources" / "hills.mbtiles").exists()
    assert not (fusi.folder / "there").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FUSI_WORKERS", "many"),
        ("FUSI_MEMORY_MB", "0"),
        ("FUSI_WARP_THREADS", "0"),
        ("FUSI_IO_SLEEP_MS", "-1"),
        ("FUSI_PROGRESS_INTERVAL", "x"),
        ("GDAL_CACHEMAX", "lots"),
        ("FUSI_MB_CHECKPOINT_INTERVAL", "0"),
        ("FUSI_MB_COMMIT_SLEEP_SEC", "inf"),
        ("FUSI_MB_BATCH_SLEEP_SEC", "soon"),
    ],
)
def test_a_bad_variable_is_refused_by_name(fusi: Fusi, name: str, value: str) -> None:
    answer = fusi("build", "hills", **{name: value})
    assert answer.code == 2
    (line,) = answer.said
    assert line.startswith(f"fusi: {name}=")
    assert value in line


def test_pauses_and_threads_are_honoured_and_change_no_byte(fusi: Fusi) -> None:
    before = (fusi.folder / "output" / "sources" / "hills.mbtiles").read_bytes()
    answer = fusi(
        "build",
        "hills",
        "--output-dir",
        "again",
        "--workers",
        1,
        "--warp-threads",
        2,
        "--io-sleep-ms",
        5,
        "--progress-interval",
        0,
        FUSI_MB_COMMIT_SLEEP_SEC="0.01",
        FUSI_MB_CHECKPOINT_INTERVAL="1",
    )
    assert answer.code == 0
    assert sum("build" in line for line in answer.err.splitlines()) > 3
    assert (fusi.folder / "again" / "sources" / "hills.mbtiles").read_bytes() == before


def test_no_keep_intermediates_leaves_the_result_alone(fusi: Fusi) -> None:
    words = ("aggregate", "hills", "-o", "x.pmtiles", "--output-dir", "fresh", "--no-keep-intermediates")
    assert fusi(*words).code == 0
    assert not list((fusi.folder / "fresh").rglob("*.mbtiles"))
    assert (fusi.folder / "x.pmtiles").exists()


# Bad input


def broken_source(fusi: Fusi, write: Callable[[Path], object]) -> None:
    write(fusi.folder / "store" / "bad" / "b.tif")


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "unreadable": (lambda path: path.parent.mkdir() or path.write_text("no raster"), "cannot be opened"),
    "truncated": (
        lambda path: rasters.truncate(rasters.write(path, rasters.terrain(200, 200)), 0.5),
        "truncated",
    ),
    "without CRS": (lambda path: rasters.write(path, rasters.plane(20, 20), crs=None), "no CRS"),
    "of two bands": (rasters.write_two_bands, "2 bands"),
    "rotated": (rasters.write_rotated, "rotated"),
    "outside web mercator": (
        lambda path: rasters.write(path, rasters.plane(20, 20), top=89.9, pixel=0.01),
        "outside web mercator",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_named_and_fails_the_build(fusi: Fusi, case: str) -> None:
    write, words = BROKEN[case]
    broken_source(fusi, write)
    answer = fusi("build", "bad")
    assert answer.code == 1
    (line,) = answer.said
    assert line.startswith("fusi: source 'bad': b.tif: ")
    assert words in line
    assert not (fusi.folder / "output" / "sources" / "bad.mbtiles").exists()


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_left_out_and_listed_when_told(fusi: Fusi, case: str) -> None:
    broken_source(fusi, BROKEN[case][0])
    rasters.write(fusi.folder / "store" / "bad" / "good.tif", rasters.plane(30, 30))
    answer = fusi("scan", "bad", "--skip-broken", "--json")
    assert answer.code == 0
    assert [filename for filename, _ in answer.json[0]["broken"]] == ["b.tif"]
    assert fusi("build", "bad", "--skip-broken", "--min-zoom", 6).code == 0


def a_source_without_rasters(fusi: Fusi) -> None:
    (fusi.folder / "store" / "bad").mkdir()


def a_source_without_valid_pixel(fusi: Fusi) -> None:
    rasters.write(fusi.folder / "store" / "bad" / "b.tif", np.full((20, 20), -9999.0), nodata=-9999)


def a_bad_configuration(fusi: Fusi) -> None:
    rasters.write(fusi.folder / "store" / "bad" / "b.tif", rasters.plane(20, 20))
    (fusi.folder / "store" / "bad" / "source.toml").write_text('resampling = "lanczos"\n')


def a_file_for_an_output_folder(fusi: Fusi) -> None:
    shutil.rmtree(fusi.folder / "output")
    (fusi.folder / "output").touch()


def a_foreign_archive(fusi: Fusi) -> None:
    path = fusi.folder / "output" / "sources" / "hills.mbtiles"
    path.unlink()
    path.write_text("precious")


def a_foreign_pmtiles(fusi: Fusi) -> None:
    (fusi.folder / "all.pmtiles").write_text("precious")


def a_text_for_an_archive(fusi: Fusi) -> None:
    (fusi.folder / "in.mbtiles").write_text("text")


def an_archive_of_pictures(fusi: Fusi) -> None:
    shutil.copy(fusi.folder / "output" / "sources" / "hills.mbtiles", fusi.folder / "in.mbtiles")
    with closing(sqlite3.connect(fusi.folder / "in.mbtiles")) as connection, connection:
        connection.execute("DELETE FROM metadata WHERE name = 'encoding'")


def tiles_replaced(fusi: Fusi, data: bytes, where: str = "1") -> None:
    shutil.copy(fusi.folder / "output" / "sources" / "hills.mbtiles", fusi.folder / "in.mbtiles")
    with closing(sqlite3.connect(fusi.folder / "in.mbtiles")) as connection, connection:
        connection.execute(f"UPDATE tiles SET tile_data = ? WHERE {where}", (data,))


def an_archive_of_small_tiles(fusi: Fusi) -> None:
    tiles_replaced(fusi, encode_webp(np.full((128, 128, 3), (128, 0, 0), np.uint8)))


def an_archive_with_a_corrupt_tile(fusi: Fusi) -> None:
    tiles_replaced(fusi, b"RIFF\0\0\0\0WEBPgarbage", "zoom_level = 3")


def nothing(fusi: Fusi) -> None:
    """Leave all as it is."""


MERGE = ("merge", "in.mbtiles", "-o", "out.pmtiles")
BAD: dict[str, tuple[Callable[[Fusi], None], tuple[object, ...], int, str]] = {
    "an unknown source": (nothing, ("build", "nowhere"), 2, r"'nowhere': no folder .*dales, hills"),
    "no source store": (nothing, ("build", "hills", "--source-store", "none"), 2, r"no folder none/hills"),
    "a path for a name": (nothing, ("build", "../hills"), 2, r"'\.\./hills': expected the name of a folder"),
    "an empty source": (a_source_without_rasters, ("build", "bad"), 1, "holds no raster"),
    "a source all void": (a_source_without_valid_pixel, ("build", "bad"), 1, "not one valid pixel"),
    "a bad source.toml": (a_bad_configuration, ("build", "bad"), 2, "lanczos.*expected one of"),
    "a zoom range upside down": (
        nothing,
        ("build", "hills", "--min-zoom", 5, "--max-zoom", 4),
        2,
        r"zoom range 5\.\.4",
    ),
    "a lowest zoom above the data": (
        nothing,
        ("build", "hills", "--min-zoom", 12),
        2,
        r"zoom range 12\.\.\d",
    ),
    "a box beside the data": (
        nothing,
        ("build", "hills", "--bbox", "20,20,21,21"),
        2,
        "does not touch the data, which covers 7,45.8",
    ),
    "an output folder that is a file": (
        a_file_for_an_output_folder,
        ("build", "hills"),
        1,
        "cannot be written",
    ),
    "a foreign MBTiles": (a_foreign_archive, ("build", "hills"), 2, "--overwrite"),
    "a foreign PMTiles": (
        a_foreign_pmtiles,
        ("merge", "output/sources/hills.mbtiles", "-o", "all.pmtiles"),
        2,
        "--overwrite",
    ),
    "too small a budget": (
        nothing,
        ("build", "hills", "--max-zoom", 5, "--memory-mb", 50),
        2,
        r"--memory-mb 50: one worker needs \d+",
    ),
    "a source named twice": (
        nothing,
        ("aggregate", "hills", "hills", "-o", "x.pmtiles"),
        2,
        "name each source once",
    ),
    "an archive that is missing": (nothing, MERGE, 2, r"in\.mbtiles: no such archive"),
    "a text for an archive": (a_text_for_an_archive, MERGE, 1, "neither MBTiles nor PMTiles"),
    "an archive that is not terrain": (an_archive_of_pictures, MERGE, 1, "not known to be terrain"),
    "tiles of another size": (an_archive_of_small_tiles, MERGE, 1, "128 x 128 px"),
    "a corrupt tile": (an_archive_with_a_corrupt_tile, MERGE, 1, "tile 3/4/2 is corrupt"),
    "an output that is no PMTiles": (
        nothing,
        ("merge", "output/sources/hills.mbtiles", "-o", "x.mbtiles"),
        2,
        r"\.pmtiles",
    ),
    "an output that is an input": (
        nothing,
        ("merge", "all.pmtiles", "-o", "all.pmtiles"),
        2,
        "also an input",
    ),
    "a raster that is missing": (
        nothing,
        ("convert", "none.tif", "x.pmtiles"),
        2,
        r"none\.tif: no such file",
    ),
    "a tile off the grid": (nothing, ("tile", "all.pmtiles", 2, 4, 0), 2, "not on the grid"),
    "a tile that is not there": (nothing, ("tile", "all.pmtiles", 5, 0, 0), 1, "has no tile 5/0/0"),
    "a position in another tile": (
        nothing,
        ("tile", "all.pmtiles", 1, 1, 0, "--elevation", "-100,40"),
        2,
        "is in tile 1/0/0",
    ),
    "an archive to show that is none": (a_text_for_an_archive, ("show", "in.mbtiles"), 1, "neither"),
    "an archive to verify that is none": (a_text_for_an_archive, ("verify", "in.mbtiles"), 1, "neither"),
    "an archive to pack that is missing": (
        nothing,
        ("pack", "none.mbtiles", "x.pmtiles"),
        2,
        "no such archive",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_answered_in_one_line(fusi: Fusi, case: str) -> None:
    prepare, words, code, pattern = BAD[case]
    prepare(fusi)
    answer = fusi(*words)
    assert answer.code == code
    (line,) = answer.said
    assert line.startswith("fusi: ")
    assert re.search(pattern, line), line
    assert not {"out.pmtiles", "x.pmtiles", "x.mbtiles"} & {path.name for path in fusi.folder.iterdir()}


def test_a_foreign_file_is_replaced_when_told(fusi: Fusi) -> None:
    good = (fusi.folder / "output" / "sources" / "hills.mbtiles").read_bytes()
    a_foreign_archive(fusi)
    assert fusi("build", "hills", "--overwrite").code == 0
    assert (fusi.folder / "output" / "sources" / "hills.mbtiles").read_bytes() == good


def test_a_second_run_at_once_is_refused(fusi: Fusi) -> None:
    path = fusi.folder / "output" / "sources" / "hills.mbtiles"
    path.unlink()
    with MBTilesWriter(path) as writer:
        answer = fusi("build", "hills")
        writer.discard()
    assert answer.code == 1
    (line,) = answer.said
    assert "another fusi process is writing it" in line


USAGE: dict[str, tuple[tuple[object, ...], str]] = {
    "an unknown command": (("biuld", "hills"), "biuld"),
    "an unknown option": (("build", "hills", "--max-zom", 5), "--max-zom"),
    "no source": (("build",), "NAME"),
    "no output": (("merge", "all.pmtiles"), "--output"),
    "a zoom that is no number": (("build", "hills", "--max-zoom", "deep"), "--max-zoom"),
    "a zoom beyond the grid": (("build", "hills", "--max-zoom", 31), "--max-zoom"),
    "a box of three": (("build", "hills", "--bbox", "1,2,3"), "west,south,east,north"),
    "a box upside down": (("build", "hills", "--bbox", "7,47,8,46"), "south < north"),
    "a box beyond the world": (("build", "hills", "--bbox", "7,46,190,47"), "-180..180"),
    "a box that is not a number": (("build", "hills", "--bbox", "nan,46,8,47"), "nan"),
    "no worker": (("build", "hills", "--workers", 0), "--workers"),
    "an unknown mode": (("merge", "all.pmtiles", "-o", "x.pmtiles", "--mode", "median"), "median"),
    "an unknown packer": (("pack", "all.pmtiles", "x.pmtiles", "--packer", "zip"), "zip"),
    "a position of one number": (("tile", "all.pmtiles", 0, 0, 0, "--elevation", "7"), "lon,lat"),
}


@pytest.mark.parametrize("case", USAGE)
def test_a_wrong_command_is_a_usage_error_that_names_what_is_wrong(fusi: Fusi, case: str) -> None:
    words, named = USAGE[case]
    answer = fusi(*words)
    assert answer.code == 2
    assert answer.said[0].startswith("Usage: ")
    assert answer.said[-1].startswith("Error: ")
    assert named in answer.said[-1]


def every_command() -> list[str]:
    return cli.cli.list_commands(click.Context(cli.cli))


def test_commands_of_other_packages_are_loaded_only_when_they_are_asked_for() -> None:
    """They bring httpx and more, which would double the start of every build."""
    assert {"layer", "image", "app"} <= set(every_command())
    asking = "import sys; from fusi_pipeline import cli; sys.argv[1:] = ['build', '--help']; cli.main()"
    said = f"import atexit, sys; atexit.register(lambda: print('layer_generation' in sys.modules)); {asking}"
    ended = subprocess.run([sys.executable, "-c", said], check=True, capture_output=True, text=True)
    assert ended.stdout.splitlines()[-1] == "False"


def test_a_command_that_does_not_load_is_named_and_left_out(fusi: Fusi) -> None:
    entry = EntryPoint("contours", "no_such_package:contours", "fusi.commands")
    fusi.patched.setattr(cli, "_entries", lambda: {"contours": entry})
    for words in (("contours",), ("--help",)):
        cli._loaded.cache_clear()
        answer = fusi(*words)
        assert answer.code == (2 if words == ("contours",) else 0)
        assert "command 'contours' of no_such_package:contours does not load" in answer.said[0]
    assert fusi("show", "--help").said == []


def test_help_and_version_go_to_standard_output(fusi: Fusi) -> None:
    for words in (("--help",), ("--version",), *((name, "--help") for name in every_command())):
        answer = fusi(*words)
        assert (answer.code, answer.err) == (0, "")
        assert answer.out


def test_an_unsound_archive_fails_its_verification_by_name(fusi: Fusi) -> None:
    an_archive_with_a_corrupt_tile(fusi)
    answer = fusi("verify", "in.mbtiles", "--sample", 0)
    assert answer.code == 1
    assert "3/4/2" in answer.out
    told = fusi("verify", "in.mbtiles", "--sample", 0, "--json")
    assert (told.code, told.json["sound"]) == (1, False)


def test_the_installed_command_is_this_one(ready: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fusi_pipeline.cli", "show", ready / "none.pmtiles"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == f"fusi: {ready / 'none.pmtiles'}: no such archive\n"


# What is in the way


def corrupt(archive: Path) -> Tile:
    """Break a tile of an MBTiles at its highest zoom, and return it."""
    with closing(sqlite3.connect(archive)) as connection:
        z, x, row = connection.execute(
            "SELECT zoom_level, tile_column, tile_row FROM tiles ORDER BY zoom_level DESC LIMIT 1"
        ).fetchone()
        connection.execute(
            "UPDATE tiles SET tile_data = x'52494646'"
            " WHERE zoom_level = ? AND tile_column = ? AND tile_row = ?",
            (z, x, row),
        )
        connection.commit()
    return Tile(z, x, (1 << z) - 1 - row)


def test_a_tile_damaged_after_a_merge_is_found_and_mended_as_the_message_says(fusi: Fusi) -> None:
    archive = fusi.folder / "output" / "sources" / "hills.mbtiles"
    assert fusi("merge", archive, "-o", "one.pmtiles").code == 0
    tile = corrupt(archive)
    (line,) = fusi("merge", archive, "-o", "two.pmtiles").said
    assert str(tile) in line
    assert "fusi build NAME --overwrite" in line
    report = fusi("build", "hills", "--overwrite", "--json").json[0]
    assert (report["reused"], report["built"]) == (0, report["blocks"])
    assert fusi("merge", archive, "-o", "one.pmtiles").code == 0


@pytest.mark.parametrize(
    "words",
    [
        ("preview", "all.pmtiles", "all.pmtiles", "--overwrite"),
        ("preview", "all.pmtiles", "letter.txt"),
        ("tile", "all.pmtiles", 0, 0, 0, "-o", "all.pmtiles", "--overwrite"),
        ("tile", "all.pmtiles", 0, 0, 0, "-o", "letter.txt"),
        ("pack", "all.pmtiles", "all.pmtiles", "--overwrite"),
        ("pack", "output/sources/hills.mbtiles", "letter.txt", "--overwrite"),
        ("aggregate", "hills", "dales", "-o", "letter.txt", "--max-zoom", 5),
        ("aggregate", "hills", "dales", "-o", "letter.pmtiles", "--max-zoom", 5),
    ],
)
def test_what_a_command_did_not_write_stays_and_nothing_is_begun(
    fusi: Fusi, words: tuple[object, ...]
) -> None:
    for name in ("letter.txt", "letter.pmtiles"):
        (fusi.folder / name).write_text("dear reader")
    before = {path: path.read_bytes() for path in fusi.folder.rglob("*") if path.is_file()}
    answer = fusi(*words)
    assert (answer.code, len(answer.said)) == (2, 1), answer.err
    assert {path: path.read_bytes() for path in fusi.folder.rglob("*") if path.is_file()} == before


def test_a_picture_is_drawn_again_over_itself(fusi: Fusi) -> None:
    assert fusi("preview", "all.pmtiles", "all.png").code == 0
    assert fusi("preview", "all.pmtiles", "all.png").code == 0


@pytest.mark.parametrize(
    "words",
    [
        ("build", "hills", "--output-dir", "/proc/none"),
        ("build", "hills", "--output-dir", "long" * 80),
        ("preview", "all.pmtiles", "/proc/none.png"),
        ("tile", "all.pmtiles", 0, 0, 0, "-o", "/proc/none.webp"),
        ("merge", "all.pmtiles", "-o", "long" * 80 + ".pmtiles"),
    ],
)
def test_an_output_that_cannot_be_written_is_one_line(fusi: Fusi, words: tuple[object, ...]) -> None:
    answer = fusi(*words)
    assert (answer.code, len(answer.said)) == (1, 1), answer.err


def test_convert_says_what_is_wrong_with_the_raster_and_leaves_nothing(fusi: Fusi) -> None:
    raster = rasters.write(fusi.folder / "odd.tif", rasters.plane(10, 10), crs=None)
    answer = fusi("convert", raster, "odd.pmtiles")
    assert answer.code == 1
    (line,) = answer.said
    assert "odd.tif" in line
    assert "--skip-broken" not in line
    assert not list(fusi.folder.glob("odd.pmtiles*"))


def test_a_lowest_zoom_above_the_base_zoom_says_which_that_is(fusi: Fusi) -> None:
    answer = fusi("build", "hills", "--min-zoom", 20)
    assert answer.code == 2
    (line,) = answer.said
    assert "base zoom of source 'hills'" in line


@pytest.mark.parametrize("own", [None, "own"], ids=["beside the output", "as the user set it"])
def test_the_pmtiles_command_gets_its_scratch_folder(fusi: Fusi, own: str | None) -> None:
    command = fusi.folder / "bin" / "pmtiles"
    command.parent.mkdir()
    command.write_text("#!/bin/sh\necho TMPDIR is $TMPDIR; exit 1\n")
    command.chmod(0o755)
    fusi.patched.setenv("PATH", str(command.parent), prepend=":")
    scratch = {} if own is None else {"TMPDIR": str(fusi.folder / own)}
    words = ("pack", "output/sources/hills.mbtiles", "packed/one.pmtiles", "--packer", "cli")
    answer = fusi(*words, **scratch)
    assert answer.code == 1
    (line,) = answer.said
    assert f"TMPDIR is {fusi.folder / (own or 'packed')};" in line
    assert not list((fusi.folder / "packed").iterdir())
