"""What a job notes of assets that it makes, and the lines of its log on standard output."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TypeAlias

import click
import dagster as dg

LINES = "lines"
"""The logger below, by the name that a run's configuration has for it."""
_VERSION_TAG = "dagster/data_version"
_FIGURES = (
    "renders",
    "drawn now",
    "calls",
    "blocks",
    "blocks drawn now",
    "tiles",
    "bytes",
    "seconds",
    "path",
)

Result: TypeAlias = dg.MaterializeResult[None]
Event: TypeAlias = dg.AssetMaterialization | dg.AssetCheckEvaluation


def noted(
    context: dg.OpExecutionContext, key: dg.AssetKey, result: Result, partition: str | None = None
) -> Iterator[Event]:
    """Yield what was made of an asset, and what its checks say, as a run of the asset would; log both."""
    version = result.data_version
    made = dg.AssetMaterialization(
        key,
        partition=partition,
        metadata=result.metadata,
        tags={} if version is None else {_VERSION_TAG: version.value},
    )
    yield made
    name = f"{key.to_user_string()} {partition or ''}".strip()
    context.log.info(f"{name}: {figures(made)}")
    for check in result.check_results or ():
        evaluation = dg.AssetCheckEvaluation(
            asset_key=key,
            check_name=str(check.check_name),
            passed=check.passed,
            metadata=check.metadata,
            severity=check.severity,
            description=check.description,
            partition=partition,
        )
        yield evaluation
        context.log.info(f"{name}: {verdict(evaluation)}")


def figures(made: dg.AssetMaterialization) -> str:
    """Return the figures of an asset that was made."""
    values = {name: value.value for name, value in made.metadata.items()}
    return ", ".join(f"{name} {values[name]}" for name in _FIGURES if name in values)


def verdict(check: dg.AssetCheckEvaluation) -> str:
    """Return what a check says."""
    found = "passed" if check.passed else check.severity.value.lower()
    return f"{check.check_name}: {found}: {check.description}"


class _Lines(logging.Handler):
    """What is logged by hand, on standard output; Dagster's own events are in its pages."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a line."""
        told = getattr(record, "dagster_meta", {})
        event = told.get("dagster_event")
        if event is None and record.levelno < logging.ERROR:  # above, what Dagster leaves out and why
            click.echo(told.get("orig_message"))
        elif event is not None and event.is_step_failure:
            known = event.step_failure_data.user_failure_data
            click.echo(f"{event.step_key}: {known.description if known else event.step_failure_data.error}")


@dg.logger
def lines(_context: dg.InitLoggerContext) -> logging.Logger:
    """Return a logger that prints what runs log by hand."""
    logger = logging.Logger("fusi.layers", logging.INFO)
    logger.addHandler(_Lines())
    return logger
