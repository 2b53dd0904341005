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
    return Places(
        layers_dir=Path(stated.get("FUSI_LAYERS_DIR", "") or "layers"),
        output_dir=Path(stated.get("FUSI_OUTPUT_DIR", "") or "output"),
        region_quadrants=checked_region(stated.get("FUSI_LAYER_REGION", "") or REGION_QUADRANTS),
    )


def checked_region(stated: str | int) -> int:
    """Return the side of a region, if it can be one. Raises SettingInvalid."""
    side = str(stated)
    whole = side.isascii() and side.isdigit() and 0 < int(side) <= _MOST_REGION_QUADRANTS
    if not whole or int(side) % 3:
        raise SettingInvalid("FUSI_LAYER_REGION", side, f"a multiple of 3 of 3..{_MOST_REGION_QUADRANTS}")
    return int(side)


_MOST_MS = 30 * 24 * 3_600_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageResults:
    """How long the image server keeps what it drew."""

    ttl_ms: int = 300_000
    cleanup_ms: int = 60_000
    """Between two times that it looks for what has expired."""


def image_results_from(environment: Mapping[str, str] | None = None) -> ImageResults:
    """Return IMAGE_RESULT_TTL_MS (300000) and IMAGE_CLEANUP_INTERVAL_MS (60000).

    Raises SettingInvalid.
    """
    stated = os.environ if environment is None else environment
    found: list[int] = []
    for name, default in (("IMAGE_RESULT_TTL_MS", 300_000), ("IMAGE_CLEANUP_INTERVAL_MS", 60_000)):
        text = stated.get(name, "").strip() or str(default)
        is_whole = text.isascii() and text.isdigit() and len(text) <= len(str(_MOST_MS))
        if not (is_whole and 1 <= int(text) <= _MOST_MS):
            raise SettingInvalid(name, text, f"a whole number of milliseconds from 1 to {_MOST_MS}")
        found.append(int(text))
    return ImageResults(ttl_ms=found[0], cleanup_ms=found[1])


_PASSED_ON = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "PYTHONPATH",
    "VIRTUAL_ENV",
    "XDG_RUNTIME_DIR",
)
"""What a renderer's process is told of the environment: no keys of model servers."""


def browser_program(environment: Mapping[str, str] | None = None) -> str | None:
    """Return the name or path of the browser that draws (FUSI_CHROMIUM), None where none is stated."""
    return (os.environ if environment is None else environment).get("FUSI_CHROMIUM") or None


def browser_folders(environment: Mapping[str, str] | None = None) -> tuple[Path, ...]:
    """Return where playwright puts browsers of its own."""
    stated = os.environ if environment is None else environment
    named = stated.get("PLAYWRIGHT_BROWSERS_PATH")
    return (Path(named) if named else Path(stated.get("HOME", "/"), ".cache", "ms-playwright"),)


def renderer_environment(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a renderer's process."""
    stated = os.environ if environment is None else environment
    return {name: stated[name] for name in _PASSED_ON if name in stated}
