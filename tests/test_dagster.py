"""The code location, its runs on an instance of their own, and what happens by itself."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import logging
import os
import shutil
import time
from collections.abc import Generator, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import dagster as dg
import numpy as np
import pytest
import rasters
from click.testing import CliRunner
from dagster._core.definitions.partitions.utils import get_builtin_partition_mapping_types
from dagster._core.events import EngineEventData
from dagster._core.remote_representation.external_data import RepositorySnap
from dagster._serdes import deserialize_value, serialize_value
from PIL import Image

from fusi_pipeline import definitions, lineage
from fusi_pipeline.defs import launch, progress, sources, terrain
from fusi_pipeline.defs.automation import (
    REFRESH_TAG,
    changes,
    is_stale,
    new_sources,
    nightly_refresh,
    refresh,
    terrain_after_refresh,
)
from fusi_pipeline.defs.coverage import CoverageConfig, coverage_path, is_covered, terrain_coverage
from fusi_pipeline.defs.deep import DeepConfig, deep, deep_result
from fusi_pipeline.defs.history import latest
from fusi_pipeline.defs.sources import PARTITIONS, ScanConfig, source_files, source_index, source_mbtiles
from fusi_pipeline.defs.terrain import (
    LINEAGE,
    TERRAIN,
    TerrainConfig,
    chosen,
    in_order,
    is_merged,
    lineage_path,
    terrain_path,
    terrain_pmtiles,
)
from fusi_pipeline.errors import DiskFull, FusiError, UsageError
from fusi_pipeline.progress import Progress
from fusi_pipeline.settings import Settings, settings_from
from fusi_pipeline.tiles import terrarium
from fusi_pipeline.tiles.grid import Tile
from fusi_pipeline.tiles.image import decode_webp, encode_webp
from fusi_pipeline.tiles.open import open_archive
from fusi_pipeline.tiles.pmtiles_writer import PMTilesWriter
from fusi_pipeline.verify import VerifyReport, verify, verify_deep

SOURCE = [source_index, source_mbtiles]
ASSETS = [*SOURCE, terrain_pmtiles, terrain_coverage]


SILENT = {"telemetry": {"enabled": False}}
"""As in dagster.yaml; an instance of a test does not read it."""


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral(settings=SILENT) as one:
        yield one


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """An instance on disk, for a schedule has no other."""
    with dg.DagsterInstance.local_temp(str(tmp_path), overrides=SILENT) as one:
        yield one


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two small sources that overlap, `fine` with a hole, and of what is made of them."""
    folder = tmp_path_factory.mktemp("made")
    rasters.write(folder / "store" / "coarse" / "a.tif", rasters.plane(40, 40), pixel=0.1)
    hole = rasters.hole(50, 50)
    fine = folder / "store" / "fine" / "b.tif"
    rasters.write(fine, rasters.cone(50, 50), pixel=0.05, nodata=-9999, absent=hole)
    with dg.DagsterInstance.ephemeral(settings=SILENT) as instance:
        make_all(instance, settings_for(folder))
    return folder


@pytest.fixture
def settings(made_once: Path, tmp_path: Path) -> Settings:
    """Settings of two sources that nothing was made of."""
    shutil.copytree(made_once / "store", tmp_path / "store")
    return settings_for(tmp_path)


@pytest.fixture
def built(settings: Settings, made_once: Path) -> Settings:
    """Settings of two sources that everything was made of; an instance does not know."""
    shutil.copytree(made_once / "output", settings.output_dir)
    return settings


def settings_for(folder: Path) -> Settings:
    return settings_from(
        {
            "FUSI_SOURCE_STORE": str(folder / "store"),
            "FUSI_OUTPUT_DIR": str(folder / "output"),
            "FUSI_WORKERS": "1",
        }
    )


def make(
    instance: dg.DagsterInstance,
    settings: Settings,
    assets: Sequence[dg.AssetsDefinition],
    partition: str | None = None,
    **config: object,
) -> dg.ExecuteInProcessResult:
    """Materialize assets; `config` is that of the last of them."""
    if partition is not None:
        instance.add_dynamic_partitions(PARTITIONS, [partition])
    return dg.materialize(
        ASSETS,
        selection=list(assets),
        instance=instance,
        partition_key=partition,
        resources={"settings": settings},
        run_config={"ops": {assets[-1].op.name: {"config": config}}} if config else None,
        raise_on_error=False,
    )


def checked(
    instance: dg.DagsterInstance,
    settings: Settings,
    asset: dg.AssetKey,
    name: str,
    **config: object,
) -> dg.AssetCheckEvaluation:
    """Run one check again, alone."""
    job = definitions.defs.resolve_implicit_global_asset_job_def()
    result = job.get_subset(
        asset_selection=set(), asset_check_selection={dg.AssetCheckKey(asset, name)}
    ).execute_in_process(
        instance=instance,
        resources={"settings": settings},
        run_config={"ops": {deep.op.name: {"config": config}}} if config else None,
    )
    assert not result.get_asset_materialization_events()
    (evaluation,) = result.get_asset_check_evaluations()
    return evaluation


def make_all(instance: dg.DagsterInstance, settings: Settings) -> None:
    for name in ("coarse", "fine"):
        assert make(instance, settings, SOURCE, name).success
    assert make(instance, settings, [terrain_pmtiles]).success


def metadata(result: dg.ExecuteInProcessResult, asset: dg.AssetsDefinition | dg.AssetKey) -> dict[str, Any]:
    """Return what a run told of an asset that it made once."""
    key = key_of(asset)
    (made,) = [
        event.step_materialization_data.materialization
        for event in result.get_asset_materialization_events()
        if event.asset_key == key
    ]
    return {name: value.value for name, value in made.metadata.items()}


def key_of(asset: dg.AssetsDefinition | dg.AssetKey) -> dg.AssetKey:
    """Return the key of an asset; of the merge that of the terrain."""
    if isinstance(asset, dg.AssetKey):
        return asset
    return TERRAIN if asset is terrain_pmtiles else asset.key


def version(
    instance: dg.DagsterInstance, asset: dg.AssetsDefinition | dg.AssetKey, partition: str | None = None
) -> str:
    last = latest(instance, key_of(asset), partition)
    assert last is not None
    assert last.data_version is not None
    return last.data_version


def failure(result: dg.ExecuteInProcessResult) -> str:
    """Return what the one failed step of a run said."""
    assert not result.success
    (event,) = [one for one in result.all_events if one.is_step_failure]
    data = event.step_failure_data
    assert data.user_failure_data is not None, data.error
    return str(data.user_failure_data.description)


def touch(path: Path) -> None:
    """Change a file's time, as a copy of the same bytes does."""
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1_000_000_000))


# The code location.


def test_the_module_holds_one_set_of_definitions_that_loads() -> None:
    held = [value for value in vars(definitions).values() if isinstance(value, dg.Definitions)]
    assert held == [definitions.defs], "dagster refuses a module with more than one"
    dg.Definitions.validate_loadable(definitions.defs)
    keys = definitions.defs.resolve_asset_graph().get_all_asset_keys()
    names = {"source_files", "source_index", "source_mbtiles", "terrain_pmtiles", "terrain_lineage_pmtiles"}
    assert names | {"terrain_coverage"} <= {key.to_user_string() for key in keys}


@pytest.mark.filterwarnings("ignore:Property .ScheduleDefinition.environment_vars.:DeprecationWarning")
def test_every_partition_mapping_reaches_the_daemon() -> None:
    repository = definitions.defs.get_repository_def()
    snapshot = deserialize_value(serialize_value(RepositorySnap.from_def(repository)), RepositorySnap)
    graph = definitions.defs.resolve_asset_graph()
    compared = 0
    for node in snapshot.asset_nodes:
        mappings = graph.get(node.asset_key).partition_mappings
        for edge in node.parent_edges:
            if edge.parent_asset_key in mappings:
                mapping = mappings[edge.parent_asset_key]
                assert isinstance(mapping, get_builtin_partition_mapping_types())
                assert edge.partition_mapping == mapping
                compared += 1
    assert compared >= 1


def test_the_reference_tells_of_every_asset_check_and_configuration() -> None:
    text = (Path(__file__).parent.parent / "docs" / "REFERENCE.md").read_text(encoding="utf-8")
    told = text.partition("\n## Dagster\n")[2].partition("\n## ")[0]
    graph = definitions.defs.resolve_asset_graph()
    names = {key.to_user_string() for key in graph.get_all_asset_keys()}
    names |= {check.name for check in graph.asset_check_keys}
    steps = {source_index: ScanConfig, terrain_pmtiles: TerrainConfig, deep: DeepConfig}
    for step, config in {**steps, terrain_coverage: CoverageConfig}.items():
        names |= {step.op.name, *config.model_fields}
    assert {name for name in names if f"`{name}`" not in told} == set()


def test_nothing_expensive_is_switched_on() -> None:
    assert nightly_refresh.default_status == dg.DefaultScheduleStatus.STOPPED
    assert new_sources.default_status == dg.DefaultSensorStatus.RUNNING
    for asset in ASSETS:
        assert not asset.automation_conditions_by_key


def test_assets_are_described_and_grouped() -> None:
    for asset in ASSETS:
        for spec in asset.specs:
            assert spec.description
            assert spec.group_name == "terrain"
            assert spec.code_version
    for worker in (source_mbtiles, terrain_pmtiles, terrain_coverage, deep):
        assert worker.op.pool == "gdal"


def test_terrain_and_lineage_are_one_step_and_the_deep_check_another() -> None:
    assert set(terrain_pmtiles.keys) == {TERRAIN, LINEAGE}
    (check,) = deep.check_specs
    assert (check.asset_key, check.name, check.blocking) == (TERRAIN, "deep", False)
    assert deep.op.name != terrain_pmtiles.op.name


# Runs.


def test_a_source_and_the_terrain_are_made_and_told_of(
    instance: dg.DagsterInstance, settings: Settings
) -> None:
    run = make(instance, settings, SOURCE, "fine")
    assert run.success
    index, archive = metadata(run, source_index), metadata(run, source_mbtiles)
    assert index["files"] == 1
    assert archive["tiles"] == sum(counted(archive["tiles by zoom"]).values())
    assert archive["bytes"] == settings.archive_path("fine").stat().st_size
    assert archive["blocks built"] > 0
    assert {"zooms", "bounds", "size", "seconds", "path"} <= archive.keys()
    assert Path(archive["path"]).is_absolute()
    checks = {one.check_name: one for one in run.get_asset_check_evaluations()}
    assert {name: one.passed for name, one in checks.items()} == {
        "source_index_files": True,
        "mbtiles_sound": True,
    }
    assert checks["mbtiles_sound"].metadata["tiles"].value == archive["tiles"]
    make(instance, settings, SOURCE, "coarse")
    merged = make(instance, settings, [terrain_pmtiles])
    assert merged.success
    assert metadata(merged, terrain_pmtiles)["priority"] == "fine, coarse"
    verdicts = {(one.asset_key, one.check_name): one.passed for one in merged.get_asset_check_evaluations()}
    assert verdicts == {(TERRAIN, "terrain_sound"): True, (LINEAGE, "lineage_sound"): True}
    assert terrain_path(settings).exists()


def counted(table: str) -> dict[int, int]:
    rows = [row.strip("| ").split(" | ") for row in table.splitlines()[2:]]
    return {int(zoom): int(tiles) for zoom, tiles in rows}


def test_the_pages_show_a_picture(instance: dg.DagsterInstance, built: Settings) -> None:
    shown = metadata(make(instance, built, SOURCE, "fine"), source_mbtiles)
    sizes = []
    for name in ("picture", "large picture"):
        start, _, data = shown[name].rstrip(")").partition("base64,")
        assert start == "![](data:image/webp;"
        with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
            sizes.append(max(picture.size))
    assert len(shown["picture"]) < 1000, "longer ones are not shown at once"
    assert len(shown["large picture"]) < 150_000
    assert 32 <= sizes[0] <= sizes[1] <= 400


def test_what_did_not_change_is_not_made_again(instance: dg.DagsterInstance, built: Settings) -> None:
    make_all(instance, built)
    before = [version(instance, source_mbtiles, "fine"), version(instance, terrain_pmtiles)]
    touch(built.source_store / "fine" / "b.tif")
    again = metadata(make(instance, built, SOURCE, "fine"), source_mbtiles)
    assert (again["blocks built"], again["blocks reused"] > 0) == (0, True)
    merged = metadata(make(instance, built, [terrain_pmtiles]), terrain_pmtiles)
    assert merged["changed"] is False
    assert [version(instance, source_mbtiles, "fine"), version(instance, terrain_pmtiles)] == before


def test_a_changed_file_changes_the_versions_of_its_source_and_of_the_terrain(
    instance: dg.DagsterInstance, built: Settings
) -> None:
    make_all(instance, built)
    names = [(asset, name) for asset in SOURCE for name in ("coarse", "fine")]
    before = {(asset.op.name, name): version(instance, asset, name) for asset, name in names}
    merged = version(instance, terrain_pmtiles)
    rasters.write(built.source_store / "fine" / "b.tif", rasters.cone(50, 50, top_m=900), pixel=0.05)
    make_all(instance, built)
    after = {(asset.op.name, name): version(instance, asset, name) for asset, name in names}
    assert {key for key in after if after[key] != before[key]} == {
        ("source_index", "fine"),
        ("source_mbtiles", "fine"),
    }
    assert version(instance, terrain_pmtiles) != merged


def test_a_broken_file_fails_in_one_line_and_can_be_left_out(
    instance: dg.DagsterInstance, settings: Settings
) -> None:
    rasters.write(settings.source_store / "fine" / "c.tif", rasters.plane(20, 20), crs=None)
    said = failure(make(instance, settings, SOURCE, "fine"))
    assert "c.tif" in said
    assert "skip_broken in the configuration" in said
    assert "\n" not in said
    run = make(instance, settings, [source_index], "fine", skip_broken=True)
    assert run.success
    (check,) = run.get_asset_check_evaluations()
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert check.metadata["files left out"].value == 1
    assert make(instance, settings, [source_mbtiles], "fine").success, "who left it out once need not again"


def test_a_missing_source_is_told_of(instance: dg.DagsterInstance, settings: Settings) -> None:
    assert "nowhere" in failure(make(instance, settings, [source_index], "nowhere"))


@pytest.mark.parametrize(("error", "again"), [(UsageError("no"), False), (DiskFull(Path("x"), 3), True)])
def test_what_was_asked_wrongly_is_not_tried_again(error: FusiError, again: bool) -> None:
    with pytest.raises(dg.Failure) as raised, progress.failures():
        raise error
    assert raised.value.allow_retries is again
    assert raised.value.description == str(error)


def test_the_terrain_wants_every_source(instance: dg.DagsterInstance, built: Settings) -> None:
    assert "no source" in failure(make(instance, built, [terrain_pmtiles]))
    built.archive_path("coarse").unlink()
    instance.add_dynamic_partitions(PARTITIONS, ["coarse", "fine"])
    assert "coarse" in failure(make(instance, built, [terrain_pmtiles]))
    left_out = make(instance, built, [terrain_pmtiles], skip_missing=True)
    assert metadata(left_out, terrain_pmtiles)["priority"] == "fine"


@pytest.mark.parametrize(
    ("config", "named"), [({"mode": "best"}, "best"), ({"order": ["nowhere"]}, "nowhere")]
)
def test_a_wrong_configuration_of_the_merge_is_told(
    instance: dg.DagsterInstance, settings: Settings, config: dict[str, Any], named: str
) -> None:
    instance.add_dynamic_partitions(PARTITIONS, ["fine"])
    assert named in failure(make(instance, settings, [terrain_pmtiles], **config))


def unsound(monkeypatch: pytest.MonkeyPatch, module: ModuleType, stem: str, problem: str) -> None:
    """Let the verification of one archive find a problem."""

    def spoiled(path: Path, **options: Any) -> Generator[Progress, None, VerifyReport]:
        report = yield from verify(path, **options)
        return dataclasses.replace(report, problems=(problem,) if path.stem == stem else ())

    monkeypatch.setattr(module, "verify", spoiled)


def test_an_archive_that_is_not_sound_fails_and_its_check_says_so(
    instance: dg.DagsterInstance, built: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert make(instance, built, SOURCE, "fine").success
    unsound(monkeypatch, sources, "fine", "tile 0/0/0 does not decode")
    run = make(instance, built, [source_mbtiles], "fine")
    assert "not sound: tile 0/0/0" in failure(run)
    assert not run.get_asset_materialization_events()
    (check,) = run.get_asset_check_evaluations()
    assert (check.check_name, check.passed) == ("mbtiles_sound", False)
    assert "0/0/0" in str(check.metadata["problems"].value)


def test_the_order_given_wins_over_the_finest(instance: dg.DagsterInstance, built: Settings) -> None:
    make_all(instance, built)
    finest = version(instance, terrain_pmtiles)
    run = make(instance, built, [terrain_pmtiles], order=["coarse"], mode="max")
    assert metadata(run, terrain_pmtiles)["priority"] == "coarse, fine"
    assert version(instance, terrain_pmtiles) != finest
    assert (chosen(instance).order, chosen(instance).mode) == (["coarse"], "max")
    instance.delete_dynamic_partition(PARTITIONS, "coarse")
    assert chosen(instance).order == []


def test_a_source_is_named_once_in_the_order(settings: Settings) -> None:
    with pytest.raises(UsageError, match="once"):
        in_order(["a", "b"], ["a", "a"], settings)


# The terrain, its lineage and its coverage.


def rows(table: str) -> list[dict[str, str]]:
    """Return the rows of a Markdown table by the names of its columns."""
    header, _, *body = [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()
    ]
    return [dict(zip(header, cells, strict=True)) for cells in body]


def facts_of(path: Path) -> dict[str, Any]:
    with open_archive(path) as reader:
        return {**reader.metadata.extra, "attribution": reader.metadata.attribution}


def test_one_step_writes_terrain_and_lineage_and_tells_of_both(
    instance: dg.DagsterInstance, built: Settings
) -> None:
    instance.add_dynamic_partitions(PARTITIONS, ["coarse", "fine"])
    run = make(instance, built, [terrain_pmtiles], lineage="pmtiles")
    merged, beside = metadata(run, TERRAIN), metadata(run, LINEAGE)
    for told, path in ((merged, terrain_path(built)), (beside, lineage_path(built, TerrainConfig()))):
        assert path is not None
        assert Path(told["path"]) == path.absolute()
        assert told["bytes"] == path.stat().st_size
        assert {"tiles merged", "tiles copied", "tiles reused", "tiles removed"} <= told.keys()
        assert {"attribution", "bounds", "zooms", "tiles by zoom", "picture"} <= told.keys()
    assert merged["tiles"] == beside["tiles"]
    assert version(instance, TERRAIN) == version(instance, LINEAGE)
    stated = facts_of(terrain_path(built))
    table, legend = rows(merged["sources"]), rows(beside["legend"])
    assert [row["source"] for row in table] == [one["name"] for one in stated["sources"]]
    assert [int(row["pixels"]) for row in table] == [one["pixels"] for one in stated["sources"]]
    assert sum(float(row["share"].removesuffix("%")) for row in table) == pytest.approx(100, abs=0.2)
    assert [(row["index"], row["pixels"]) for row in legend] == [
        (row["index"], row["pixels"]) for row in table
    ]
    assert [row["colour"].split("]")[0] for row in legend] == [f"![{lineage.color(n)}" for n in (1, 2)]


def test_the_lineage_is_shown_in_the_colours_of_its_legend(
    instance: dg.DagsterInstance, built: Settings
) -> None:
    instance.add_dynamic_partitions(PARTITIONS, ["coarse", "fine"])
    shown = metadata(make(instance, built, [terrain_pmtiles]), LINEAGE)
    wanted = [tuple(bytes.fromhex(lineage.color(n)[1:])) for n in (1, 2)]
    for row, color in zip(rows(shown["legend"]), wanted, strict=True):
        assert picture(row["colour"]).getpixel((8, 8)) == color
    drawn = picture(shown.get("large picture", shown["picture"]))
    assert {color for _, color in drawn.getcolors() or ()} == {*wanted, (255, 255, 255)}


def picture(markdown: str) -> Image.Image:
    data = markdown.rstrip(")").partition("base64,")[2]
    with Image.open(io.BytesIO(base64.b64decode(data))) as one:
        return one.convert("RGB")


@pytest.mark.parametrize("asked", [TERRAIN, LINEAGE])
def test_whichever_is_asked_for_both_are_made_and_noted(
    instance: dg.DagsterInstance, built: Settings, asked: dg.AssetKey
) -> None:
    instance.add_dynamic_partitions(PARTITIONS, ["coarse", "fine"])
    whole = terrain_path(built).read_bytes()
    terrain_path(built).unlink()
    run = dg.materialize(ASSETS, selection=[asked], instance=instance, resources={"settings": built})
    assert terrain_path(built).read_bytes() == whole, "the bytes do not depend on what is asked for"
    assert metadata(run, TERRAIN)["tiles"] == metadata(run, LINEAGE)["tiles"]
    assert version(instance, TERRAIN) == version(instance, LINEAGE)
    assert is_merged(instance, built)


def test_the_lineage_may_be_an_mbtiles_or_none(instance: dg.DagsterInstance, built: Settings) -> None:
    instance.add_dynamic_partitions(PARTITIONS, ["coarse", "fine"])
    other = metadata(make(instance, built, [terrain_pmtiles], lineage="mbtiles"), LINEAGE)
    assert Path(other["path"]).name == facts_of(terrain_path(built))["lineage"] == "terrain_lineage.mbtiles"
    before = version(instance, TERRAIN)
    run = dg.materialize(
        ASSETS,
        selection=[terrain_pmtiles, terrain_coverage],
        instance=instance,
        resources={"settings": built},
        run_config={"ops": {terrain_pmtiles.op.name: {"config": {"lineage": "none"}}}},
    )
    assert run.success, "coverage is passed over, for there is no lineage"
    assert {event.asset_key for event in run.get_asset_materialization_events()} == {TERRAIN}
    assert "lineage" not in facts_of(terrain_path(built))
    assert version(instance, TERRAIN) != before
    assert is_merged(instance, built), "nothing is missing"
    said = failure(make(instance, built, [terrain_coverage]))
    assert "no lineage of this merge is beside it; materialize terrain_lineage_pmtiles" in said


def test_a_feathered_merge_is_asked_for_in_the_configuration(
    instance: dg.DagsterInstance, built: Settings
) -> None:
    instance.add_dynamic_partitions(PARTITIONS, ["coarse", "fine"])
    said = failure(make(instance, built, [terrain_pmtiles], mode="feather"))
    assert "feather_m in the configuration of the run" in said
    assert "--" not in said
    assert "feather_m goes with mode feather" in failure(
        make(instance, built, [terrain_pmtiles], feather_m=9.0)
    )
    plain = facts_of(terrain_path(built))["content_key"]
    assert make(instance, built, [terrain_pmtiles], mode="feather", feather_m=20_000.0).success
    assert facts_of(terrain_path(built))["feather_m"] == 20_000
    assert facts_of(terrain_path(built))["content_key"] != plain
    assert chosen(instance).feather_m == 20_000, "the next night merges likewise"


def test_other_credits_reach_the_terrain(instance: dg.DagsterInstance, built: Settings) -> None:
    make_all(instance, built)
    assert is_merged(instance, built)
    config = built.source_store / "fine" / "source.toml"
    config.write_text('attribution = "© The | City"\nlicense = "CC BY 4.0"\n', encoding="utf-8")
    assert make(instance, built, SOURCE, "fine").success
    assert not is_merged(instance, built), "no height changed, but what must be said of them did"
    run = make(instance, built, [terrain_pmtiles])
    assert (
        metadata(run, TERRAIN)["attribution"]
        == facts_of(terrain_path(built))["attribution"]
        == "© The | City"
    )
    assert "© The \\| City" in metadata(run, LINEAGE)["legend"]


def test_a_lineage_that_is_not_sound_fails_the_step(
    instance: dg.DagsterInstance, built: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance.add_dynamic_partitions(PARTITIONS, ["coarse", "fine"])
    unsound(monkeypatch, terrain, "terrain_lineage", "tile 3/1/2: is not lossless")
    run = make(instance, built, [terrain_pmtiles])
    assert "terrain_lineage.pmtiles: not sound: tile 3/1/2" in failure(run)
    assert not run.get_asset_materialization_events()
    (check,) = run.get_asset_check_evaluations()
    assert (check.asset_key, check.check_name, check.passed) == (LINEAGE, "lineage_sound", False)


def test_the_check_of_an_archive_can_be_run_again_alone(
    instance: dg.DagsterInstance, built: Settings
) -> None:
    make_all(instance, built)
    before = terrain_path(built).stat().st_mtime_ns
    for key, name in ((TERRAIN, "terrain_sound"), (LINEAGE, "lineage_sound")):
        assert checked(instance, built, key, name).passed
    assert terrain_path(built).stat().st_mtime_ns == before
    built.archive_path("fine").unlink()
    assert checked(instance, built, TERRAIN, "terrain_sound").passed, "of what is there; nothing is merged"


def test_coverage_is_written_beside_the_terrain_and_summed_up(
    instance: dg.DagsterInstance, built: Settings
) -> None:
    make_all(instance, built)
    assert not is_covered(instance, built)
    told = metadata(make(instance, built, [terrain_coverage]), terrain_coverage)
    written = json.loads(Path(told["path"]).read_text(encoding="utf-8"))
    assert len(written["features"]) == told["features"]
    table = rows(told["area by zoom"])
    deepest = max(feature["properties"]["zoom"] for feature in written["features"])
    assert [int(row["zoom"]) for row in table] == list(range(deepest + 1))
    for name in ("coarse", "fine"):
        area = sum(
            feature["properties"]["area_km2"]
            for feature in written["features"]
            if (feature["properties"]["source"], feature["properties"]["zoom"]) == (name, deepest)
        )
        shown, _, _ = table[-1][name].partition("\N{NO-BREAK SPACE}km²")
        assert float(shown.replace(",", "")) == pytest.approx(area, rel=1e-4)
    assert is_covered(instance, built)
    assert make(instance, built, [terrain_pmtiles], mode="max").success
    assert not is_covered(instance, built)


def test_the_night_covers_again_what_was_covered_once(kept: dg.DagsterInstance, built: Settings) -> None:
    make_all(kept, built)
    assert make(kept, built, [terrain_coverage], zooms=[2], format="geojson").success
    terrain_path(built).unlink()
    (asked,) = nightly(kept, built)
    assert asked.asset_selection == [TERRAIN, LINEAGE, terrain_coverage.key]
    assert asked.run_config["ops"]["terrain_coverage"]["config"]["zooms"] == [2]
    job = definitions.defs.resolve_implicit_global_asset_job_def()
    run = job.get_subset(asset_selection=set(asked.asset_selection)).execute_in_process(
        instance=kept, run_config=asked.run_config, resources={"settings": built}
    )
    assert run.success
    assert is_merged(kept, built)
    assert is_covered(kept, built)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"format": "shp"}, "shp"),
        ({"cells": 9}, "cells 9"),
        ({"detail_px": 3}, "detail_px 3"),
        ({"zooms": [30]}, "30"),
    ],
)
def test_a_wrong_configuration_of_the_coverage_is_told(
    instance: dg.DagsterInstance, built: Settings, config: dict[str, Any], named: str
) -> None:
    assert named in failure(make(instance, built, [terrain_coverage], **config))
    assert not coverage_path(built, CoverageConfig()).exists()


# The deep check.


def test_the_deep_check_runs_with_the_merge_and_tells_its_figures(
    instance: dg.DagsterInstance, built: Settings
) -> None:
    instance.add_dynamic_partitions(PARTITIONS, ["coarse", "fine"])
    job = definitions.defs.resolve_implicit_global_asset_job_def()
    run = job.get_subset(asset_selection={TERRAIN, LINEAGE}).execute_in_process(
        instance=instance, resources={"settings": built}
    )
    (check,) = [one for one in run.get_asset_check_evaluations() if one.check_name == "deep"]
    told = {name: value.value for name, value in check.metadata.items()}
    assert (check.passed, told["number of problems"], told["number of suspects"]) == (True, 0, 0)
    assert told["parents within the bound (%)"] == 100
    assert 0 < told["largest difference (m)"] <= 1
    assert told["pixels compared"] > 1000
    assert abs(told["largest drift (m)"]) < 1
    assert told["digests"] == "holds", "an archive smaller than the sample is checked wholly"
    assert Path(told["lineage"]).name == "terrain_lineage.pmtiles"
    assert told["tiles looked at"] == told["tiles"]
    with open_archive(terrain_path(built)) as reader:
        assert {int(row["zoom"]): int(row["tiles"]) for row in rows(told["by zoom"])} == reader.counts()


def raised(path: Path, tile: Tile, by_m: float) -> None:
    """Write an archive again, with the heights of one tile raised."""
    with open_archive(path) as reader:
        metadata, counts = reader.metadata, reader.counts()
        places = [Tile(z, x, y) for z in counts for x, y in reader.coordinates(z).tolist()]
        tiles = {one: reader.read(one) or b"" for one in places}
    heights = terrarium.decode(decode_webp(tiles[tile]))
    pixels = terrarium.encode(np.where(heights == 0, heights, heights + np.float32(by_m)), tile.z)
    assert pixels is not None
    tiles[tile] = encode_webp(pixels)
    with PMTilesWriter(path, metadata, len(tiles)) as writer:
        for one, data in tiles.items():
            writer.write(one, data)


def test_the_deep_check_says_what_is_wrong_where(instance: dg.DagsterInstance, built: Settings) -> None:
    make_all(instance, built)
    with open_archive(terrain_path(built)) as reader:
        z = max(reader.counts()) - 1
        x, y = reader.coordinates(z)[0].tolist()
    raised(terrain_path(built), Tile(z, x, y), 50)
    assert checked(instance, built, TERRAIN, "terrain_sound").passed, "each tile by itself is sound"
    found = checked(instance, built, TERRAIN, "deep", sample=0)
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert found.description is not None
    assert "problem" in found.description
    told = {name: value.value for name, value in found.metadata.items()}
    assert told["number of problems"] == len(told["problems"].splitlines())
    assert f"tile {z}/{x}/{y}: " in told["problems"]
    assert told["parents within the bound (%)"] < 100
    assert told["largest difference (m)"] >= 50
    assert "make the archive again" in told["what to do"]


@pytest.mark.parametrize("lost", [True, False])
def test_an_archive_that_cannot_be_read_fails_the_deep_check(
    instance: dg.DagsterInstance, built: Settings, lost: bool
) -> None:
    if lost:
        terrain_path(built).unlink()
    else:
        rasters.truncate(terrain_path(built), 0.001)
    found = checked(instance, built, TERRAIN, "deep")
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert str(terrain_path(built)) in (found.description or "")


def test_suspects_alone_are_a_warning(built: Settings) -> None:
    report = deep_report(built)
    sound = deep_result(report)
    assert sound.passed
    suspected = dataclasses.replace(report, suspects=("tile 3/1/2: 900 m sticks out",))
    warned = deep_result(suspected)
    assert (warned.passed, warned.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "1 suspect" in (warned.description or "")
    failed = deep_result(dataclasses.replace(suspected, problems=("tile 3/1/2: is wrong", "b")))
    assert (failed.passed, failed.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert "2 problems" in (failed.description or "")
    assert {"problems", "suspects"} <= failed.metadata.keys()


def deep_report(settings: Settings) -> VerifyReport:
    work = verify_deep(terrain_path(settings), settings, sample=5)
    while True:
        try:
            next(work)
        except StopIteration as end:
            report: VerifyReport = end.value
            return report


# Progress.


def moments(stages: Sequence[tuple[str, int]], ended: list[str]) -> Iterator[Progress]:
    try:
        for stage, total in stages:
            for done in range(total + 1):
                yield Progress(stage, done, total, "blocks")
    finally:
        ended.append("closed")


def test_progress_is_logged_at_the_start_at_intervals_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10_000))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    lines: list[str] = []
    progress.followed(moments([("scan", 2), ("build", 20)], []), lines.append, 10.0)  # type: ignore[arg-type]
    assert lines[0] == "scan 0/2 blocks"
    assert lines[1:3] == ["scan 2/2 blocks", "build 0/20 blocks"]
    assert lines[-1] == "build 20/20 blocks"
    assert 4 < len(lines) < 8


def test_work_that_is_interrupted_is_closed() -> None:
    ended: list[str] = []

    def stop(_line: str) -> None:
        raise dg.DagsterExecutionInterruptedError

    with pytest.raises(dg.DagsterExecutionInterruptedError):
        progress.followed(moments([("build", 5)], ended), stop, 10.0)  # type: ignore[arg-type]
    assert ended == ["closed"]


# What happens by itself.


def tick(sensor: dg.SensorDefinition, instance: dg.DagsterInstance, settings: Settings) -> dg.SensorResult:
    context = dg.build_sensor_context(instance=instance, resources={"settings": settings})
    result = sensor(context)
    assert isinstance(result, dg.SensorResult)
    return result


def partitions_after(instance: dg.DagsterInstance, result: dg.SensorResult) -> set[str]:
    for request in result.dynamic_partitions_requests or []:
        if isinstance(request, dg.AddDynamicPartitionsRequest):
            instance.add_dynamic_partitions(PARTITIONS, request.partition_keys)
        else:
            for name in request.partition_keys:
                instance.delete_dynamic_partition(PARTITIONS, name)
    return set(instance.get_dynamic_partitions(PARTITIONS))


def test_folders_that_come_and_go_are_partitions_that_come_and_go(
    instance: dg.DagsterInstance, settings: Settings
) -> None:
    first = tick(new_sources, instance, settings)
    assert not first.run_requests
    assert partitions_after(instance, first) == {"coarse", "fine"}
    (settings.source_store / "fine").rename(settings.source_store / "finest")
    assert partitions_after(instance, tick(new_sources, instance, settings)) == {"coarse", "finest"}


def test_an_absent_source_store_takes_no_partition_away(
    instance: dg.DagsterInstance, settings: Settings, tmp_path: Path
) -> None:
    instance.add_dynamic_partitions(PARTITIONS, ["fine"])
    away = dataclasses.replace(settings, source_store=tmp_path / "not mounted")
    context = dg.build_sensor_context(instance=instance, resources={"settings": away})
    assert isinstance(new_sources(context), dg.SkipReason)
    assert instance.get_dynamic_partitions(PARTITIONS) == ["fine"]


def test_only_changes_of_folders_are_noted(instance: dg.DagsterInstance, settings: Settings) -> None:
    def noted() -> list[str | None]:
        events = list(changes(instance, settings, ["coarse", "fine"]))
        for event in events:
            assert event.asset_key == source_files.key
            instance.report_runless_asset_event(event)
        return [event.partition for event in events]

    assert noted() == ["coarse", "fine"]
    assert noted() == []
    touch(settings.source_store / "fine" / "b.tif")
    assert noted() == ["fine"]
    (settings.source_store / "coarse" / "source.toml").write_text("resampling = 'cubic'", encoding="utf-8")
    assert noted() == ["coarse"]


def nightly(instance: dg.DagsterInstance, settings: Settings) -> list[dg.RunRequest]:
    at = datetime(2026, 1, 1, 2, tzinfo=UTC)
    context = dg.build_schedule_context(
        instance=instance, scheduled_execution_time=at, resources={"settings": settings}
    )
    asked = nightly_refresh(context)
    return asked if isinstance(asked, list) else []


def test_the_night_asks_for_new_and_changed_sources_only(kept: dg.DagsterInstance, built: Settings) -> None:
    assert [one.partition_key for one in nightly(kept, built)] == ["coarse", "fine"]
    make_all(kept, built)
    assert nightly(kept, built) == []
    touch(built.source_store / "fine" / "b.tif")
    (asked,) = nightly(kept, built)
    assert asked.partition_key == "fine"
    assert set(asked.asset_selection or []) == {source_index.key, source_mbtiles.key}
    built.archive_path("coarse").unlink()
    assert [one.partition_key for one in nightly(kept, built)] == ["coarse", "fine"]


def test_the_night_asks_for_a_source_that_was_scanned_and_not_tiled_since(
    instance: dg.DagsterInstance, built: Settings
) -> None:
    make_all(instance, built)
    touch(built.source_store / "fine" / "b.tif")
    assert make(instance, built, [source_index], "fine").success
    assert is_stale(instance, built, "fine")
    assert make(instance, built, [source_mbtiles], "fine").success
    assert not is_stale(instance, built, "fine")


def test_the_night_merges_like_the_last_time_where_only_that_is_left(
    kept: dg.DagsterInstance, built: Settings
) -> None:
    make_all(kept, built)
    assert make(kept, built, [terrain_pmtiles], order=["coarse"], mode="min").success
    assert nightly(kept, built) == []
    terrain_path(built).unlink()
    (asked,) = nightly(kept, built)
    assert asked.asset_selection == [TERRAIN, LINEAGE]
    config = asked.run_config["ops"]["terrain_pmtiles"]["config"]
    assert (config["order"], config["mode"]) == (["coarse"], "min")


def test_the_merge_follows_the_runs_of_the_night(instance: dg.DagsterInstance, built: Settings) -> None:
    make_all(instance, built)
    cursor = None

    def asked() -> dg.RunRequest | dg.SkipReason:
        nonlocal cursor
        context = dg.build_sensor_context(
            instance=instance, cursor=cursor, resources={"settings": built}, definitions=definitions.defs
        )
        result = terrain_after_refresh(context)
        cursor = context.cursor
        assert isinstance(result, dg.RunRequest | dg.SkipReason)
        return result

    assert isinstance(asked(), dg.SkipReason), "no night so far"
    tags = {REFRESH_TAG: "2026-01-01 02:00", "dagster/schedule_name": nightly_refresh.name}
    runs = [
        instance.add_run(
            dg.DagsterRun(job_name=refresh.name, run_id=run_id, tags=tags, status=dg.DagsterRunStatus.STARTED)
        )
        for run_id in ("one", "two")
    ]
    rasters.write(built.source_store / "fine" / "b.tif", rasters.cone(50, 50, top_m=900), pixel=0.05)
    assert make(instance, built, SOURCE, "fine").success
    instance.report_run_failed(runs[0])
    assert isinstance(asked(), dg.SkipReason), "one is under way"
    instance.report_run_failed(runs[1])
    request = asked()
    assert isinstance(request, dg.RunRequest)
    assert request.asset_selection == [TERRAIN, LINEAGE]
    assert isinstance(asked(), dg.SkipReason), "asked once"
    assert make(instance, built, [terrain_pmtiles]).success
    assert is_merged(instance, built)


# From a shell.


@pytest.fixture
def home(tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A DAGSTER_HOME of its own, with the repository's `dagster.yaml`."""
    folder = tmp_path / "home"
    folder.mkdir()
    text = (Path(__file__).parent.parent / "dagster.yaml").read_text(encoding="utf-8")
    (folder / "dagster.yaml").write_text(text, encoding="utf-8")
    for name, value in {
        "DAGSTER_HOME": folder,
        "FUSI_STATE_DIR": tmp_path / "data" / "dagster",
        "FUSI_COMPUTE_LOGS": tmp_path / "data" / "logs",
        "FUSI_SOURCE_STORE": settings.source_store,
        "FUSI_OUTPUT_DIR": settings.output_dir,
        "FUSI_WORKERS": "1",
    }.items():
        monkeypatch.setenv(name, str(value))
    return folder


def test_materialize_makes_everything_and_leaves_its_runs(home: Path, settings: Settings) -> None:
    run = CliRunner().invoke(launch.cli, ["materialize"])
    assert run.exit_code == 0, run.output
    lines = run.stdout.splitlines()
    of_all = ["terrain_pmtiles", "terrain_lineage_pmtiles", "terrain_coverage"]
    assert [line.split()[0] for line in lines] == ["source_index", "source_mbtiles"] * 2 + of_all
    assert terrain_path(settings).exists()
    assert [path.name for path in home.iterdir()] == ["dagster.yaml"], "what dagster keeps is elsewhere"
    with dg.DagsterInstance.get() as instance:
        assert len(instance.get_runs()) == 4
        assert not nightly(instance, settings)
    again = CliRunner().invoke(launch.cli, ["materialize", "fine"])
    assert [line.split()[0] for line in again.stdout.splitlines()][2:] == of_all[:2], "covered as it is"


def test_materialize_tells_what_failed(home: Path, settings: Settings) -> None:
    rasters.truncate(settings.source_store / "fine" / "b.tif", 0.3)
    run = CliRunner().invoke(launch.cli, ["materialize"])
    assert isinstance(run.exception, launch.AssetsFailed)
    assert "fine" in str(run.exception)
    (line,) = run.stderr.splitlines()
    assert line.startswith("source_index fine: ")
    assert "b.tif" in line


def test_runs_whose_process_is_gone_are_ended_and_give_their_place_back(home: Path) -> None:
    with dg.DagsterInstance.get() as instance:
        for run_id, pid in (("lost", 2**22 + 1), ("alive", os.getpid())):
            run = dg.DagsterRun("refresh", run_id=run_id, status=dg.DagsterRunStatus.STARTED)
            instance.add_run(run)
            began = EngineEventData(metadata={"pid": dg.MetadataValue.text(str(pid))})
            instance.report_engine_event("began", run, began)
            instance.event_log_storage.claim_concurrency_slot("gdal", run_id, "source_mbtiles")
        CliRunner().invoke(launch.cli, ["prepare"], catch_exceptions=False)
        found = {run.run_id: run.status for run in instance.get_runs()}
        assert found == {"lost": dg.DagsterRunStatus.FAILURE, "alive": dg.DagsterRunStatus.STARTED}
        assert "lost" not in instance.event_log_storage.get_concurrency_run_ids()


def test_an_instance_that_cannot_be_opened_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    run = CliRunner().invoke(launch.cli, ["prepare"])
    assert isinstance(run.exception, launch.InstanceUnready)
    assert "DAGSTER_HOME" in str(run.exception)
    assert "\n" not in str(run.exception)
