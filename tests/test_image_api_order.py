"""What a request may say: fields, numbers, seeds and pictures."""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from layer_generation.image_api.artist import Abilities
from layer_generation.image_api.contract import GenerationRequest
from layer_generation.image_api.order import Order, ordered, parsed
from layer_generation.image_api.reference import mask_of
from layer_generation.image_api.refusals import RequestInvalid
from tests.image_service import noise, png

HAS = Abilities("actor", ("one", "two"), ("euler_a", "euler"))
IMAGE = png(noise(32, 24))


def asked(**fields: Any) -> Order:
    return ordered({"prompt": "x", **fields}, HAS)


def refusal(**fields: Any) -> str:
    with pytest.raises(RequestInvalid) as caught:
        asked(**fields)
    return str(caught.value)


# Fields

RANGES = {
    "width": (16, 2048, 8), "height": (16, 2048, 8), "steps": (1, 150, 1), "seed": (-1, 2**32 - 1, 1),
    "count": (1, 5, 1),
}  # fmt: skip


@pytest.mark.parametrize("field", RANGES)
@given(data=st.data())
def test_whole_numbers_are_taken_in_their_range_and_no_other(field: str, data: st.DataObject) -> None:
    low, high, step = RANGES[field]
    value = data.draw(st.integers(low - 20, high + 20) | st.integers())
    if low <= value <= high and value % step == 0:
        order = asked(**{field: value})
        assert getattr(order.request, field) == value
        assert asked(**{field: float(value)}).request == order.request, "2.0 is 2 in JSON"
    else:
        assert refusal(**{field: value}).startswith(f"{field} must be ")


@pytest.mark.parametrize("field", ["cfgScale", "strength"])
@given(value=st.floats(allow_nan=False))
def test_numbers_are_taken_in_their_range_and_no_other(field: str, value: float) -> None:
    high = {"cfgScale": 30, "strength": 1}[field]
    with_image = {"image": IMAGE} if field == "strength" else {}
    if 0 <= value <= high:
        assert getattr(asked(**{field: value}, **with_image).request, field) == value
    else:
        assert refusal(**{field: value}, **with_image).startswith(f"{field} must be ")


@pytest.mark.parametrize("field", GenerationRequest.expected)
@pytest.mark.parametrize("value", [None, True, [], {}, "3", 2.5, 1e300])
def test_values_of_other_kinds_are_refused_by_the_fields_name(field: str, value: Any) -> None:
    kinds = {"prompt": str, "negativePrompt": str, "cfgScale": float}
    if isinstance(value, kinds.get(field, type(None))) and value is not None and value != 1e300:
        return
    message = refusal(**{field: value})
    assert field in message
    assert "1e+300" not in message


@given(st.dictionaries(st.text(), st.integers(), min_size=1))
def test_unknown_fields_are_refused_by_name(fields: dict[str, int]) -> None:
    fields = {f"x{name}": value for name, value in fields.items()}
    message = refusal(**fields)
    assert message.startswith("Unknown field: x")
    assert message.isascii()
    assert message.isprintable()


@pytest.mark.parametrize("prompt", ["", " ", "\n\t ", "x" * 10_001])
def test_a_prompt_has_something_in_it(prompt: str) -> None:
    assert "prompt" in refusal(prompt=prompt)
    with pytest.raises(RequestInvalid, match=r"^Missing required field: prompt$"):
        ordered({}, HAS)


@given(st.text(max_size=200))
def test_a_message_never_repeats_what_a_person_wrote(text: str) -> None:
    secret = f"secret {text}"
    assert "secret" not in refusal(prompt=secret, steps=0, negativePrompt=[secret], sampler=secret)


@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_seeds_follow_one_another(seed: int, count: int) -> None:
    order = asked(seed=seed, count=count)
    assert order.seeds == tuple((seed + number) % 2**32 for number in range(count))
    assert [order.job(number).facts["seed"] for number in range(count)] == list(order.seeds)


@given(st.integers(1, 5))
def test_fresh_seeds_differ(count: int) -> None:
    seeds = asked(count=count).seeds
    assert len(set(seeds)) == count
    assert all(0 <= seed < 2**31 for seed in seeds)


# JSON

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12,
)  # fmt: skip


@given(st.dictionaries(st.text(), VALUES))
def test_what_json_writes_is_read(document: dict[str, Any]) -> None:
    assert parsed(json.dumps(document).encode()) == document


@given(st.binary(max_size=60) | st.text(alphabet='{}[]":,0123456789eE.-+ntfaul\\ ').map(str.encode))
def test_whatever_arrives_is_an_object_or_refused(body: bytes) -> None:
    with suppress(RequestInvalid):
        assert parsed(body) == json.loads(body)


@given(VALUES | st.dictionaries(st.sampled_from(sorted(GenerationRequest.expected)), VALUES))
def test_whatever_is_asked_is_understood_or_refused(document: Any) -> None:
    if not isinstance(document, dict):
        document = {"prompt": document}
    with suppress(RequestInvalid):
        order = ordered(document, HAS)
        assert order.count == len(order.seeds)


# Pictures


def test_a_picture_states_the_size_unless_the_request_does() -> None:
    assert asked(image=IMAGE).size == (32, 24)
    assert asked(image=IMAGE, width=32, height=24).size == (32, 24)
    for fields in ({"width": 64}, {"height": 64}, {"width": 24, "height": 32}):
        assert "32 x 24" in refusal(image=IMAGE, **fields)


@pytest.mark.parametrize(
    ("image", "said"),
    [("", "base64"), ("####", "base64"), ("AAAA", "PNG"), ("data:image/png;base64," + IMAGE, "prefix"),
     (IMAGE[:40], "PNG"), (IMAGE[:200] + "=" * (-len(IMAGE[:200]) % 4), "PNG"), (IMAGE + "\n", "base64"),
     (png(noise(30, 24)), "30 x 24"), (png(noise(8, 8)), "8 x 8"), ("ü", "base64")],
)  # fmt: skip
def test_what_is_no_picture_is_refused(image: str, said: str) -> None:
    message = refusal(image=image)
    assert message.startswith("image ")
    assert said in message


def bomb(width: int, height: int) -> str:
    """Return a PNG that states a size and has next to nothing in it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1 << 20))
    whole = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return base64.b64encode(whole).decode()


@pytest.mark.parametrize("size", [(2056, 2048), (60_000, 60_000), (2**31 - 1, 2**31 - 1), (0, 16)])
def test_a_bomb_is_refused_by_what_it_states(size: tuple[int, int]) -> None:
    assert "2048" in refusal(image=bomb(*size))
    assert "2048" in refusal(image=IMAGE, mask=bomb(*size))


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "RGB"])
def test_pictures_of_all_modes_of_8_bits_are_taken(mode: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(noise(16, 16)).convert(mode).save(buffer, "PNG")
    assert asked(image=base64.b64encode(buffer.getvalue()).decode()).size == (16, 16)


def test_pictures_of_16_bits_and_other_formats_are_refused() -> None:
    assert "8 bits" in refusal(image=png(np.zeros((16, 16), np.uint16)))
    buffer = io.BytesIO()
    Image.fromarray(noise(16, 16)).save(buffer, "JPEG")
    assert "PNG" in refusal(image=base64.b64encode(buffer.getvalue()).decode())


def test_masks_are_white_where_to_draw() -> None:
    mask = np.zeros((24, 32), np.uint8)
    mask[:5] = 255
    for pixels in (mask, np.dstack([mask] * 3), np.dstack([np.zeros_like(mask)] * 3 + [255 - mask])):
        order = asked(image=IMAGE, mask=png(pixels))
        assert (mask_of(order.mask, "mask", (32, 24)) == (mask == 255)).all()
    assert "16 x 16" in refusal(image=IMAGE, mask=png(noise(16, 16)))


@pytest.mark.parametrize("fields", [{"mask": IMAGE}, {"strength": 0.5}])
def test_what_belongs_to_a_picture_needs_one(fields: dict[str, Any]) -> None:
    assert refusal(**fields) == f"{next(iter(fields))} needs image"
