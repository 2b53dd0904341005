"""The kernels' machine code: made once, kept where it can be written, announced where it takes time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fusi_pipeline.aggregate import build_source
from fusi_pipeline.plan import BuildOptions
from fusi_pipeline.tiles import native
from tests import rasters
from tests.test_build import settings


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Let code be kept in two new folders: beside the source, and the user's."""
    both = (tmp_path / "beside", tmp_path / "user")
    monkeypatch.setattr(native, "_cache_folders", lambda: list(both))
    return both


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Count compilations in place of doing them."""
    done: list[Any] = []

    def compiled(machine: Any) -> tuple[dict[str, str], list[bytes]]:
        done.append(machine)
        return {"sample": "symbol"}, [b"code", b"more"]

    monkeypatch.setattr(native, "_compiled", compiled)
    return done


def test_code_is_compiled_once_and_then_read(folders: tuple[Path, Path], compilations: list[Any]) -> None:
    assert not native.is_compiled()
    first = native._cached("machine")
    assert native.is_compiled()
    assert native._cached("machine") == first == ({"sample": "symbol"}, [b"code", b"more"])
    assert len(compilations) == 1
    assert [path.name for path in folders[0].iterdir()] == [native._file_name()]
    assert not folders[1].exists()


def test_code_of_other_sources_does_not_count_however_new(
    folders: tuple[Path, Path], compilations: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    native._cached("machine")
    monkeypatch.setattr(native, "_source_digest", lambda: "another")
    assert not native.is_compiled()
    native._cached("machine")
    assert native.is_compiled()
    assert len(compilations) == 2


def test_beside_a_source_that_cannot_be_written_to_it_is_the_users_folder(
    folders: tuple[Path, Path], compilations: list[Any]
) -> None:
    folders[0].write_text("a file where a folder should be: nobody, not even root, can write into it")
    native._cached("machine")
    native._cached("machine")
    assert len(compilations) == 1
    assert [path.name for path in folders[1].iterdir()] == [native._file_name()]


def test_without_any_folder_it_is_compiled_in_every_run(
    folders: tuple[Path, Path], compilations: list[Any]
) -> None:
    for folder in folders:
        folder.write_text("a file")
    native._cached("machine")
    native._cached("machine")
    assert len(compilations) == 2


def test_damaged_code_is_compiled_again(folders: tuple[Path, Path], compilations: list[Any]) -> None:
    native._cached("machine")
    path = folders[0] / native._file_name()
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    native._cached("machine")
    assert len(compilations) == 2
    native._cached("machine")
    assert len(compilations) == 2


@pytest.mark.parametrize("there", [False, True])
def test_a_build_says_that_it_compiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    monkeypatch.setattr(native, "is_compiled", lambda: there)
    rasters.write(tmp_path / "store" / "hill" / "a.tif", rasters.terrain(40, 40), pixel=0.02)
    notes = [progress.note for progress in build_source("hill", settings(tmp_path), BuildOptions())]
    assert (native.COMPILING in notes) is not there
