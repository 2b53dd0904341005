"""What travels over the wire: the request for pictures, and what is answered, as pydantic models."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from layer_generation.image_api.reference import LARGEST_PX

Status = Literal["pending", "in_progress", "complete", "error", "cancelled"]
TERMINAL: tuple[Status, ...] = ("complete", "error", "cancelled")
FRESH_SEED = -1
SEEDS = 1 << 32
_EXACT = 1 << 53


_PICTURE = {"format": "png", "contentEncoding": "base64", "contentMediaType": "image/png"}


class GenerationRequest(BaseModel):
    """A request for one to five pictures of one prompt."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, field_title_generator=lambda name, _field: name
    )

    prompt: Annotated[
        str, Field(min_length=1, max_length=10_000, pattern=r"[^ \t\r\n]", description="What to draw.")
    ]
    negativePrompt: Annotated[str, Field(max_length=10_000, description="What not to draw.")] = ""  # noqa: N815
    width: Annotated[
        int,
        Field(ge=16, le=LARGEST_PX, multiple_of=8, description="Pixels; with `image`, those of the picture."),
    ] = 512
    height: Annotated[
        int,
        Field(ge=16, le=LARGEST_PX, multiple_of=8, description="Pixels; with `image`, those of the picture."),
    ] = 512
    steps: Annotated[int, Field(ge=1, le=150, description="Steps of diffusion.")] = 20
    cfgScale: Annotated[  # noqa: N815
        float, Field(ge=0, le=30, description="How closely to follow the prompt.")
    ] = 7.5
    seed: Annotated[
        int,
        Field(
            ge=FRESH_SEED,
            le=SEEDS - 1,
            description="Of the first picture; the next ones have seed + 1 and so on, modulo 2^32. "
            "Without it, or with -1, each has a fresh one.",
        ),
    ] = FRESH_SEED
    sampler: Annotated[str, Field(description="How to sample; the first by default.")] = ""
    model: Annotated[str, Field(description="The model to draw with; the first by default.")] = ""
    count: Annotated[int, Field(ge=1, le=5, description="Pictures to draw, one after another.")] = 1
    image: Annotated[
        str,
        Field(
            description=f"A PNG of 8 bits a channel to start from, of at most {LARGEST_PX} px each way and "
            "of multiples of 8; of width x height where these are stated.",
            json_schema_extra={**_PICTURE, "minLength": 1},
        ),
    ] = ""
    mask: Annotated[
        str,
        Field(
            description="A PNG of the size of `image`, white where to draw. Only with `image`.",
            json_schema_extra={**_PICTURE, "minLength": 1},
        ),
    ] = ""
    strength: Annotated[
        float,
        Field(ge=0, le=1, description="How far the picture may get from `image`. Only with `image`."),
    ] = 0.75

    @field_validator("width", "height", "steps", "seed", "count", mode="before")
    @classmethod
    def _as_whole(cls, value: Any) -> Any:
        """Return a number such as 2.0 as the whole number that it is in JSON Schema."""
        is_whole = type(value) is float and value.is_integer() and abs(value) < _EXACT
        return int(value) if is_whole else value

    expected: ClassVar[dict[str, str]] = {
        "prompt": "a text of 1 to 10000 characters, not only blanks",
        "negativePrompt": "a text of at most 10000 characters",
        "width": f"a whole number from 16 to {LARGEST_PX}, a multiple of 8",
        "height": f"a whole number from 16 to {LARGEST_PX}, a multiple of 8",
        "steps": "a whole number from 1 to 150",
        "cfgScale": "a number from 0 to 30",
        "seed": f"a whole number from 0 to {SEEDS - 1}, or -1 for a fresh one",
        "sampler": "the name of a sampler",
        "model": "the name of a model",
        "count": "a whole number between 1 and 5",
        "image": "a PNG in base64",
        "mask": "a PNG in base64",
        "strength": "a number from 0 to 1",
    }
    """What a field must be, for messages."""


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


Milliseconds = Annotated[int, Field(ge=0, description="Milliseconds since 1970.")]
Id = Annotated[str, Field(pattern=r"^gen_[0-9a-f]{32}$")]
Position = Annotated[int, Field(ge=1, description="Place among those that wait; 1 is the next.")]


class Accepted(_Answer):
    """A generation was accepted."""

    id: Id
    status: Literal["pending"]
    createdAt: Milliseconds  # noqa: N815
    position: Position | None = None


class Progress(_Answer):
    """How far a generation is."""

    currentStep: Annotated[int, Field(ge=0)]  # noqa: N815
    totalSteps: Annotated[int, Field(ge=0)]  # noqa: N815
    stage: Literal["loading", "diffusion", "decoding"]
    percentage: Annotated[float, Field(ge=0, lt=100, description="Of all pictures; never falls.")]
    currentImage: Annotated[int, Field(ge=1, le=5)] | None = None  # noqa: N815
    totalImages: Annotated[int, Field(ge=2, le=5)] | None = None  # noqa: N815


class Drawn(_Answer):
    """A picture."""

    image: Annotated[str, Field(json_schema_extra=_PICTURE)]
    seed: Annotated[int, Field(ge=0, lt=SEEDS)]
    width: Annotated[int, Field(ge=1)]
    height: Annotated[int, Field(ge=1)]


class Result(_Answer):
    """The pictures of a generation, in the order of their seeds."""

    images: Annotated[list[Drawn], Field(min_length=1, max_length=5)]
    format: Literal["png"]
    timeTaken: Annotated[int, Field(ge=0, description="Milliseconds from its start to its end.")]  # noqa: N815


class Failure(_Answer):
    """Why a generation failed."""

    message: str
    code: Literal["BACKEND_ERROR", "OUT_OF_MEMORY", "TIMEOUT_ERROR", "INTERNAL_ERROR"]


class Summary(_Answer):
    """A generation without its pictures."""

    id: Id
    status: Status
    createdAt: Milliseconds  # noqa: N815
    updatedAt: Milliseconds  # noqa: N815
    position: Position | None = None
    progress: Progress | None = None
    error: Failure | None = None
    count: Annotated[int, Field(ge=1, le=5)]
    width: Annotated[int, Field(ge=1)]
    height: Annotated[int, Field(ge=1)]
    model: str


class State(_Answer):
    """A generation."""

    id: Id
    status: Status
    createdAt: Milliseconds  # noqa: N815
    updatedAt: Milliseconds  # noqa: N815
    position: Position | None = None
    progress: Progress | None = None
    result: Result | None = None
    error: Failure | None = None


class Listing(_Answer):
    """Generations, newest first."""

    object: Literal["list"]
    data: list[Summary]
    total: Annotated[int, Field(ge=0, description="All that are known, also those beyond the limit.")]


class Cancelled(_Answer):
    """A generation was cancelled, now or before."""

    id: Id
    status: Literal["cancelled"]


class Health(_Answer):
    """How the server is."""

    status: Literal["ok", "stopping"]
    busy: Annotated[bool, Field(description="Whether a picture is drawn just now, or has still to stop.")]
    queued: Annotated[int, Field(ge=0)]
    queueDepth: Annotated[int, Field(ge=0)]  # noqa: N815
    backend: str


class Model(_Answer):
    """A model."""

    id: str
    object: Literal["model"]
    backend: str
    samplers: list[str]
    default: bool


class Models(_Answer):
    """The models that a request may name."""

    object: Literal["list"]
    data: list[Model]


class _ErrorFacts(_Answer):
    message: str
    code: str
    suggestion: str | None = None


class Error(_Answer):
    """Why a request was refused."""

    error: _ErrorFacts
