"""The terrain pipeline as Dagster sees it: assets with checks, sensors, a schedule.

Besides `fusi_pipeline.definitions` the only importers of dagster. Nothing is
computed here: an asset calls one function of the pipeline, verifies what came
out and reports it. Modules whose functions dagster decorates keep their annotations
as objects (no `from __future__ import annotations`), for it reads them.
"""
