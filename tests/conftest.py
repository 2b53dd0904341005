"""Fixtures that more than one test module uses."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def dem() -> Path:
    """The folder of real elevation data (FUSI_TEST_DEM); read from it, never write. Skips where absent."""
    folder = Path(os.environ.get("FUSI_TEST_DEM") or REPOSITORY.parent / "shared" / "dem")
    if not folder.is_dir():
        pytest.skip(f"no real elevation data at {folder}: set FUSI_TEST_DEM")
    return folder
