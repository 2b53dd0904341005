"""Fixtures that more than one test module uses."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest

hypothesis.settings.register_profile("long", max_examples=200, deadline=None)
hypothesis.settings.register_profile("without deadlines", deadline=None)  # machines are shared
hypothesis.settings.load_profile("without deadlines")

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def dem() -> Path:
    """The folder of real elevation data; read from it, never write. Skips where absent.

    It is FUSI_TEST_DEM, or a folder `dem` with a MANIFEST.json beside or below a
    neighbour of the repository.
    """
    named = os.environ.get("FUSI_TEST_DEM")
    found = [Path(named)] if named else sorted(REPOSITORY.parent.glob("*/dem"))
    for folder in found:
        if (folder / "MANIFEST.json").is_file():
            return folder
    pytest.skip("no real elevation data: set FUSI_TEST_DEM to its folder")
