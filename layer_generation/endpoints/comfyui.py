"""`comfyui`: a workflow of one's own on a ComfyUI server: upload, queue, ask for the history, fetch."""

from __future__ import annotations

import copy
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

import httpx
import numpy as np
import numpy.typing as npt

from layer_generation.endpoints.adapter import Adapter
from layer_generation.endpoints.base import (
    EditRequest,
    EditResult,
    EndpointError,
    EndpointPermanent,
    EndpointRetryable,
    Stop,
)
from layer_generation.endpoints.exchange import AnswerUnusable, Call
from layer_generation.endpoints.failures import cleaned
from layer_generation.endpoints.jobs import FIRST_POLL_S, JobLost, drawn, id_of
from layer_generation.endpoints.payload import alpha_mask, first_of, mapping, picture, white_mask
from layer_generation.errors import EndpointInvalid
from layer_generation.layer_config import EndpointConfig
from layer_generation.pictures import png

_INPUTS = ("image", "mask", "prompt", "negative_prompt", "seed", "steps", "guidance", "strength")
_LOOK_EVERY = 4
"""Of so many questions for the history, one looks whether the job is still in the queue."""
_MOST_SEED = 2**31


class ComfyUI(Adapter):
    """Uploads the picture, fills the workflow's inputs that `nodes` names, and fetches the output.

    `workflow` is a graph in ComfyUI's API format, or the path of its file.
    `nodes` says which input of which node takes what: `{"image": ["10", "image"], "prompt": ["6",
    "text"], "output": "9"}`. The mask goes to a node of its own where there is one (white where to
    draw), else into the image's alpha (0 where to draw), as LoadImage reads it.
    """

    options: ClassVar = {"workflow": (dict, str), "nodes": dict, "poll_s": (int, float)}

    def __init__(
        self,
        config: EndpointConfig,
        key: str = "",
        transport: httpx.BaseTransport | None = None,
        folder: Path | None = None,
    ) -> None:
        """Read the workflow, relative to `folder` where its path is. Raises EndpointInvalid."""
        super().__init__(config, key, transport)
        self._graph = self._read(folder or Path())
        self._nodes: dict[str, Any] = self._option("nodes", {})
        self._check()

    def _read(self, folder: Path) -> dict[str, Any]:
        stated = self._option("workflow", None)
        if stated is None:
            raise EndpointInvalid(self.name, "params: workflow is missing: a graph in API format or its file")
        graph = stated
        if isinstance(stated, str):
            path = Path(os.path.normpath(folder / stated))  # the layer's folder may not be there yet
            try:
                graph = json.loads(path.read_text(encoding="utf-8"))
            except OSError as error:
                raise EndpointInvalid(self.name, f"workflow {path}: {error.strerror or error}") from error
            except ValueError as error:
                raise EndpointInvalid(self.name, f"workflow {path}: is no JSON ({error})") from error
        if not isinstance(graph, dict) or not all(
            isinstance(node, dict) and isinstance(node.get("inputs"), dict) for node in graph.values()
        ):
            raise EndpointInvalid(
                self.name, "workflow: no graph in API format (in ComfyUI: Workflow, Export (API))"
            )
        return graph

    def _check(self) -> None:
        """Look that every node that is named is there, and that there is one for the picture."""
        for name, place in self._nodes.items():
            if name == "output":
                if place not in self._graph:
                    raise EndpointInvalid(
                        self.name, f"nodes: output = {place!r}: no such node in the workflow"
                    )
            elif name not in _INPUTS:
                raise EndpointInvalid(
                    self.name, f"nodes: {name!r}: expected output or one of {', '.join(_INPUTS)}"
                )
            elif not (isinstance(place, list) and len(place) == 2 and place[0] in self._graph):
                raise EndpointInvalid(
                    self.name, f"nodes: {name} = {place!r}: expected [node, input] of the workflow"
                )
        if "image" not in self._nodes:
            raise EndpointInvalid(self.name, 'nodes: image is missing: ["10", "image"], say')

    def edit(self, request: EditRequest, stop: Stop) -> EditResult:
        """Return the picture redrawn."""
        watch = _Watch(self, self._option("poll_s", FIRST_POLL_S))
        return drawn(self._server, watch, request, stop, watch.poll_s)

    def _filled(self, call: Call, request: EditRequest) -> tuple[dict[str, Any], int]:
        """Upload the pictures; return the graph with its inputs filled, and the seed."""
        seed = secrets.randbelow(_MOST_SEED) if request.seed is None else request.seed
        values: dict[str, Any] = {
            "prompt": request.prompt,
            "negative_prompt": request.negative_prompt,
            "seed": seed,
            "steps": request.steps,
            "guidance": request.guidance,
            "strength": request.strength,
        }
        image: npt.NDArray[np.uint8] = request.image
        if request.mask is not None and "mask" in self._nodes:
            white = white_mask(request.mask)
            values["mask"] = self._uploaded(call, np.dstack([white] * 3))
        elif request.mask is not None:
            image = alpha_mask(request.image, request.mask)
        values["image"] = self._uploaded(call, image)
        graph = copy.deepcopy(self._graph)
        for name, place in self._nodes.items():
            if name != "output" and values.get(name) is not None:
                graph[place[0]]["inputs"][place[1]] = values[name]
        return graph, seed

    def _uploaded(self, call: Call, pixels: npt.NDArray[np.uint8]) -> str:
        """Upload a picture, under a new name so that nothing cached is taken; return its name there."""
        name = f"fusi-{secrets.token_hex(8)}.png"
        answer = call.post(
            self._server.at("/upload/image"),
            form={"type": "input", "overwrite": "true"},
            files=[("image", (name, png(pixels), "image/png"))],
        ).json()
        folder = answer.get("subfolder") or ""
        return f"{folder}/{answer.get('name') or name}" if folder else str(answer.get("name") or name)

    def _probe_address(self) -> httpx.URL:
        return self._server.at("/system_stats")


class _Watch:
    """One picture's jobs on a ComfyUI server."""

    def __init__(self, adapter: ComfyUI, poll_s: float) -> None:
        self.poll_s = poll_s
        self._adapter = adapter
        self._server = adapter._server
        self._seed = 0
        self._asked = 0

    def submit(self, call: Call, request: EditRequest) -> str:
        """Queue the workflow; return the job's id."""
        graph, self._seed = self._adapter._filled(call, request)
        extra = self._adapter._extra(request)
        answer = call.post(self._server.at("/prompt"), fields={"prompt": graph, "client_id": "fusi", **extra})
        document = answer.json()
        errors = document.get("node_errors")
        if errors:
            raise EndpointPermanent(f"refuses the workflow ({cleaned(json.dumps(errors))})")
        return id_of(document.get("prompt_id"))

    def poll(self, call: Call, job: str) -> EditResult | EndpointError | None:
        """Return the picture, why there is none, or None while it is under way. Raises JobLost."""
        self._asked += 1
        entry = self._entry(call, job)
        if entry is None:
            if self._asked % _LOOK_EVERY == 0 and not self._is_queued(call, job):
                entry = self._entry(call, job)  # it may have ended just now
                if entry is None:
                    raise JobLost(job, sure=True)
            if entry is None:
                return None
        status = mapping(entry.get("status"))
        if status.get("status_str") == "error":
            return EndpointRetryable(f"the workflow failed ({_failure(status.get('messages'))})")
        image = self._output(entry.get("outputs"))
        if image is None:
            return (
                None if status.get("completed") is False else AnswerUnusable("the workflow made no picture")
            )
        query = {key: str(image.get(key) or "") for key in ("filename", "subfolder")}
        query["type"] = str(image.get("type") or "output")
        try:
            address = self._server.at("/view").copy_merge_params(query)
        except (httpx.InvalidURL, UnicodeError) as error:
            raise AnswerUnusable("the workflow's picture has a name that is no part of an address") from error
        return EditResult(image=picture(call.get(address).body), seed=self._seed)

    def cancel(self, call: Call, job: str) -> None:
        """Take the job out of the queue, or interrupt it where it runs."""
        call.post(self._server.at("/queue"), fields={"delete": [job]})
        running = call.get(self._server.at("/queue")).json().get("queue_running")
        if _names(running, job):
            call.post(self._server.at("/interrupt"), fields={"prompt_id": job})

    def _entry(self, call: Call, job: str) -> dict[str, Any] | None:
        entry = call.get(self._server.at("/history/" + quote(job, safe=""))).json().get(job)
        return entry if isinstance(entry, dict) else None

    def _is_queued(self, call: Call, job: str) -> bool:
        queue = call.get(self._server.at("/queue")).json()
        return any(_names(queue.get(key), job) for key in ("queue_running", "queue_pending"))

    def _output(self, outputs: object) -> Mapping[str, Any] | None:
        """Return the first picture of the output node, or of any where none is named."""
        if not isinstance(outputs, dict):
            return None
        named = self._adapter._nodes.get("output")
        for node in [named] if named is not None else outputs:
            image = first_of(mapping(outputs.get(node)).get("images"))
            if image:
                return image
        return None


def _names(entries: object, job: str) -> bool:
    """Tell whether a list of queue entries, [number, id, graph, ...] each, holds a job."""
    return isinstance(entries, list) and any(
        isinstance(entry, list) and len(entry) > 1 and entry[1] == job for entry in entries
    )


def _failure(messages: object) -> str:
    """Return what the messages of a history entry say went wrong."""
    for message in messages if isinstance(messages, list) else []:
        if isinstance(message, list) and len(message) > 1 and message[0] == "execution_error":
            told = message[1] if isinstance(message[1], dict) else {}
            return cleaned(f"{told.get('node_type', '')}: {told.get('exception_message', '')}")
    return "no reason given"
