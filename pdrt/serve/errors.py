"""Every error as OpenAI clients read it: {"error": {"message", "type", "param", "code"}}.

400  the request is wrong, whatever FastAPI, pydantic or pdrt calls it
404  unknown model or route        405  wrong method        413  body too large
503  queue full, draining, engine gone; with Retry-After, which the clients honour
500  our own mistake: logged in full, told in one fixed sentence, as details help attackers
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from pdrt.errors import EngineDead, InvalidRequest, Overloaded, PdrtError, shown
from pdrt.serve.labels import label_of

log = logging.getLogger(__name__)

_SHAPES = {
    "prompt": "give text, a list of texts, a list of token ids or a list of such lists",
    "stop": "give a text or a list of texts",
    "content": 'give text or a list of parts {"type": "text", "text": ...}',
}


class UnknownModel(InvalidRequest):
    """The request names a model that is not served."""


class Draining(Overloaded):
    """The server is shutting down."""


class Unready(Overloaded):
    """What a health probe is told while the server cannot serve."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What a client is told about an error."""

    status: int
    message: str
    type: str = "invalid_request_error"
    param: str | None = None
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> bytes:
        error = {
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "code": self.code,
        }
        return msgspec.json.encode({"error": error})

    def response(self) -> Response:
        return Response(
            self.body(), self.status, headers=self.headers, media_type="application/json"
        )


class ErrorFields(BaseModel):
    """A Problem as /openapi.json shows it."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    error: ErrorFields


INTERNAL = Problem(
    500,
    "the server made a mistake; its log has the details under the X-Request-Id of this answer",
    "server_error",
    code="internal_error",
)


def problem_of(error: Exception) -> Problem:
    """The answer to an error; what is not known here is a 500."""
    match error:
        case UnknownModel():
            return Problem(404, str(error), param=error.param, code="model_not_found")
        case InvalidRequest():
            return Problem(400, str(error), param=error.param)
        case Unready():
            return _unavailable(error, "not_ready")
        case Draining():
            return _unavailable(error, "shutting_down", connection="close")
        case Overloaded():
            return _unavailable(error, "overloaded")
        case EngineDead():
            return _unavailable(error, "engine_dead")
        case PdrtError():
            return Problem(500, str(error), "server_error", code="request_failed")
        case RequestValidationError():
            return _of_validation(error.errors())
        case HTTPException():
            return Problem(error.status_code, str(error.detail), headers=error.headers or {})
    return INTERNAL


async def answer_error(request: Request, error: Exception) -> Response:
    """The app's handler of all exceptions."""
    if isinstance(error, HTTPException):
        return _of_routing(request, error).response()
    problem = problem_of(error)
    if problem is INTERNAL:  # Starlette raises it again, and uvicorn logs the traceback
        log.error("request %s failed with %s", label_of(request.scope), type(error).__name__)
    return problem.response()


def _unavailable(error: Exception, code: str, **headers: str) -> Problem:
    headers = {"retry-after": "1", **headers}
    return Problem(503, str(error), "server_error", code=code, headers=headers)


def _of_routing(request: Request, error: HTTPException) -> Problem:
    """Words for what Starlette and FastAPI raise by themselves."""
    headers = error.headers or {}
    place = f"{request.method} {request.url.path[:200]!r}"
    if error.status_code == 404:
        return Problem(404, f"there is no {place}; /openapi.json lists the routes", code="no_route")
    if error.status_code == 405:
        message = f"{place} is not allowed; use {headers.get('Allow', 'another method')}"
        return Problem(405, message, code="wrong_method", headers=headers)
    if error.status_code == 400:
        return Problem(400, "the body is not JSON in UTF-8, or is nested too deeply")
    return problem_of(error)


def _of_validation(errors: Sequence[Mapping[str, object]]) -> Problem:
    """One sentence about the first wrong field. Unions report one error for each alternative."""
    first = errors[0]
    place = first["loc"]
    assert isinstance(place, tuple)
    if first["type"] == "json_invalid":
        return Problem(400, f"the body is not JSON; see its character {place[-1]}")
    if len(place) == 1:
        return Problem(400, "give a JSON object as the body, with Content-Type: application/json")
    name, leaf = _field(place[1:])
    if first["type"] == "missing":
        return Problem(400, f"{name} is missing", param=name)
    too_long = [e for e in errors if e["type"] == "too_long"]
    advice = None if too_long else _SHAPES.get(leaf)
    advice = advice or str((too_long or errors)[0]["msg"]).lower()
    message = f"{name}={shown(first['input'])} is not accepted; {advice}"
    return Problem(400, message, param=name)


def _field(place: Sequence[str | int]) -> tuple[str, str]:
    """("messages", 0, "content", "str") -> ("messages[0].content", "content")."""
    path = leaf = ""
    for part in place:
        if isinstance(part, int):
            path += f"[{part}]"
            continue
        leaf = part
        path += f".{part}" if path else part
        if part in _SHAPES:
            break  # what follows names an alternative of a union
    return path, leaf
