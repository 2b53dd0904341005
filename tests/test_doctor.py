"""The doctor: what a machine has and lacks, each with a remedy, and settings that can be used."""

from __future__ import annotations

import os
import re
import sqlite3
from collections import namedtuple
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusi_pipeline import doctor
from fusi_pipeline.doctor import BROKEN, NOTE, OK, DoctorReport, Finding, examine
from fusi_pipeline.doctor_profiles import Machine, is_small, profiles
from fusi_pipeline.settings import Settings, settings_from
from tests.command import Fusi, fusi  # noqa: F401

Partition = namedtuple("Partition", "mountpoint fstype")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_from({}).with_options(source_store=tmp_path / "store", output_dir=tmp_path / "out")


def found(report: DoctorReport, name: str) -> Finding:
    (one,) = (one for one in report.findings if one.name == name)
    return one


def test_a_machine_that_runs_these_tests_is_sound_and_left_as_it_was(
    settings: Settings, tmp_path: Path
) -> None:
    report = examine(settings)
    assert report.sound, [one for one in report.findings if one.status == BROKEN]
    assert list(tmp_path.iterdir()) == []
    for one in report.findings:
        assert one.status in (OK, NOTE)
        assert (one.status == OK) == (not one.remedy), one
    assert {"GDAL", "PROJ", "memory", "kernels", "output", "free space", "open files"} <= {
        one.name for one in report.findings
    }


def test_the_command_prints_it_all_and_ends_well(tmp_path: Path, fusi: Fusi) -> None:  # noqa: F811
    answer = fusi("doctor", "--output-dir", tmp_path)
    assert answer.code == 0
    assert "which suits this machine" in answer.out
    told = fusi("doctor", "--output-dir", tmp_path, "--json").json
    assert told["sound"] is True
    assert {one["name"] for one in told["profiles"]} == {"fast", "conservative"}


def test_what_is_broken_ends_with_1(
    tmp_path: Path,
    fusi: Fusi,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor, "gdal_facts", lambda: ("3.0", frozenset({"VRT"})))
    answer = fusi("doctor", "--output-dir", tmp_path)
    assert answer.code == 1
    assert re.search(r"!! GDAL +3.0 without GTiff\n +install", answer.out)


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs", "smbfs"])
def test_a_network_disk_is_told(settings: Settings, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(doctor.psutil, "disk_partitions", lambda all: [Partition("/", kind)])  # noqa: A006
    report = examine(settings)
    assert found(report, "output").status == NOTE
    assert "local disk" in found(report, "output").remedy
    assert report.profiles[0].name == "conservative"


def test_a_folder_that_cannot_be_written_to_is_broken(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refused)
    report = examine(settings)
    assert not report.sound
    assert found(report, "output").status == BROKEN
    assert "Permission denied" in found(report, "output").value


def test_a_disk_on_which_sqlite_cannot_work_is_broken(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("database is locked")

    monkeypatch.setattr(doctor.sqlite3, "connect", connect)
    one = found(examine(settings), "output")
    assert (one.status, "database is locked" in one.remedy) == (BROKEN, True)


def test_little_memory_few_files_and_a_full_disk_are_told(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor.machine_memory, "total_mib", lambda: 300)
    monkeypatch.setattr(doctor.resource, "getrlimit", lambda _: (200, 200))
    monkeypatch.setattr(doctor, "free_mib", lambda _: 100)
    report = examine(settings)
    assert found(report, "memory").status == BROKEN
    assert found(report, "open files").status == BROKEN
    assert found(report, "free space").status == NOTE
    assert "of the machine, by a control group" in found(report, "memory").value


def test_a_missing_package_is_named(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_PACKAGES", ("numpy", "no-such-package"))
    one = found(examine(settings), "packages")
    assert one.status == BROKEN
    assert "no-such-package is missing" in one.value


def test_kernels_that_change_a_tile_are_broken(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "decode_webp", lambda _: None)
    assert found(examine(settings), "kernels").status == BROKEN


def test_the_command_of_pmtiles_is_asked(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = tmp_path / "pmtiles"
    command.write_text("#!/bin/sh\necho pmtiles 9.9\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    one = found(examine(settings), "pmtiles command")
    assert (one.status, one.value) == (OK, f"{command} pmtiles 9.9")


machines = st.builds(
    Machine,
    processors=st.integers(1, 256),
    memory_mib=st.integers(512, 1 << 20),
    output_dir=st.just(Path("out")),
    disk_mb_s=st.none() | st.floats(1, 10_000),
    external=st.booleans(),
)


@given(machines)
def test_profiles_are_settings_that_are_accepted_and_fit_the_machine(machine: Machine) -> None:
    for profile in profiles(machine):
        settings = settings_from(profile.environment)
        assert settings.workers <= machine.processors
        assert settings.memory_mb <= machine.memory_mib
        assert settings.on_disk_full == "wait"


@given(machines)
def test_the_profile_that_suits_comes_first(machine: Machine) -> None:
    names = [one.name for one in profiles(machine)]
    assert names == (["conservative", "fast"] if is_small(machine) else ["fast", "conservative"])


def test_the_conservative_profile_is_that_of_16_gib_and_an_external_disk() -> None:
    machine = Machine(processors=8, memory_mib=16 * 1024, output_dir=Path("/Volumes/dem/out"), external=True)
    best = profiles(machine)[0]
    settings = settings_from(best.environment)
    assert best.name == "conservative"
    assert best.options == "--split balanced"
    assert settings.scratch == Path("/Volumes/dem/out/tmp")
    assert (settings.workers, settings.memory_mb, settings.gdal_cache_mib) == (2, 6000, 256)
    assert (settings.pace.commit_sleep_s, settings.pace.batch_sleep_s, settings.io_sleep_s) == (
        0.1,
        0.02,
        0.001,
    )
