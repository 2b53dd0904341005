"""Settings: read from a mapping, checked at the start, by name."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from fusi_pipeline.errors import SettingInvalid
from fusi_pipeline.settings import Settings, settings_from


def test_nothing_set_gives_folders_beside_the_command_and_the_whole_machine() -> None:
    settings = settings_from({})
    assert (settings.source_store, settings.output_dir) == (Path("source-store"), Path("output"))
    assert settings.workers >= 1
    assert settings.memory_mb == pytest.approx(psutil.virtual_memory().total / 2 / (1 << 20), abs=1)
    assert (settings.warp_threads, settings.io_sleep_s, settings.pace.commit_sleep_s) == (1, 0, 0)


def test_every_variable_is_read() -> None:
    settings = settings_from(
        {
            "FUSI_SOURCE_STORE": "/data/sources",
            "FUSI_OUTPUT_DIR": "/data/out",
            "FUSI_WORKERS": "7",
            "FUSI_MEMORY_MB": "3000",
            "FUSI_WARP_THREADS": "3",
            "FUSI_IO_SLEEP_MS": "250",
            "FUSI_PROGRESS_INTERVAL": "0.5",
            "FUSI_MB_CHECKPOINT_INTERVAL": "4",
            "FUSI_MB_COMMIT_SLEEP_SEC": "0.25",
            "FUSI_MB_BATCH_SLEEP_SEC": "0.125",
            "GDAL_CACHEMAX": "64",
            "TMPDIR": "/scratch",
        }
    )
    assert (settings.source_store, settings.output_dir) == (Path("/data/sources"), Path("/data/out"))
    assert (settings.workers, settings.memory_mb, settings.warp_threads) == (7, 3000, 3)
    assert (settings.io_sleep_s, settings.progress_interval_s) == (0.25, 0.5)
    assert settings.pace.checkpoint_interval == 4
    assert (settings.pace.commit_sleep_s, settings.pace.batch_sleep_s) == (0.25, 0.125)
    assert settings.gdal_cache_mib == 64
    assert settings.scratch_dir == Path("/scratch")


@pytest.mark.parametrize(
    "name", ["FUSI_WORKERS", "FUSI_MEMORY_MB", "FUSI_WARP_THREADS", "FUSI_MB_CHECKPOINT_INTERVAL"]
)
@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", " "])
def test_a_bad_whole_number_is_refused_by_name(name: str, text: str) -> None:
    with pytest.raises(SettingInvalid, match=name) as caught:
        settings_from({name: text})
    assert text in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "name",
    ["FUSI_IO_SLEEP_MS", "FUSI_PROGRESS_INTERVAL", "FUSI_MB_COMMIT_SLEEP_SEC", "FUSI_MB_BATCH_SLEEP_SEC"],
)
@pytest.mark.parametrize("text", ["-0.1", "often", "nan", "inf"])
def test_a_bad_number_is_refused_by_name(name: str, text: str) -> None:
    with pytest.raises(SettingInvalid, match=name):
        settings_from({name: text})


@pytest.mark.parametrize(
    ("text", "mib"),
    [
        ("", 192),
        ("64", 64),
        ("99999", 99999),
        (str(512 << 20), 512),
        ("64MB", 64),
        ("2GB", 2048),
        ("1.5gb", 1536),
    ],
)
def test_gdal_cachemax_is_read_as_gdal_reads_it(text: str, mib: int) -> None:
    assert settings_from({"GDAL_CACHEMAX": text}).gdal_cache_mib == mib


def test_gdal_cachemax_may_be_a_share() -> None:
    wanted = psutil.virtual_memory().total * 0.05 / (1 << 20)
    assert settings_from({"GDAL_CACHEMAX": "5%"}).gdal_cache_mib == pytest.approx(wanted, abs=1)


@pytest.mark.parametrize("text", ["much", "-5", "0", "-1%", "%", "1e400", "nan%", "infMB", "-1GB"])
def test_a_bad_gdal_cachemax_is_refused_by_name(text: str) -> None:
    with pytest.raises(SettingInvalid, match="GDAL_CACHEMAX"):
        settings_from({"GDAL_CACHEMAX": text})


def test_an_empty_variable_is_one_that_is_not_set() -> None:
    names = ("FUSI_SOURCE_STORE", "FUSI_OUTPUT_DIR", "FUSI_WORKERS", "FUSI_IO_SLEEP_MS", "TMPDIR")
    assert settings_from(dict.fromkeys(names, "")) == settings_from({})


def test_options_replace_what_is_given_and_nothing_else() -> None:
    settings = settings_from({"FUSI_WORKERS": "7", "FUSI_OUTPUT_DIR": "/out"})
    changed = settings.with_options(workers=2, output_dir=None)
    assert (changed.workers, changed.output_dir) == (2, Path("/out"))
    assert settings.workers == 7


def test_children_have_their_temporary_files_beside_the_output_unless_told() -> None:
    def folders(settings: Settings) -> set[str]:
        return {value for name, value in settings.child_environment().items() if name.endswith("TMPDIR")}

    assert folders(settings_from({"FUSI_OUTPUT_DIR": "/data/out"})) == {"/data/out/tmp"}
    assert folders(settings_from({"FUSI_OUTPUT_DIR": "/data/out", "TMPDIR": "/scratch"})) == {"/scratch"}
