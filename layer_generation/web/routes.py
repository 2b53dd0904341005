"""What each path of the app answers: the page, the map, its tiles, the queue, changes by hand, events."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response, StreamingResponse

from layer_generation.errors import ItemInvalid
from layer_generation.plan import LIMIT
from layer_generation.web import editing, requests, wishes
from layer_generation.web.answers import listed_json, state_json
from layer_generation.web.desk import Desk
from layer_generation.web.events import MOST_REVISION, Cursor
from layer_generation.web.items import GENERATE, PENDING, PROCESSING
from layer_generation.web.overviews import MOST_LEVEL, NotYet
from layer_generation.web.shelf import LAYER, Pictures
from layer_generation.web.wishes import Queued, Wish

MOST_BODY = 64 << 20
_FOREVER = "private, max-age=31536000, immutable"
_ASK = "private, no-cache"
_PART = {"Cache-Control": "no-store", "Retry-After": "1"}
"""Of a tile that shows a part of what it will."""

Number = Annotated[int, Path(ge=-LIMIT, le=LIMIT)]
Level = Annotated[int, Path(ge=0, le=MOST_LEVEL)]
Since = Annotated[int, Query(ge=0, le=MOST_REVISION)]
ItemNumber = Annotated[int, Path(ge=1, le=MOST_REVISION)]
Far = Annotated[int, Query(ge=0, le=MOST_REVISION)]
Corner = Annotated[str, Query(pattern=r"^-?[0-9]{1,10},-?[0-9]{1,10}$")]


class Absent(Exception):
    """What a path names is not there."""


def router(desk: Desk) -> APIRouter:
    """Return the routes of an app."""
    routes = APIRouter()
    for add in (_map, _pictures, _wishes, _queue, _edits, _exchange, _events):
        add(routes, desk)
    for one in routes.routes:  # of HEAD the server sends the head alone; a stream of events has no end
        if isinstance(one, APIRoute) and "GET" in (one.methods or ()) and one.path != "/api/events":
            one.methods = {
                *(one.methods or ()),
                "HEAD",
            }
    return routes


def _map(routes: APIRouter, desk: Desk) -> None:
    @routes.get("/api/config")
    def config() -> Response:
        return _plain(desk.facts())

    @routes.get("/api/renderer")
    def renderer() -> Response:
        return _plain(desk.painter.status())

    @routes.get("/api/quadrants")
    def quadrants(since: Since | None = None) -> Response:
        with desk.store() as store:
            revision, states = store.revision, store.states(since)
        return _plain({"revision": revision, "quadrants": [state_json(one) for one in states]})

    @routes.get("/api/quadrants/{x}/{y}")
    def quadrant(x: Number, y: Number) -> Response:
        facts = desk.quadrant(x, y)
        if facts is None:
            raise Absent(f"the map has no quadrant ({x}, {y})")
        return _plain(facts)

    @routes.get("/api/layers/{layer}/quadrants")
    def layer_quadrants(layer: str) -> Response:
        pictures = _found(desk, layer)
        stamps, revision = desk.board.stamps(pictures)
        there = [[x, y, version] for (x, y), (version, _) in stamps.levels[0].items()]
        return _plain({"revision": revision, "quadrants": there})

    @routes.get("/api/next")
    def following(
        flag: Literal["flagged", "starred", "is_water", "is_reference"] = "flagged",
        after: Corner | None = None,
        direction: Literal["1", "-1"] = "1",
    ) -> Response:
        with desk.store() as store:
            found = [(one.y, one.x) for one in store.states() if flag in one.flags]
        if not found:
            return _plain({"quadrant": None})
        found = found[:: int(direction)]
        later = found
        if after:
            column, row = _corner(after)
            forward, here = direction == "1", (row, column)
            later = [one for one in found if (one > here if forward else one < here)]
        y, x = (later or found)[0]
        return _plain({"quadrant": [x, y]})


def _pictures(routes: APIRouter, desk: Desk) -> None:
    @routes.get("/tiles/{layer}/{level}/{x}/{y}")
    def tile(
        request: Request, layer: str, level: Level, x: Number, y: Number, v: str = "", far: Far = 0
    ) -> Response:
        pictures = _found(desk, layer)
        if level == 0:
            return _stored(request, desk, pictures, x, y, v)
        try:
            made = desk.tile(pictures, level, x, y, far)
        except NotYet:
            part, shown, there = desk.partial_tile(pictures, level, x, y)
            headers = {**_PART, "Overview-Progress": f"{shown}/{there}"}
            return Response(part, media_type="image/webp", headers=headers)
        if made is None:
            return Response(status_code=204, headers={"Cache-Control": _ASK})
        version = f"{made.identity}-{made.stamp[0]}-{made.stamp[1]}"
        return _bytes(request, made.data, "image/webp", version, v == version)

    @routes.get("/pictures/{layer}/{x}/{y}.png")
    def picture(request: Request, layer: str, x: Number, y: Number, v: str = "") -> Response:
        answer = _stored(request, desk, _found(desk, layer), x, y, v)
        if answer.status_code == 204:
            raise Absent(f"{layer} has no picture at ({x}, {y})")
        return answer


def _stored(request: Request, desk: Desk, pictures: Pictures, x: int, y: int, v: str) -> Response:
    stamps, _ = desk.board.stamps(pictures)
    version, there = stamps.of(0, x, y)
    data = pictures.read(x, y) if there else None
    if data is None:
        return Response(status_code=204, headers={"Cache-Control": _ASK})
    named = f"{stamps.identity}-{version}"
    return _bytes(request, data, _kind(data), named, v == named)


def _wishes(routes: APIRouter, desk: Desk) -> None:
    @routes.post("/api/generate", status_code=202)
    def generate(body: requests.Generate) -> Response:
        wanted = Wish(
            quadrants=body.chosen(),
            model_id=body.model_id,
            prompt=body.prompt,
            negative_prompt=body.negative_prompt,
            seed=body.seed,
            parameters=body.parameters,
            regenerate=body.regenerate,
            renders_missing=desk.painter.kind != "none",
        )
        with desk.queue() as queue, desk.store() as store:
            return _queued(desk, wishes.wish(queue, store, desk.given.config, wanted))

    @routes.post("/api/render", status_code=202)
    def render(body: requests.Render) -> Response:
        with desk.queue() as queue, desk.store() as store:
            return _queued(desk, wishes.wish_renders(queue, store, body.chosen(), overwrite=body.overwrite))


def _queued(desk: Desk, queued: Queued) -> Response:
    with desk.queue() as queue:
        revision, listed = queue.of(queued.items)
    drawn = [one for one in listed if one.item.item_type == GENERATE] or listed
    return _plain(
        {
            "revision": revision,
            "items": [listed_json(one) for one in listed],
            "calls": len(drawn),
            "skipped": [list(one) for one in queued.skipped],
            "without_context": list(queued.without_context),
        },
        202,
    )


def _queue(routes: APIRouter, desk: Desk) -> None:
    @routes.get("/api/queue")
    def listing(since: Since | None = None, finished: Annotated[int, Query(ge=0, le=1000)] = 100) -> Response:
        with desk.queue() as queue:
            removed: list[int] = []
            if since is None:
                revision, listed = queue.listed(finished)
            else:
                revision, listed, removed = queue.changed_since(since)
            active, worked_at = queue.active(), queue.lanes_worked_at()
        running = {one.lane: one.id for one in active if one.status == PROCESSING}
        pending = Counter(one.lane for one in active if one.status == PENDING)
        return _plain(
            {
                "revision": revision,
                "items": [listed_json(one) for one in listed],
                "removed": removed,
                "lanes": desk.lanes_json(pending, running, worked_at),
            }
        )

    @routes.get("/api/queue/{number}")
    def item(number: ItemNumber) -> Response:
        with desk.queue() as queue:
            return _plain(listed_json(queue.get(number)))

    @routes.post("/api/queue/{number}/cancel")
    def cancel(number: ItemNumber) -> Response:
        with desk.queue() as queue:
            return _plain(listed_json(queue.cancel(number)))

    @routes.post("/api/queue/{number}/retry")
    def retry(number: ItemNumber) -> Response:
        with desk.queue() as queue:
            return _plain(listed_json(queue.retry(number)))

    @routes.post("/api/queue/retry-failed")
    def retry_failed() -> Response:
        with desk.queue() as queue:
            return _plain({"retried": queue.retry_failed()})

    @routes.delete("/api/queue/{number}")
    def remove(number: ItemNumber) -> Response:
        with desk.queue() as queue:
            queue.remove(number)
        return Response(status_code=204)

    @routes.post("/api/queue/clear")
    def clear(body: requests.Clear) -> Response:
        with desk.queue() as queue:
            if body.finished:
                return _plain({"cancelled": 0, "removed": queue.remove_finished()})
            return _plain({"cancelled": queue.cancel_pending(body.model_id), "removed": 0})


def _edits(routes: APIRouter, desk: Desk) -> None:
    @routes.post("/api/delete")
    def delete(body: requests.Delete) -> Response:
        with desk.store() as store:
            there = [one for one in body.chosen() if store.has(body.what, *one)]
            store.put(body.what, [(x, y, None) for x, y in there])
        return _plain({"deleted": len(there)})

    @routes.post("/api/flag")
    def flag(body: requests.Flag) -> Response:
        with desk.store() as store:
            return _plain({"changed": store.mark(body.flag, body.chosen(), body.value)})

    @routes.post("/api/note")
    def note(body: requests.Note) -> Response:
        with desk.store() as store:
            return _plain({"changed": store.note(body.chosen(), body.text)})

    @routes.post("/api/fill")
    def fill(body: requests.Fill) -> Response:
        with desk.store() as store:
            return _plain({"changed": editing.filled(store, body.chosen(), body.color)})

    @routes.post("/api/replace-color")
    def recolor(body: requests.Recolor) -> Response:
        with desk.store() as store:
            changed = editing.recolored(store, body.chosen(), body.color, body.replacement, body.softness)
        return _plain({"changed": changed})


def _exchange(routes: APIRouter, desk: Desk) -> None:
    @routes.get("/api/export")
    def export(
        top_left: Corner,
        bottom_right: Corner,
        layer: str = "generation",
        missing: Literal["refuse", "transparent"] = "refuse",
    ) -> Response:
        box = editing.Box.between(_corner(top_left), _corner(bottom_right))
        data = editing.exported(_found(desk, layer), box, partial=missing == "transparent")
        name = f"{layer.removeprefix(LAYER)}_{box.name}.png".encode("ascii", "replace").decode()
        safe = "".join(one if one.isalnum() or one in "._-" else "_" for one in name)
        return Response(
            data, media_type="image/png", headers={"Content-Disposition": f'attachment; filename="{safe}"'}
        )

    @routes.post("/api/import")
    async def imported(
        request: Request,
        top_left: Corner,
        layer: Literal["generation", "render"] = "generation",
        overwrite: bool = False,
    ) -> Response:
        data = await request.body()

        def write() -> int:
            with desk.store() as store:
                return len(editing.imported(store, layer, _corner(top_left), data, overwrite=overwrite))

        return _plain({"written": await run_in_threadpool(write)})


def _events(routes: APIRouter, desk: Desk) -> None:
    @routes.get("/api/events")
    async def events(request: Request, since: str = "") -> Response:
        stated = request.headers.get("last-event-id") or since
        return StreamingResponse(
            desk.board.events(Cursor.of(stated), is_new=not stated),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    @routes.get("/health")
    def health() -> Response:
        return _plain({"status": "ok"})


# Helpers


def _found(desk: Desk, layer: str) -> Pictures:
    pictures = desk.shelf.find(layer)
    if pictures is None:
        raise Absent(f"layer {layer!r:.80}: there is none of that name")
    return pictures


def _corner(text: str) -> tuple[int, int]:
    x, _, y = text.partition(",")
    if max(abs(int(x)), abs(int(y))) > LIMIT:
        raise ItemInvalid(f"quadrant {text}: expected numbers of at most {LIMIT}")
    return int(x), int(y)


def _plain(document: Any, status: int = 200) -> Response:
    return JSONResponse(document, status, {"Cache-Control": "no-store"})


def _bytes(request: Request, data: bytes, kind: str, version: str, is_newest: bool) -> Response:
    tag = f'"{version}"'
    headers = {"ETag": tag, "Cache-Control": _FOREVER if is_newest else _ASK}
    known = [one.strip() for one in request.headers.get("if-none-match", "").split(",")]
    if "*" in known or tag in (one.removeprefix("W/") for one in known):  # RFC 9110, 13.1.2
        return Response(status_code=304, headers=headers)
    return Response(data, media_type=kind, headers=headers)


def _kind(data: bytes) -> str:
    """Return the media type of a stored picture, by its first bytes."""
    if data.startswith(b"\x89PNG"):
        return "image/png"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "image/webp"
    return "image/jpeg" if data.startswith(b"\xff\xd8") else "application/octet-stream"
