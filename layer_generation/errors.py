"""The errors of layer generation that a person can act on, each named for its condition.

They are `FusiError`s: one line, exit code 2 where the command was given wrongly
and 1 where the work failed.
"""

from __future__ import annotations

from pathlib import Path

from fusi_pipeline.errors import FusiError, UsageError


class MapMissing(UsageError):
    """A folder is named as a map and holds none."""

    def __init__(self, folder: Path, reason: str = "holds no quadrants.db") -> None:
        super().__init__(f"{folder}: {reason}; make a map with `fusi layer map init` or `import`")


class MapUnreadable(FusiError):
    """The database of a map or of a layer cannot be read."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")


class MapExists(UsageError):
    """A map is to be made where one is already."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"{folder}: holds a map already; choose another folder")


class GeometryInvalid(UsageError):
    """What is said of a map's place or camera cannot be used."""


class LayerMissing(UsageError):
    """A folder is named as a layer and holds none."""

    def __init__(self, folder: Path, reason: str = "holds no layer_config.json") -> None:
        super().__init__(f"{folder}: {reason}; make a layer with `fusi layer init`")


class LayerExists(UsageError):
    """A layer is to be made where one is already."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            f"{folder}: holds a layer already; add new quadrants with `fusi layer extend`, "
            "or back it up and begin anew with --force"
        )


class LayerIncomplete(FusiError):
    """A layer has quadrants that are not finished."""

    def __init__(self, folder: Path, missing: int, quadrants: int) -> None:
        super().__init__(
            f"{folder}: {missing} of {quadrants} quadrants are not finished; draw them with "
            "`fusi layer generate`, or leave them out with --partial"
        )


class LayerConfigInvalid(UsageError):
    """The configuration of a layer or of its endpoints says something that cannot be used."""

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")


class ImageInvalid(FusiError):
    """A picture cannot be used: it does not decode, or is not of the size that is needed."""

    def __init__(self, what: Path | str, reason: str) -> None:
        super().__init__(f"{what}: {reason}")


class EndpointInvalid(UsageError):
    """A model endpoint cannot be opened as it is configured."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"endpoint {name!r}: {reason}")


class EndpointsExhausted(FusiError):
    """No model server is left that could go on."""


class QuadrantsInvalid(UsageError):
    """What is given as the quadrants of a plan is not positions that can be planned."""

    def __init__(self, what: str, expected: str) -> None:
        super().__init__(f"{what}: a plan of quadrants expects {expected}")
