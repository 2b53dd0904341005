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


class ItemInvalid(UsageError):
    """An item of the generation queue says something that cannot be done."""


class ItemUnknown(FusiError):
    """An item is asked for that the generation queue does not hold."""

    def __init__(self, number: int) -> None:
        super().__init__(f"item {number}: the queue holds none of that number")


class ItemSettled(FusiError):
    """An item is in a state in which what is asked for cannot be done."""


class AppConfigInvalid(UsageError):
    """The configuration of the generation app says something that cannot be used."""

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")


class ViewInvalid(UsageError):
    """A picture is asked for that no renderer can draw."""


class RendererUnavailable(UsageError):
    """The browser renderer cannot run on this machine as it is."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the browser renderer cannot start: {reason}")


class RendererBusy(FusiError):
    """More pictures wait for the renderer than it takes."""

    def __init__(self, waiting: int) -> None:
        super().__init__(f"the renderer is busy: {waiting} pictures wait already; ask again later")


class RendererStopped(FusiError):
    """The renderer ended, or was never started, before it came to a picture."""

    def __init__(self) -> None:
        super().__init__("the renderer is stopped; the picture was not drawn")


class RenderFailed(FusiError):
    """The renderer failed at a picture, also after a restart."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the renderer failed twice at a picture: {reason}")


class RenderTimeout(FusiError):
    """A picture was not drawn in the time that its caller gave."""

    def __init__(self, timeout_s: float) -> None:
        super().__init__(f"the picture was not drawn within {timeout_s:g} s; it is no longer waited for")


class PicturesMissing(FusiError):
    """A rectangle is to be exported of which not all is there."""

    def __init__(self, name: str, quadrants: str) -> None:
        super().__init__(f"{name}: {quadrants} missing; choose less, or have what is missing transparent")


class NothingBeneath(FusiError):
    """A picture that is partly transparent is to be laid over a quadrant that has none."""

    def __init__(self, kind: str, quadrants: str) -> None:
        super().__init__(
            f"{quadrants}: is partly transparent in the picture, and the map has no {kind} to lie beneath;"
            " make it opaque there, or wholly transparent"
        )


class PicturesThere(FusiError):
    """Pictures are to be written where there are some, and nobody said to overwrite them."""

    def __init__(self, kind: str, quadrants: str) -> None:
        super().__init__(f"{quadrants}: has a {kind} already; say `overwrite` to replace it")
