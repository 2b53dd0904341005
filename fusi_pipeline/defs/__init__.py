"""The terrain pipeline as Dagster sees it: assets, checks, sensors, a schedule. Thin: the work is done elsewhere.

Besides `fusi_pipeline.definitions` the only importers of dagster. Nothing is
computed here: an asset calls one function of the pipeline, verifies what came
out and reports it.
"""
