"""What a model server of each protocol answers: the pages of the server in `image_server`."""

from __future__ import annotations

import base64
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import numpy.typing as npt

from tests.image_faults import Fault, bomb, png, unpacked

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Drawing:
    """What was asked for, whatever the protocol."""

    protocol: str
    image: Pixels
    mask: npt.NDArray[np.bool_] | None
    """True where to draw."""
    prompt: str
    fields: Mapping[str, Any]
    """Everything else that was sent."""


@dataclass
class PaidCall:
    """A picture that was asked for, with the times of its arrival and of its answer (`time.monotonic`)."""

    seed: object
    arrived: float
    answered: float = math.inf
    """Infinite while it is under way, and where the caller did not wait for it."""


@dataclass
class Job:
    picture: bytes
    polls: int
    seed: object
    cancelled: bool = False


class Protocols(BaseHTTPRequestHandler):
    """Answers to requests; `owner` is the server."""

    owner: Any
    call: PaidCall | None = None
    """The picture that the request under way asks for."""

    # Answers

    def _send(self, body: bytes, code: int = 200, kind: str = "text/plain", **headers: str) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def _send_json(self, document: object, code: int = 200) -> None:
        self._send(json.dumps(document).encode(), code, "application/json")

    def _wait(self, seconds: float) -> None:
        self.owner._closing.wait(seconds)

    # Pictures

    def _draw(
        self,
        protocol: str,
        image: Pixels,
        mask: npt.NDArray[np.bool_] | None,
        prompt: str,
        fields: Mapping[str, Any],
    ) -> bytes | None:
        """Return the picture as bytes, or None where something else was answered already."""
        self.call = PaidCall(fields.get("seed"), time.monotonic())
        self.owner.calls.append(self.call)
        self._wait(self.owner.takes_s())
        fault = self.owner._fault()
        if fault is not None and self._goes_wrong(fault):
            return None
        drawing = Drawing(protocol, image[..., :3], mask, prompt, fields)
        self.owner.drawings.append(drawing)
        painted = png(self.owner.paint(drawing))
        match fault.kind if fault else "":
            case "picture":
                return fault.body if fault else b""
            case "half":
                return painted[: len(painted) // 2]
            case "size":
                assert fault
                return png(np.zeros((fault.size[1], fault.size[0], 3), dtype=np.uint8))
            case "bomb":
                return bomb()
            case "later":
                assert fault
                self._redirects_to(painted, fault.status)
                return None
        return painted

    def _goes_wrong(self, fault: Fault) -> bool:
        """Misbehave on the connection; tell whether that was the answer."""
        match fault.kind:
            case "status":
                self._send(fault.body, fault.status, "application/json", **fault.headers)
            case "text":
                self._send(b"I cannot help with that picture.", 200, "text/plain; charset=utf-8")
            case "hang":
                self._wait(60)
                self.close_connection = True
            case "close":
                self.close_connection = True
            case "truncated":
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", "100000")
                self.end_headers()
                self.wfile.write(b'{"image_b64": "')
                self.close_connection = True
            case "dribble" | "dribble-headers":
                self._dribble(b"" if fault.kind == "dribble-headers" else b"\r\n")
            case "huge":
                self._endless()
            case "loop":
                self._send(b"", 303, Location="/edit-b64/again")
            case "slow":
                self._wait(fault.seconds)
                return False
            case _:
                return False
        return True

    def _dribble(self, end: bytes) -> None:
        self.close_connection = True
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\nX-Slow: " + end + end)
        while not self.owner._closing.wait(0.02):
            self.wfile.write(b"x")

    def _endless(self) -> None:
        self.close_connection = True
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
        piece = b"A" * (1 << 20)
        while not self.owner._closing.is_set():
            self.wfile.write(piece)

    def _redirects_to(self, painted: bytes, times: int) -> None:
        name = self.owner._next("result")
        document = json.dumps({"image_b64": base64.b64encode(painted).decode()}).encode()
        self.owner._redirects[name] = (times, document, "application/json")
        self._send(b"", 303, Location=f"/later/{name}")

    def reply_later(self, name: str, fields: Mapping[str, Any]) -> None:
        times, body, kind = self.owner._redirects[name]
        if times <= 1:
            self._send(body, 200, kind)
            return
        self.owner._redirects[name] = (times - 1, body, kind)
        self._send(b"", 303, Location=f"/later/{name}")

    def reply_loop(self, name: str, fields: Mapping[str, Any]) -> None:
        self._send(b"", 303, Location="/edit-b64/again")

    # The protocols

    def reply_base64(self, rest: str, fields: Mapping[str, Any]) -> None:
        mask = unpacked(fields["mask_b64"]) > 127 if "mask_b64" in fields else None
        painted = self._draw("base64", unpacked(fields["image_b64"]), mask, fields["prompt"], fields)
        if painted is not None:
            self._send_json({"image_b64": base64.b64encode(painted).decode()})

    def reply_multipart(self, rest: str, fields: Mapping[str, Any]) -> None:
        mask = unpacked(fields["mask"]) > 127 if "mask" in fields else None
        painted = self._draw("multipart", unpacked(fields["file"]), mask, fields["prompt"], fields)
        if painted is not None:
            self._send(painted, 200, "image/png")

    def reply_openai(self, rest: str, fields: Mapping[str, Any]) -> None:
        mask = unpacked(fields["mask"])[..., 3] == 0 if "mask" in fields else None
        image = fields.get("image", fields.get("image[]"))
        assert isinstance(image, bytes)
        painted = self._draw("openai", unpacked(image), mask, fields["prompt"], fields)
        if painted is None:
            return
        if fields.get("response_format") == "url":
            name = self.owner._next("file")
            self.owner._files[name] = painted
            self._send_json({"created": 1, "data": [{"url": f"{self.owner.url}/files/{name}"}]})
            return
        self._send_json({"created": 1, "data": [{"b64_json": base64.b64encode(painted).decode()}]})

    def reply_file(self, name: str, fields: Mapping[str, Any]) -> None:
        self._send(self.owner._files[name], 200, "image/png")

    def reply_a1111(self, rest: str, fields: Mapping[str, Any]) -> None:
        mask = unpacked(fields["mask"]) > 127 if "mask" in fields else None
        self.owner.task = fields["force_task_id"]
        painted = self._draw("a1111", unpacked(fields["init_images"][0]), mask, fields["prompt"], fields)
        self.owner.task = None
        if painted is not None:
            info = json.dumps({"seed": 4321 if fields["seed"] == -1 else fields["seed"]})
            self._send_json({"images": [base64.b64encode(painted).decode()], "parameters": {}, "info": info})

    def reply_a1111_progress(self, rest: str, fields: Mapping[str, Any]) -> None:
        self._send_json({"progress": 0.5, "current_task": self.owner.task})

    def reply_a1111_interrupt(self, rest: str, fields: Mapping[str, Any]) -> None:
        self.owner.cancelled.append(self.owner.task)
        self._send_json({})

    def reply_upload(self, rest: str, fields: Mapping[str, Any]) -> None:
        name = f"renamed-{fields['image.filename']}"
        self.owner._files[name] = fields["image"]
        self._send_json({"name": name, "subfolder": "", "type": fields.get("type", "input")})

    def reply_prompt(self, rest: str, fields: Mapping[str, Any]) -> None:
        graph = fields["prompt"]
        inputs = {node["class_type"]: node["inputs"] for node in graph.values()}
        if "KSampler" not in inputs:
            self._send_json(
                {
                    "error": {"type": "prompt_no_outputs", "message": "Prompt has no outputs"},
                    "node_errors": {},
                },
                400,
            )
            return
        image = unpacked(self.owner._files[inputs["LoadImage"]["image"]])
        masks = self.owner._files.get(inputs["LoadImageMask"]["image"])
        if masks is not None:
            mask = unpacked(masks)[..., 0] > 127
        else:
            mask = image[..., 3] == 0 if image.shape[2] == 4 else None
        extra = {"seed": inputs["KSampler"]["seed"], "steps": inputs["KSampler"]["steps"], "graph": graph}
        painted = self._draw("comfyui", image, mask, inputs["CLIPTextEncode"]["text"], extra)
        if painted is not None:
            self._send_json({"prompt_id": self._job(painted, extra["seed"]), "number": 1, "node_errors": {}})

    def reply_history(self, name: str, fields: Mapping[str, Any]) -> None:
        job = self._polled(name)
        if job is None or isinstance(job, str):
            if job is None:
                self._send_json({})
            return
        if self.owner.end_jobs:
            messages = [["execution_error", {"node_type": "KSampler", "exception_message": "out of memory"}]]
            state = {"status_str": "error", "completed": False, "messages": messages}
            self._send_json({name: {"outputs": {}, "status": state}})
            return
        self.owner._files[f"{name}.png"] = job.picture
        images = [{"filename": f"{name}.png", "subfolder": "", "type": "output"}]
        self._send_json(
            {
                name: {
                    "outputs": {"9": {"images": images}},
                    "status": {"status_str": "success", "completed": True},
                }
            }
        )

    def reply_view(self, rest: str, fields: Mapping[str, Any]) -> None:
        (name,) = parse_qs(urlsplit(self.path).query)["filename"]
        self._send(self.owner._files[name], 200, "image/png")

    def reply_queue(self, rest: str, fields: Mapping[str, Any]) -> None:
        entries = [[1, name, {}] for name, job in self.owner._jobs.items() if job.polls > 0]
        self._send_json({"queue_running": entries[:1], "queue_pending": entries[1:]})

    def reply_queue_change(self, rest: str, fields: Mapping[str, Any]) -> None:
        self._send(b"")

    def reply_interrupt(self, rest: str, fields: Mapping[str, Any]) -> None:
        self.owner.cancelled.append(fields["prompt_id"])
        self._send(b"")

    def reply_sdcpp(self, rest: str, fields: Mapping[str, Any]) -> None:
        mask = unpacked(fields["mask_image"]) > 127 if "mask_image" in fields else None
        painted = self._draw("sdcpp", unpacked(fields["init_image"]), mask, fields["prompt"], fields)
        if painted is not None:
            name = self._job(painted, fields["seed"])
            self._send_json(
                {"id": name, "kind": "img_gen", "status": "queued", "poll_url": f"/sdcpp/v1/jobs/{name}"}, 202
            )

    def reply_sdcpp_job(self, name: str, fields: Mapping[str, Any]) -> None:
        if name not in self.owner._jobs:
            self._send_json({"error": "job expired"}, 410)
            return
        job = self._polled(name)
        if isinstance(job, str):
            return
        document: dict[str, Any] = {"id": name, "kind": "img_gen", "status": "generating"}
        if job is not None and self.owner.end_jobs:
            document |= {"status": self.owner.end_jobs, "error": {"code": "oom", "message": "out of memory"}}
        elif job is not None:
            images = [{"index": 0, "b64_json": base64.b64encode(job.picture).decode()}]
            document |= {"status": "completed", "result": {"output_format": "png", "images": images}}
        self._send_json(document)

    def reply_sdcpp_cancel(self, rest: str, fields: Mapping[str, Any]) -> None:
        self.owner.cancelled.append(rest.removesuffix("/cancel"))
        self._send_json({})

    def reply_fusi(self, rest: str, fields: Mapping[str, Any]) -> None:
        mask = unpacked(fields["mask"]) > 127 if "mask" in fields else None
        painted = self._draw("fusi", unpacked(fields["image"]), mask, fields["prompt"], fields)
        if painted is not None:
            name = self._job(painted, fields.get("seed", 4321))
            self._send_json({"id": name, "status": "pending", "createdAt": 1}, 201)

    def reply_fusi_job(self, name: str, fields: Mapping[str, Any]) -> None:
        if name not in self.owner._jobs:
            self._send_json({"error": {"message": "Generation not found", "code": "NOT_FOUND"}}, 404)
            return
        job = self._polled(name)
        if isinstance(job, str):
            return
        document: dict[str, Any] = {"id": name, "status": "in_progress", "createdAt": 1, "updatedAt": 2}
        if job is not None and self.owner.end_jobs:
            ended = "error" if self.owner.end_jobs == "failed" else "cancelled"
            document |= {
                "status": ended,
                "error": {"message": "sd exited with code 1", "code": "BACKEND_ERROR"},
            }
        elif job is not None:
            images = [{"image": base64.b64encode(job.picture).decode(), "seed": job.seed}]
            document |= {"status": "complete", "result": {"images": images, "format": "png", "timeTaken": 5}}
        self._send_json(document)

    def reply_fusi_cancel(self, name: str, fields: Mapping[str, Any]) -> None:
        self.owner.cancelled.append(name)
        self._send_json({"id": name, "status": "cancelled"})

    def reply_well(self, rest: str, fields: Mapping[str, Any]) -> None:
        self._send_json({"status": "ok", "busy": False})

    # Jobs

    def _job(self, painted: bytes, seed: object) -> str:
        name = self.owner._next("job")
        if self.owner.lose_jobs:
            self.owner.lose_jobs -= 1
        else:
            self.owner._jobs[name] = Job(painted, self.owner.polls, seed)
        return name

    def _polled(self, name: str) -> Job | str | None:
        """Return a job that ended, None for one under way, or a text where something else was answered."""
        if self.owner.poll_faults and self._goes_wrong(self.owner.poll_faults.popleft()):
            return "answered"
        job = self.owner._jobs.get(name)
        if job is None or job.polls > 0:
            if job is not None:
                job.polls -= 1
            return None
        return job


PAGES: tuple[tuple[str, Callable[..., None]], ...] = (
    ("POST /edit-b64", Protocols.reply_base64),
    ("GET /edit-b64/again", Protocols.reply_loop),
    ("POST /edit", Protocols.reply_multipart),
    ("GET /later/", Protocols.reply_later),
    ("GET /files/", Protocols.reply_file),
    ("POST /v1/images/edits", Protocols.reply_openai),
    ("GET /v1/models", Protocols.reply_well),
    ("POST /sdapi/v1/img2img", Protocols.reply_a1111),
    ("GET /sdapi/v1/progress", Protocols.reply_a1111_progress),
    ("POST /sdapi/v1/interrupt", Protocols.reply_a1111_interrupt),
    ("POST /upload/image", Protocols.reply_upload),
    ("POST /prompt", Protocols.reply_prompt),
    ("GET /history/", Protocols.reply_history),
    ("GET /view", Protocols.reply_view),
    ("GET /queue", Protocols.reply_queue),
    ("POST /queue", Protocols.reply_queue_change),
    ("POST /interrupt", Protocols.reply_interrupt),
    ("GET /system_stats", Protocols.reply_well),
    ("POST /sdcpp/v1/img_gen", Protocols.reply_sdcpp),
    ("GET /sdcpp/v1/jobs/", Protocols.reply_sdcpp_job),
    ("POST /sdcpp/v1/jobs/", Protocols.reply_sdcpp_cancel),
    ("GET /sdcpp/v1/capabilities", Protocols.reply_well),
    ("POST /v1/images/generations", Protocols.reply_fusi),
    ("GET /v1/images/generations/", Protocols.reply_fusi_job),
    ("DELETE /v1/images/generations/", Protocols.reply_fusi_cancel),
    ("GET /health", Protocols.reply_well),
)
