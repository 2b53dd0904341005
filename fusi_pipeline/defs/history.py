"""What the instance remembers of an asset: when it was last made or looked at, and its version then."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import dagster as dg

DATA_VERSION_TAG = "dagster/data_version"


@dataclass(frozen=True, slots=True)
class Remembered:
    """A materialization of the past."""

    at: float
    """Seconds since 1970."""
    data_version: str | None
    metadata: Mapping[str, object]


def latest(instance: dg.DagsterInstance, key: dg.AssetKey, partition: str | None = None) -> Remembered | None:
    """Return the latest materialization of an asset or of one partition of it."""
    wanted = dg.AssetRecordsFilter(asset_key=key, asset_partitions=[partition] if partition else None)
    for record in instance.fetch_materializations(wanted, limit=1).records:
        event = record.asset_materialization
        if event is not None:
            values = {name: value.value for name, value in event.metadata.items()}
            return Remembered(record.timestamp, (event.tags or {}).get(DATA_VERSION_TAG), values)
    return None


def observed_version(instance: dg.DagsterInstance, key: dg.AssetKey, partition: str) -> str | None:
    """Return the data version that one partition of an asset had when it was last looked at."""
    wanted = dg.AssetRecordsFilter(asset_key=key, asset_partitions=[partition])
    for record in instance.fetch_observations(wanted, limit=1).records:
        event = record.asset_observation
        if event is not None:
            return (event.tags or {}).get(DATA_VERSION_TAG)
    return None
