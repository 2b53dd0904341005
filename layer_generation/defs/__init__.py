"""Layers as Dagster sees them: assets of regions, what waits for what, backfills.

Besides `layer_generation.definitions` the only importers of dagster. Nothing is drawn
here: an asset runs the worker over the blocks of its partition, verifies in progress.db
that all of them are complete, and says what it found. Modules whose functions dagster
decorates keep their annotations as objects, for it reads them.
"""
