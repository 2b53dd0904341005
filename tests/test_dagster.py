"""The code location, its runs on an instance of their own, and what happens by itself."""

from __future__ import annotations

import base64
import dataclasses
import io
import logging
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import rasters
from click.testing import CliRunner
from dagster._core.definitions.partitions.utils import get_builtin_partition_mapping_types
from dagster._core.events import EngineEventData
from dagster._core.remote_representation.external_data import RepositorySnap
from dagster._serdes import deserialize_value, serialize_value
from PIL import Image

from fusi_pipeline import definitions
from fusi_pipeline.defs import launch, progress
from fusi_pipeline.defs.automation import (
    REFRESH_TAG,
    changes,
    is_stale,
    new_sources,
    nightly_refresh,
    refresh,
    terrain_after_refresh,
)
from fusi_pipeline.defs.history import latest
from fusi_pipeline.defs.sources import PARTITIONS, source_files, source_index, source_mbtiles
from fusi_pipeline.defs.terrain import chosen, in_order, is_merged, terrain_path, terrain_pmtiles
from fusi_pipeline.errors import DiskFull, FusiError, UsageError
from fusi_pipeline.progress import Progress
from fusi_pipeline.settings import Settings, settings_from

SOURCE = [source_index, source_mbtiles]
ASSETS = [*SOURCE, terrain_pmtiles]


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


def make_all(instance: dg.DagsterInstance, settings: Settings) -> None:
    for name in ("coarse", "fine"):
        assert make(instance, settings, SOURCE, name).success
    assert make(instance, settings, [terrain_pmtiles]).success


def metadata(result: dg.ExecuteInProcessResult, asset: dg.AssetsDefinition) -> dict[str, Any]:
    (made,) = result.asset_materializations_for_node(asset.op.name)
    return {name: value.value for name, value in made.metadata.items()}


def version(instance: dg.DagsterInstance, asset: dg.AssetsDefinition, partition: str | None = None) -> str:
    last = latest(instance, asset.key, partition)
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
    names = {"source_files", "source_index", "source_mbtiles", "terrain_pmtiles"}
    assert names <= {key.to_user_string() for key in keys}


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


def test_nothing_expensive_is_switched_on() -> None:
    assert nightly_refresh.default_status == dg.DefaultScheduleStatus.STOPPED
    assert new_sources.default_status == dg.DefaultSensorStatus.RUNNING
    for asset in ASSETS:
        assert not asset.automation_conditions_by_key


def test_assets_are_described_and_grouped() -> None:
    for asset in ASSETS:
        (spec,) = asset.specs
        assert spec.description
        assert spec.group_name == "terrain"
        assert spec.code_version
    assert source_mbtiles.op.pool == terrain_pmtiles.op.pool == "gdal"


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
    (check,) = merged.get_asset_check_evaluations()
    assert (check.check_name, check.passed) == ("terrain_sound", True)
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


def test_an_archive_that_is_not_sound_fails_and_its_check_says_so(
    instance: dg.DagsterInstance, built: Settings
) -> None:
    assert make(instance, built, SOURCE, "fine").success
    with closing(sqlite3.connect(built.archive_path("fine"))) as archive, archive:
        archive.execute("UPDATE tiles SET tile_data = x'00' WHERE zoom_level = 0")
    run = make(instance, built, [source_mbtiles], "fine")
    assert "not sound: tile 0/0/0" in failure(run)
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
    assert asked.asset_selection == [terrain_pmtiles.key]
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
    assert request.asset_selection == [terrain_pmtiles.key]
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
    assert [line.split()[0] for line in lines] == ["source_index", "source_mbtiles"] * 2 + ["terrain_pmtiles"]
    assert terrain_path(settings).exists()
    assert [path.name for path in home.iterdir()] == ["dagster.yaml"], "what dagster keeps is elsewhere"
    with dg.DagsterInstance.get() as instance:
        assert len(instance.get_runs()) == 3
        assert not nightly(instance, settings)


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
