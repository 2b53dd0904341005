"""What is asked of a merge, as keys by which it can be told whether the outputs are that already."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fusi_pipeline.contributions import TileIndex
from fusi_pipeline.merge_ledger import ledger_path, opened
from fusi_pipeline.merge_metadata import legend_of
from fusi_pipeline.terrain_input import TerrainInput
from fusi_pipeline.tiles.files import file_state
from fusi_pipeline.tiles.image import encoder_version

MERGE_VERSION = "merge-4"
"""Part of every key: raised whenever a change of the code changes the bytes of a merged tile."""


@dataclass(frozen=True, slots=True)
class MergeRule:
    """What is asked for, apart from the inputs."""

    mode: str
    feather_m: float
    lineage: Path | None
    name: str


class MergeRequest:
    """A merge that is asked for: inputs, outputs, rule."""

    def __init__(self, inputs: Sequence[TerrainInput], output: Path, encoder: str, rule: MergeRule) -> None:
        self.inputs = inputs
        self.output = output
        self.rule = rule
        self.states = tuple(one.state() for one in inputs)
        """By what it can be told that an input changes while it is read."""
        self.legend = legend_of(inputs)
        self.version = MERGE_VERSION + encoder_version(encoder)

    @property
    def outputs(self) -> list[Path]:
        """The archives to write, the terrain first."""
        return [self.output] if self.rule.lineage is None else [self.output, self.rule.lineage]

    def content_key(self, indexes: Sequence[TileIndex]) -> str:
        """Return a hash of everything that the outputs depend on."""
        facts = self._facts()
        facts += [self.rule.lineage and (self.rule.lineage.name, self.output.name)]
        for one, index in zip(self.inputs, indexes, strict=True):
            facts += [one.options.digest(), one.kind, one.maxzoom, one.is_exact, one.bounds]
            facts += [index.identity()]
        return _hash(facts)

    def key(self) -> str:
        """Return a hash of what is asked for, and of the state of the files it is asked of."""
        facts = self._facts()
        facts += [self.states, [str(path.resolve()) for path in self.outputs]]
        facts += [(str(one.path.resolve()), one.options.digest(), one.maxzoom) for one in self.inputs]
        return _hash(facts)

    def _facts(self) -> list[object]:
        rule = self.rule
        return [self.version, rule.mode, rule.feather_m, rule.name, self.legend]

    def output_states(self) -> str:
        """Return by what it can be told that an output was changed."""
        return "|".join(file_state(path) for path in self.outputs)

    def bytes_of_the_same(self) -> int | None:
        """Return the size of the tiles if the last merge was asked for the very same of the very same files.

        Told by sizes and times; needs no index of the inputs. None where it was not.
        """
        facts = self._ledger_facts()
        return int(facts["bytes"]) if facts.get("request") == self.key() else None

    def bytes_of_current(self, content_key: str) -> int | None:
        """Return the size of the tiles if the outputs already are what this merge would write.

        That is so where the ledger says that it was written for them, and nobody
        wrote to them or to an input since. None where it is not.
        """
        facts = self._ledger_facts()
        if facts.get("content_key") != content_key:
            return None
        written_ns = min(path.stat().st_mtime_ns for path in self.outputs)
        is_older = all(one.path.stat().st_mtime_ns <= written_ns for one in self.inputs)
        return int(facts["bytes"]) if is_older else None

    def _ledger_facts(self) -> Mapping[str, str]:
        """Return what the ledger says of the outputs; nothing where they are not as it left them."""
        ledger = opened(ledger_path(self.output))
        if ledger is None:
            return {}
        with ledger:
            facts = ledger.facts
        there = all(path.exists() for path in self.outputs)
        return facts if there and facts.get("states") == self.output_states() else {}


def _hash(facts: list[object]) -> str:
    return hashlib.blake2b(repr(facts).encode(), digest_size=16).hexdigest()
