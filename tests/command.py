"""The `fusi` command in this process, and what it answers."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from typing import Any

import pytest

_PROGRESS = re.compile(r"\w+( \S+)? \d+/\d+ ")


@dataclass(frozen=True)
class Answer:
    """What a command answered."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> list[str]:
        """The lines on standard error that are no progress."""
        return [line for line in self.err.splitlines() if line and not _PROGRESS.match(line)]

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class Fusi:
    """The command."""

    patched: pytest.MonkeyPatch
    captured: pytest.CaptureFixture[str]

    def __call__(self, *words: object) -> Answer:
        self.patched.setattr(sys, "argv", ["fusi", *map(str, words)])
        from fusi_pipeline import cli

        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = 0 if end.code is None else int(end.code)
        out, err = self.captured.readouterr()
        assert "Traceback" not in err
        return Answer(code, out, err)


@pytest.fixture
def fusi(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Fusi:
    return Fusi(monkeypatch, capsys)
