"""The HTTP API: a picture in; the restored one, or its record with it, out."""

# What only the extra [web] brings may be missing where types are checked.
# pyright: reportMissingImports=false
from __future__ import annotations

import asyncio
import base64
import json
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from flashdiff_cli.errors import FlashdiffError, UsageError
from flashdiff_cli.pictures.formats import FORMATS
from flashdiff_cli.serve.choices import FLAGS, NUMBERS, UPLOADS, Choices, offered, safe_name
from flashdiff_cli.serve.guard import TooLarge, error_answer
from flashdiff_cli.serve.service import Broken, Busy, Ending, Job, Service, TimeUp
from flashdiff_cli.serve.worker import Answer, Task
from flashdiff_cli.version import __version__

STATUS: dict[type[FlashdiffError], int] = {TooLarge: 413, Busy: 503, TimeUp: 504, Broken: 500, UsageError: 400, FlashdiffError: 422}
"""HTTP status of each kind of error, the first that fits."""
RECORD = "X-Flashdiff-Record"
"""Header of a picture's answer: its record without the tiles, as JSON in ASCII."""
TYPES = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "AVIF": "image/avif",
    "HEIF": "image/heic",
    "TIFF": "image/tiff",
    "BMP": "image/bmp",
}
"""Media type of each format that a result has."""
MOST_FIELDS = 64
LOOK = 1.0
"""Seconds between two looks at whether a client still waits."""
RETRY = 30
"""Seconds after which a client that was refused may come again."""

FORM = {
    "type": "object",
    "required": ["picture"],
    "properties": {
        "picture": {"type": "string", "format": "binary"},
        "mask": {"type": "string", "format": "binary", "description": "white where pixels are kept; of the picture's size"},
        "kernel": {"type": "string", "format": "binary", "description": "picture of a known blur"},
        "operator": {"type": "string", "description": "what degraded the picture; left out: it is estimated"},
        **{name: {"type": "integer" if kind is int else "number", "minimum": low, "maximum": high} for name, (kind, low, high) in NUMBERS.items()},
        **{name: {"type": "boolean"} for name in FLAGS},
        "format": {"type": "string", "enum": [name[1:] for name in FORMATS]},
    },
    "additionalProperties": {"description": "parameters of the operator, see GET /api/choices"},
}
"""Of POST /api/restore, for the OpenAPI document."""


def error_of(error: FlashdiffError) -> JSONResponse:
    """Return the answer that says what went wrong."""
    status = next(status for kind, status in STATUS.items() if isinstance(error, kind))
    return error_answer(status, str(error), **({"Retry-After": str(RETRY)} if status == 503 else {}))


async def _task(form: FormData, most: int) -> Task:
    """Return the task of a form.

    Raises:
        UsageError: the picture is missing, or something else makes no sense.
        TooLarge: a file has more than `most` bytes.
    """
    values: dict[str, Any] = {}
    files: dict[str, UploadFile] = {}
    for name, value in form.multi_items():
        target = files if isinstance(value, UploadFile) else values
        if name in target:
            raise UsageError(f"`{name[:60]}` comes more than once; one request is one picture")
        target[name] = value
    if "picture" not in files:
        raise UsageError("the picture is missing: send it as the file `picture` of a multipart form, e.g. curl -F picture=@photo.png")
    if odd := [name for name in files if name not in ("picture", *UPLOADS)]:
        raise UsageError(f"the file `{odd[0][:60]}` is not known; known are picture, {', '.join(UPLOADS)}")
    if large := [name for name, file in files.items() if (file.size or 0) > most]:
        raise TooLarge(f"the file `{large[0]}` is larger than {most / 2**20:g} MiB, which is the limit here; give a smaller picture")
    picture = files.pop("picture")
    uploads = {name: await file.read() for name, file in files.items() if file.size}
    return Task(safe_name(picture.filename or ""), await picture.read(), Choices.read(values), uploads)


async def _answered(job: Job, request: Request) -> Answer:
    """Wait for a job; it leaves the queue when who asked for it has gone.

    Raises:
        FlashdiffError: the job failed, or the server ends.
    """
    waiting = asyncio.wrap_future(job.future)
    while not (await asyncio.wait({waiting}, timeout=LOOK))[0]:
        if await request.is_disconnected():
            waiting.cancel()
    if waiting.cancelled():
        raise Ending("the server is ending, or nobody waits for this picture any more")
    return waiting.result()


def _as_picture(answer: Answer) -> Response:
    short = {name: value for name, value in answer.record.items() if name != "tiles" and value is not None}
    ending = "." + answer.name.rpartition(".")[2]
    headers = {RECORD: json.dumps(short, ensure_ascii=True), "Content-Disposition": f"inline; filename*=UTF-8''{quote(answer.name)}"}
    return Response(answer.data, media_type=TYPES.get(FORMATS.get(ending, ""), "application/octet-stream"), headers=headers)


def _as_json(answer: Answer) -> JSONResponse:
    values = {"name": answer.name, "record": answer.record, "command": answer.command, "picture": base64.b64encode(answer.data).decode()}
    if answer.severity_map is not None:
        values["severity_map"] = base64.b64encode(answer.severity_map).decode()
    return JSONResponse(values)


def routes(service: Service, most: int) -> APIRouter:
    """Return the API's routes before a service, for files of `most` bytes."""
    router = APIRouter(prefix="/api")

    @router.get("/health", summary="Whether the server works, and how much it has to do")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "version": __version__, "model": service.model.name, **service.status()}

    @router.get("/choices", summary="What may be asked for")
    async def choices() -> dict[str, Any]:
        operators = {
            name: [
                {"name": o.name, "type": o.type.__name__, "help": o.help, "default": o.default, "minimum": o.minimum, "maximum": o.maximum}
                | ({"choices": list(o.choices)} if o.choices else {})
                for o in options
            ]
            for name, options in offered().items()
        }
        numbers = {name: {"type": kind.__name__, "minimum": low, "maximum": high} for name, (kind, low, high) in NUMBERS.items()}
        return {"operators": operators, "numbers": numbers, "flags": list(FLAGS), "formats": [name[1:] for name in FORMATS], "files": list(UPLOADS)}

    body = {"required": True, "content": {"multipart/form-data": {"schema": FORM}}}

    @router.post("/restore", summary="Restore one picture", openapi_extra={"requestBody": body}, response_class=Response)
    async def restore(request: Request) -> Response:
        """Answer with the picture, its record in the header X-Flashdiff-Record; or, to `Accept: application/json`, with both in JSON."""
        try:
            async with request.form(max_files=1 + len(UPLOADS), max_fields=MOST_FIELDS) as form:
                task = await _task(form, most)
            answer = await _answered(service.submit(task), request)
        except FlashdiffError as error:
            return error_of(error)
        except HTTPException as error:  # a form that cannot be read
            return error_answer(error.status_code, str(error.detail))
        return _as_json(answer) if "application/json" in request.headers.get("accept", "") else _as_picture(answer)

    return router
