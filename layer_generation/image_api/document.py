"""The OpenAPI document: what FastAPI knows of the routes, and what it cannot know."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from layer_generation.image_api.artist import Abilities
from layer_generation.image_api.contract import Error, GenerationRequest
from layer_generation.image_api.refusals import Broken, Misdirected, OriginRefused, Refusal, Unauthorized

_REFERENCE = "#/components/schemas/"
REQUEST_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": f"{_REFERENCE}GenerationRequest"}}},
    }
}
_UNSTATED = ("sampler", "model", "image", "mask", "seed")
"""Fields whose default is what their description says."""
_WITH_IMAGE = ("image", "mask", "strength")
_EXAMPLE = {"prompt": "a harbour in winter", "width": 512, "height": 512, "seed": 7}


def refusals(*kinds: type[Refusal]) -> dict[int | str, dict[str, Any]]:
    """Return the answers of a route that are errors, as FastAPI wants them."""
    told: dict[int | str, dict[str, Any]] = {}
    every: tuple[type[Refusal], ...] = (*kinds, Misdirected, Broken)
    for kind in every:
        summary = (kind.__doc__ or "").splitlines()[0]
        headers = {}
        if kind.status == 503:
            headers = {
                "Retry-After": {
                    "description": "Seconds to wait.",
                    "schema": {"type": "integer", "minimum": 1},
                }
            }
        told[kind.status] = {
            "model": Error,
            "description": f"{kind.code}: {summary}",
            **({"headers": headers} if headers else {}),
        }
    return told


def described(app: FastAPI, has: Abilities, wants_token: bool) -> dict[str, Any]:
    """Return the document of an application whose backend has certain models and samplers."""
    app.openapi_schema = None
    told = app.openapi()
    schemas = told["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas |= _request_schemas(has)
    for path in told["paths"].values():
        for method, operation in path.items():
            operation["responses"].pop("422", None)
            _complete(operation, method, wants_token and operation["operationId"] != "getHealth")
    if wants_token:
        told["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    for schema in schemas.values():
        fields = schema.get("properties", {})
        fields.update({name: _without_null(field) for name, field in fields.items()})
    return told


def _request_schemas(has: Abilities) -> dict[str, Any]:
    """Return the schema of the body: of one kind where there is a picture to start from, else of another."""
    schema = GenerationRequest.model_json_schema(ref_template=_REFERENCE + "{model}")
    fields = schema["properties"]
    fields["model"]["enum"] = list(has.models)
    fields["sampler"]["enum"] = list(has.samplers)
    for name in _UNSTATED:
        fields[name].pop("default", None)
    told = {name: field for name, field in fields.items() if name not in _WITH_IMAGE}
    text = {**schema, "title": "TextToImage", "properties": told, "example": _EXAMPLE}
    text["description"] = "A request for one to five pictures of a prompt."
    image = {**schema, "title": "ImageToImage", "required": ["prompt", "image"]}
    image["description"] = "A request for one to five pictures that start from another one."
    kinds = [{"$ref": f"{_REFERENCE}{name}"} for name in ("TextToImage", "ImageToImage")]
    return {"GenerationRequest": {"oneOf": kinds}, "TextToImage": text, "ImageToImage": image}


def _complete(operation: dict[str, Any], method: str, wants_token: bool) -> None:
    """Add the errors that stand before the routes, and the headers of answers."""
    for parameter in operation.get("parameters", ()):
        parameter["schema"] = _without_null(parameter["schema"])
    error = {"application/json": {"schema": {"$ref": f"{_REFERENCE}Error"}}}
    before: list[type[Refusal]] = [OriginRefused] if method in ("post", "delete") else []
    if wants_token:
        before.append(Unauthorized)
    for kind in before:
        summary = (kind.__doc__ or "").splitlines()[0]
        operation["responses"][str(kind.status)] = {
            "description": f"{kind.code}: {summary}",
            "content": error,
        }
    if wants_token:
        operation["security"] = [{"token": []}]
    if method == "post":
        operation["responses"]["201"]["headers"] = {
            "Location": {"description": "The address of the generation.", "schema": {"type": "string"}},
            "Idempotent-Replayed": {
                "description": "`true` where the key had been here before.",
                "schema": {"type": "string", "const": "true"},
            },
        }


def _without_null(field: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a field that is left out rather than null."""
    kinds = [kind for kind in field.get("anyOf", ()) if kind.get("type") != "null"]
    if len(kinds) != 1:
        return field
    return {**kinds[0], **{key: value for key, value in field.items() if key not in ("anyOf", "default")}}
