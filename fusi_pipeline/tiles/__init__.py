"""The shared kernel: grid, archives, encodings and resampling of raster tiles.

What belongs here knows tiles and arrays only. Sources, models, rasterio and
dagster do not.
"""
