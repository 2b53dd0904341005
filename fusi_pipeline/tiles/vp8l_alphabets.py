"""The alphabets of the five prefix codes of a group, as they lie side by side in a histogram.

Green with the lengths of copies and the places of the colour cache, red, blue, alpha, distance.
Source: RFC 9649, sections 3.6.2 and 3.7.
"""

from __future__ import annotations

LITERALS = 256
LENGTHS = 24
"""Prefix symbols of the lengths of copies; they follow the literals."""
CACHE = LITERALS + LENGTHS
"""Places of the colour cache follow the lengths."""
LARGEST_CACHE = 2048
GREENS = CACHE + LARGEST_CACHE
RED = GREENS
BLUE = RED + 256
ALPHA = BLUE + 256
DISTANCE = ALPHA + 256
GROUP = DISTANCE + 40
"""Symbols of the five alphabets of a group."""
LANES = 8
"""The most groups of codes here; costs of all groups lie side by side."""
COVERED = 0xFFFF
"""In place of the symbol of a pixel that a copy covers."""
