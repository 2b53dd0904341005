"""From rasters to a finished layer in one run: all is noted as the assets that it is, nothing made twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import rasters

from fusi_pipeline import definitions as terrain_location
from fusi_pipeline.tiles.open import open_archive
from layer_generation.defs import from_rasters, headless, registry
from layer_generation.defs.from_rasters import FromRastersConfig
from layer_generation.defs.sites import Site, find_sites
from layer_generation.layer import status_of
from layer_generation.settings import Places

SILENT = {"telemetry": {"enabled": False}}
MADE = dg.DagsterEventType.ASSET_MATERIALIZATION
CHECKED = dg.DagsterEventType.ASSET_CHECK_EVALUATION


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral(settings=SILENT) as one:
        yield one


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    """Places with a raster and no layer."""
    rasters.write(tmp_path / "store" / "coarse" / "a.tif", rasters.plane(40, 40), pixel=0.1)
    monkeypatch.setenv("FUSI_SOURCE_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("FUSI_OUTPUT_DIR", str(tmp_path / "output"))
    monkeypatch.setenv("FUSI_WORKERS", "1")
    return Places(layers_dir=tmp_path / "layers", output_dir=tmp_path / "output")


def made(instance: dg.DagsterInstance, places: Places, **config: object) -> bool:
    """Run the job on the location as it is now."""
    layers = registry.layers(places, terrain=terrain_location.terrain_from_rasters)
    location = dg.Definitions.merge(terrain_location.defs, layers)
    stated = FromRastersConfig.model_validate({"layer": "snow", **config})
    return headless.from_rasters(instance, location, stated)


def noted(instance: dg.DagsterInstance, kind: dg.DagsterEventType) -> Counter[str]:
    """Return how often each asset, or check, is noted by the last run."""
    (run, *_) = instance.get_runs(limit=1)
    found: Counter[str] = Counter()
    for entry in instance.all_logs(run.run_id, of_type=kind):
        assert entry.dagster_event is not None
        if kind == CHECKED:
            check = entry.dagster_event.asset_check_evaluation_data
            assert check.passed
            found[check.check_name] += 1
        elif entry.dagster_event.asset_key is not None:
            found[entry.dagster_event.asset_key.to_user_string()] += 1
    return found


def partitions(site: Site) -> Counter[str]:
    return Counter(site.stage_key(one.stage).to_user_string() for one in site.regions)


def test_one_run_makes_terrain_map_plan_regions_and_archive(
    instance: dg.DagsterInstance, places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    assert made(instance, places, zoom=7, region=3)
    assert len(instance.get_runs()) == 1
    (site,) = find_sites(places)
    assert site.side == 3
    whole = ["source_index", "source_mbtiles", "terrain_pmtiles", "terrain_lineage_pmtiles",
             "snow_map/layer_map", "snow/layer_plan", "snow/layer_pmtiles"]  # fmt: skip
    assert noted(instance, MADE) == Counter(whole) + partitions(site)
    checks = [
        "source_index_files",
        "mbtiles_sound",
        "terrain_sound",
        "lineage_sound",
        "layer_covered",
        "layer_seams",
    ]
    assert noted(instance, CHECKED) == Counter(checks)
    assert instance.get_materialized_partitions(dg.AssetKey("source_mbtiles")) == {"coarse"}
    for stage, names in site.regions.partitions.items():
        assert instance.get_materialized_partitions(site.stage_key(stage)) == set(names)
    assert status_of(site.folder).complete == status_of(site.folder).total > 0
    with open_archive(site.output) as reader:
        assert reader.counts()[7] == status_of(site.folder).quadrants
    capsys.readouterr()

    pictures = {path: path.stat().st_mtime_ns for path in (site.folder / "generations").glob("*.png")}
    archive = site.output.stat().st_mtime_ns
    assert made(instance, places), "the layer is there, so no zoom is needed"
    assert noted(instance, MADE) == Counter(whole[:-1]), "no region and no archive again"
    assert pictures == {path: path.stat().st_mtime_ns for path in (site.folder / "generations").glob("*.png")}
    assert site.output.stat().st_mtime_ns == archive
    assert f"0 of {partitions(site).total()} partitions are to be made" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, "give a zoom to have it made"),
        ({"sources": ["coarse"]}, "sources and archive go together"),
        ({"archive": "../x.pmtiles"}, "expected the name of a file"),
        ({"sources": ["none"], "archive": "x.pmtiles"}, "none"),
    ],
)
def test_what_cannot_be_made_is_said_in_a_line(
    instance: dg.DagsterInstance,
    places: Places,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    config: dict[str, object],
    said: str,
) -> None:
    if not config:  # the terrain is another test's
        monkeypatch.setattr(terrain_location, "terrain_from_rasters", None)
    assert not made(instance, places, **config)
    out = capsys.readouterr().out
    assert said in out
    assert "Traceback" not in out
    assert not places.layers_dir.exists()


def test_the_job_is_there_without_any_layer(places: Places) -> None:
    assert registry.layers(places).get_repository_def().has_job(from_rasters.JOB)
