"""Elevation rasters to one MBTiles per source, merged pixel by pixel into one PMTiles."""
