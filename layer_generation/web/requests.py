"""What pages ask for, as checked values."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    field_validator,
    model_validator,
)

from layer_generation.errors import ItemInvalid
from layer_generation.plan import LIMIT
from layer_generation.web.items import MOST_SEED, MOST_TEXT, Quadrant, checked_parameters, rectangle

MOST_CHOSEN = 65_536
"""Quadrants that one request may name, one by one or by two corners."""

Number = Annotated[StrictInt, Field(ge=-LIMIT, le=LIMIT)]
Place = tuple[Number, Number]
Color = Annotated[StrictStr, Field(pattern=r"^#[0-9a-fA-F]{6}$")]
Text = Annotated[StrictStr, Field(max_length=MOST_TEXT)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Chosen(_Body):
    """Quadrants: one by one, or the rectangle between two corners, both included."""

    quadrants: Annotated[list[Place], Field(min_length=1, max_length=MOST_CHOSEN)] | None = None
    top_left: Place | None = None
    bottom_right: Place | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Chosen:
        corners = self.top_left is not None and self.bottom_right is not None
        if (self.quadrants is not None) == corners or (self.top_left is None) != (self.bottom_right is None):
            raise ValueError("expected either quadrants, or top_left and bottom_right")
        return self

    def chosen(self) -> tuple[Quadrant, ...]:
        """Return the quadrants, each once. Raises ItemInvalid where there are too many."""
        if self.quadrants is not None:
            return tuple(dict.fromkeys(self.quadrants))
        assert self.top_left is not None
        assert self.bottom_right is not None
        (x, y), (to_x, to_y) = self.top_left, self.bottom_right
        count = (abs(to_x - x) + 1) * (abs(to_y - y) + 1)
        if count > MOST_CHOSEN:
            raise ItemInvalid(f"a rectangle of {count} quadrants: expected at most {MOST_CHOSEN}")
        return tuple(rectangle((x, y), (to_x, to_y)))


class Generate(Chosen):
    """Pictures wanted of a model."""

    model_id: StrictStr | None = None
    prompt: Text = ""
    negative_prompt: Text = ""
    seed: Annotated[StrictInt, Field(ge=0, le=MOST_SEED)] | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)
    regenerate: StrictBool = False

    @field_validator("parameters")
    @classmethod
    def _finite(cls, stated: dict[str, Any]) -> dict[str, Any]:
        try:
            json.dumps(stated, allow_nan=False, ensure_ascii=False).encode()
        except (ValueError, RecursionError) as error:
            raise ValueError("expected finite numbers and text that UTF-8 can hold") from error
        try:
            checked_parameters(stated)
        except ItemInvalid as error:
            raise ValueError(str(error)) from error
        return stated


class Render(Chosen):
    """Renders wanted."""

    overwrite: StrictBool = True


class Delete(Chosen):
    """Pictures to be taken away."""

    what: Literal["generation", "render"]


class Flag(Chosen):
    """A flag to be set or cleared."""

    flag: Literal["flagged", "starred", "is_water", "is_reference"]
    value: StrictBool = True


class Note(Chosen):
    """A note."""

    text: Annotated[StrictStr, Field(max_length=4000)]


class Fill(Chosen):
    """Quadrants to be filled with a colour."""

    color: Color


class Recolor(Chosen):
    """A colour to be replaced softly."""

    color: Color
    replacement: Color
    softness: Annotated[StrictInt | StrictFloat, Field(ge=0, le=100)] = 10


class Clear(_Body):
    """What of the queue to clear: what waits, of one lane or of all; or what is finished."""

    model_id: StrictStr | None = None
    finished: StrictBool = False
