"""Dagster without its pages: its instance made ready, and assets materialized on it, from a shell.

`python -m fusi_pipeline.defs.launch prepare` comes before anything that opens
the instance; the runs of `materialize` are in the pages later.
"""

from __future__ import annotations

import fcntl
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import dagster as dg
import psutil

from fusi_pipeline import console
from fusi_pipeline.console import duration, size
from fusi_pipeline.defs import registry
from fusi_pipeline.defs.automation import changes
from fusi_pipeline.defs.coverage import CoverageConfig, chosen_coverage, is_covered, terrain_coverage
from fusi_pipeline.defs.sources import PARTITIONS, source_index, source_mbtiles
from fusi_pipeline.defs.terrain import LINEAGE, TERRAIN, chosen, lineage_path, terrain_pmtiles
from fusi_pipeline.errors import FusiError, UsageError
from fusi_pipeline.settings import Settings, settings_from
from fusi_pipeline.sources import find_sources, source_folder

_LOST = "its process is gone: it or the machine was stopped. What is finished of its work is kept"
_CLOCK_SLACK_S = 2.0
_LINE_INTERVAL_S = 10.0


class InstanceUnready(UsageError):
    """The Dagster instance cannot be opened."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"the Dagster instance cannot be opened: {reason}; the recipes of the justfile set DAGSTER_HOME, "
            "FUSI_STATE_DIR and FUSI_COMPUTE_LOGS"
        )


class AssetsFailed(FusiError):
    """Assets were not materialized, each for a reason that was told before."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(f"not materialized: {', '.join(names)}; the runs are in the pages of `just dev`")


def main() -> None:
    """Run a command; end with 0, 1 for a failure, 2 for a wrong command, 130 when interrupted."""
    console.main(cli, dg.DagsterExecutionInterruptedError)


@click.group()
def cli() -> None:
    """Dagster without its pages."""


@cli.command()
def prepare() -> None:
    """Check the settings, make the instance where there is none, end runs whose process is gone."""
    settings_from()
    with _opened() as instance:
        _print_lost(instance)


@cli.command()
def reconcile() -> None:
    """End runs whose process is gone, as after a power cut."""
    with _opened() as instance:
        _print_lost(instance)


@cli.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
def materialize(names: tuple[str, ...]) -> None:
    """Bring sources, all unless named, and then the terrain, its lineage and coverage up to date."""
    settings = settings_from()
    wanted = list(names) or find_sources(settings.source_store)
    if not wanted:
        raise UsageError(f"{settings.source_store.absolute()}: no source; put a folder of rasters there")
    for name in wanted:
        source_folder(settings.source_store, name)
    with _opened() as instance:
        _print_lost(instance)
        failed = [name for name in _noted(instance, settings, wanted) if not _source_made(instance, name)]
        if not failed and not _terrain_made(instance):
            failed = [TERRAIN.to_user_string()]
        if not failed and not _coverage_made(instance, settings):
            failed = [terrain_coverage.key.to_user_string()]
    if failed:
        raise AssetsFailed(failed)


@contextmanager
def _opened() -> Iterator[dg.DagsterInstance]:
    """Yield the instance of the environment; made by one process at a time, for two at once would fail."""
    with Path(__file__).open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            instance = dg.DagsterInstance.get()
        except dg.DagsterError as error:
            lines = str(error).strip().splitlines()
            reason = next((line for line in lines if "environment variable" in line), lines[0])
            raise InstanceUnready(reason.strip().rstrip(".")) from error
    with instance:
        yield instance


def _print_lost(instance: dg.DagsterInstance) -> None:
    for run in reconciled(instance):
        click.echo(f"run {run.run_id[:8]} ({run.tags.get('dagster/partition', run.job_name)}): {_LOST}")


def reconciled(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    """End the runs whose process is gone, and free what they held of the pools; return them."""
    under_way = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
    lost = [
        run for run in instance.get_runs(dg.RunsFilter(statuses=under_way)) if _process_is_gone(instance, run)
    ]
    for run in lost:
        if run.status == dg.DagsterRunStatus.CANCELING:
            instance.report_run_canceled(run, _LOST)
        else:
            instance.report_run_failed(run, _LOST)
    for run_id in instance.event_log_storage.get_concurrency_run_ids():
        holder = instance.get_run_by_id(run_id)
        if holder is None or holder.is_finished:
            instance.event_log_storage.free_concurrency_slots_for_run(run_id)
    return lost


def _process_is_gone(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Tell whether no process that worked on a run is left; False where none ever did."""
    known = False
    for entry in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT):
        event = entry.dagster_event
        pid = event.engine_event_data.metadata.get("pid") if event is not None else None
        if pid is not None and str(pid.value).isdigit():
            known = True
            if _began_before(int(str(pid.value)), entry.timestamp):
                return False
    return known


def _began_before(pid: int, moment: float) -> bool:
    """Tell whether a process is there that began before a moment, so that its number is not used again."""
    try:
        return bool(psutil.Process(pid).create_time() <= moment + _CLOCK_SLACK_S)
    except psutil.NoSuchProcess:
        return False


def _noted(instance: dg.DagsterInstance, settings: Settings, names: list[str]) -> list[str]:
    """Tell the instance of sources and of what changed in their folders; return them."""
    instance.add_dynamic_partitions(PARTITIONS, names)
    for event in changes(instance, settings, names):
        instance.report_runless_asset_event(event)
    return names


def _source_made(instance: dg.DagsterInstance, name: str) -> bool:
    return _made(instance, [source_index.key, source_mbtiles.key], {}, name)


def _terrain_made(instance: dg.DagsterInstance) -> bool:
    config = {"ops": {terrain_pmtiles.op.name: {"config": chosen(instance).model_dump()}}}
    return _made(instance, [TERRAIN, LINEAGE], config)


def _coverage_made(instance: dg.DagsterInstance, settings: Settings) -> bool:
    """Make the coverage where there is a lineage and it is not that of the lineage already."""
    if lineage_path(settings, chosen(instance)) is None or is_covered(instance, settings):
        return True
    config = (chosen_coverage(instance) or CoverageConfig()).model_dump()
    return _made(instance, [terrain_coverage.key], {"ops": {terrain_coverage.op.name: {"config": config}}})


def _made(
    instance: dg.DagsterInstance,
    keys: Sequence[dg.AssetKey],
    config: Mapping[str, object],
    partition: str | None = None,
) -> bool:
    """Materialize assets in one run, in this process; print a line for each; tell whether all are made."""
    job = _LOCATION.resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(
        instance=instance,
        asset_selection=list(keys),
        partition_key=partition,
        run_config={**config, "loggers": {"terminal": {}}},
        raise_on_error=False,
    )
    for event in result.all_events:
        if event.is_step_materialization:
            click.echo(_line(event.step_materialization_data.materialization))
        elif event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            _print_unless_passed(event.asset_check_evaluation_data)
        elif event.is_step_failure:
            data = event.step_failure_data
            told = data.user_failure_data.description if data.user_failure_data else str(data.error)
            click.echo(f"{event.step_key} {partition or ''}: {told}", err=True)
    return result.success


def _print_unless_passed(check: dg.AssetCheckEvaluation) -> None:
    if not check.passed:
        named = f"{check.asset_key.to_user_string()} {check.partition or ''}".strip()
        click.echo(f"{named}: {check.check_name}: {check.severity.value}: {check.description}", err=True)


def _line(made: dg.AssetMaterialization) -> str:
    """Return what is said of a materialized asset."""
    values: dict[str, Any] = {name: value.value for name, value in made.metadata.items()}
    unit = next(unit for unit in ("tiles", "files", "features") if unit in values)
    count = f"{values[unit]} {unit if values[unit] != 1 else unit[:-1]}"
    named = f"{made.asset_key.to_user_string():<23} {made.partition or '':<20}"
    return f"{named} {count}, {size(values['bytes'])}, {duration(values['seconds'])}  {values['path']}"


class _Terminal(logging.Handler):
    """What assets log of long work, on standard error: a line per interval."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._shown = time.time()

    def emit(self, record: logging.LogRecord) -> None:
        """Print a line if it is time to."""
        told = getattr(record, "dagster_meta", {})
        if told.get("dagster_event") is None and record.created - self._shown >= _LINE_INTERVAL_S:
            self._shown = record.created
            click.echo(f"  {told.get('step_key')}: {told.get('orig_message')}", err=True)


@dg.logger
def _terminal(_context: dg.InitLoggerContext) -> logging.Logger:
    logger = logging.Logger("fusi", logging.INFO)
    logger.addHandler(_Terminal())
    return logger


_LOCATION = dg.Definitions.merge(registry.terrain, dg.Definitions(loggers={"terminal": _terminal}))


if __name__ == "__main__":
    main()
