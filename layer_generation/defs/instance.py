"""The Dagster instance of the environment, and what a location is to a backfill."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph

from fusi_pipeline.errors import UsageError


@contextmanager
def opened() -> Iterator[dg.DagsterInstance]:
    """Yield the instance of the environment. Raises UsageError."""
    try:
        instance = dg.DagsterInstance.get()
    except dg.DagsterError as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise UsageError(
            f"the Dagster instance cannot be opened: {reason}; the recipes of the justfile set DAGSTER_HOME, "
            "FUSI_STATE_DIR and FUSI_COMPUTE_LOGS"
        ) from error
    with instance:
        yield instance


def graph(location: dg.Definitions) -> AssetGraph:
    """Return the assets of a location, and which waits for which."""
    return location.get_repository_def().asset_graph
