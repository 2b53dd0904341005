"""What layer generation is told by its environment: keys of model servers, folders, workers.

The only module of the package that reads environment variables.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from fusi_pipeline.errors import SettingInvalid


def keys_from(environment: Mapping[str, str] | None = None) -> Mapping[str, str]:
    """Return the variables that endpoints may name (`api_key_env`), the process's own by default."""
    return MappingProxyType(dict(os.environ if environment is None else environment))


def progress_interval_s(environment: Mapping[str, str] | None = None) -> float:
    """Return the seconds between progress lines where there is no terminal (FUSI_PROGRESS_INTERVAL; 10).

    Raises SettingInvalid.
    """
    stated = (os.environ if environment is None else environment).get("FUSI_PROGRESS_INTERVAL", "") or "10"
    try:
        interval_s = float(stated)
    except ValueError:
        interval_s = math.nan
    if not (math.isfinite(interval_s) and interval_s >= 0):
        raise SettingInvalid("FUSI_PROGRESS_INTERVAL", stated, "a number of at least 0")
    return interval_s


def workers(environment: Mapping[str, str] | None = None) -> int:
    """Return how many pictures may be worked at together (FUSI_WORKERS; the processors).

    Raises SettingInvalid.
    """
    stated = (os.environ if environment is None else environment).get("FUSI_WORKERS", "")
    if not stated:
        return os.cpu_count() or 1
    if not (stated.isascii() and stated.isdigit() and int(stated) >= 1):
        raise SettingInvalid("FUSI_WORKERS", stated, "a whole number of at least 1")
    return int(stated)


REGION_QUADRANTS = 36
"""Side of a region: at 10 s a picture and one model server a step of it takes 24 to 48 minutes."""
_MOST_REGION_QUADRANTS = 3000


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where layers are, where their archives go, and how they are cut into regions."""

    layers_dir: Path
    output_dir: Path
    region_quadrants: int = REGION_QUADRANTS
    """Side of a region in quadrants, a multiple of 3."""


def places_from(environment: Mapping[str, str] | None = None) -> Places:
    """Return FUSI_LAYERS_DIR (layers), FUSI_OUTPUT_DIR (output) and FUSI_LAYER_REGION (36).

    Raises SettingInvalid.
    """
    stated = os.environ if environment is None else environment
    side = stated.get("FUSI_LAYER_REGION", "") or str(REGION_QUADRANTS)
    whole = side.isascii() and side.isdigit() and 0 < int(side) <= _MOST_REGION_QUADRANTS
    if not whole or int(side) % 3:
        raise SettingInvalid("FUSI_LAYER_REGION", side, f"a multiple of 3 of 3..{_MOST_REGION_QUADRANTS}")
    return Places(
        layers_dir=Path(stated.get("FUSI_LAYERS_DIR", "") or "layers"),
        output_dir=Path(stated.get("FUSI_OUTPUT_DIR", "") or "output"),
        region_quadrants=int(side),
    )
