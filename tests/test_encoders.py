"""The same archives by each encoder: other bytes, the same pixels; what another made is made again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fusi_pipeline.aggregate import build_source
from fusi_pipeline.errors import SettingInvalid
from fusi_pipeline.plan import BuildOptions
from fusi_pipeline.publish import merge_archives
from fusi_pipeline.settings import settings_from
from fusi_pipeline.tiles.grid import Tile
from fusi_pipeline.tiles.image import ENCODERS, decode_webp
from fusi_pipeline.tiles.open import open_archive
from tests import rasters
from tests.test_build import built, finish, settings


def tiles_of(path: Path) -> dict[Tile, bytes]:
    with open_archive(path) as reader:
        places = [Tile(z, x, y) for z in reader.counts() for x, y in reader.coordinates(z).tolist()]
        return {tile: reader.read(tile) or b"" for tile in places}


def assert_same_pixels(one: Path, other: Path) -> None:
    ours, theirs = tiles_of(one), tiles_of(other)
    assert ours.keys() == theirs.keys()
    for tile, data in ours.items():
        assert np.array_equal(decode_webp(data), decode_webp(theirs[tile]))
    assert ours != theirs


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two sources that overlap."""
    folder = tmp_path_factory.mktemp("encoders")
    for name, left, base_m in (("east", 7.4, 100.0), ("west", 7.0, -40.0)):
        heights = rasters.terrain(300, 360, base_m=base_m)
        absent = np.roll(rasters.hole(300, 360, share=0.1), (60, 40), axis=(0, 1))
        rasters.write(
            folder / "store" / name / "a.tif",
            heights,
            left=left,
            top=46,
            pixel=0.002,
            nodata=-1,
            absent=absent,
        )
    return folder


def test_archives_have_the_same_pixels_whoever_writes_them(store: Path) -> None:
    outputs = {}
    for name in ENCODERS:
        own = settings(store, FUSI_ENCODER=name, FUSI_OUTPUT_DIR=str(store / name))
        options = BuildOptions(minzoom=6)
        paths = [finish(build_source(one, own, options)).path for one in ("east", "west")]
        output = store / name / "out.pmtiles"
        lineage = store / name / "lineage.pmtiles"
        finish(merge_archives(paths, output, own, mode="feather", feather_m=3000.0, lineage_output=lineage))
        outputs[name] = (*paths, output, lineage)
    for name in ENCODERS[1:]:
        for one, other in zip(outputs[ENCODERS[0]], outputs[name], strict=True):
            assert_same_pixels(one, other)


def test_another_encoder_makes_everything_again(store: Path) -> None:
    options = BuildOptions(minzoom=7)
    output = str(store / "again")
    first = built(store, "east", options, FUSI_OUTPUT_DIR=output)
    assert built(store, "east", options, FUSI_OUTPUT_DIR=output).built == 0
    other = built(store, "east", options, FUSI_OUTPUT_DIR=output, FUSI_ENCODER="libwebp")
    assert (other.built, other.reused) == (first.blocks, 0)

    def merged(name: str) -> tuple[bool, int]:
        own = settings(store, FUSI_OUTPUT_DIR=output, FUSI_ENCODER=name)
        report = finish(merge_archives([other.path], Path(output) / "out.pmtiles", own))
        return report.changed, report.merged

    changed, count = merged("fusi")
    assert changed
    assert count > 0
    assert merged("fusi") == (False, 0)
    assert merged("fusi-fast") == (True, count)


def test_an_encoder_that_is_not_there_is_refused() -> None:
    assert settings_from({}).encoder == "fusi"
    with pytest.raises(SettingInvalid, match="FUSI_ENCODER"):
        settings_from({"FUSI_ENCODER": "cwebp"})
