"""The routes: thin, each says what it takes and gives, and leaves the work to its neighbours."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp

import pdrt
from pdrt.engine import Engine
from pdrt.errors import PdrtError
from pdrt.metrics import Metrics
from pdrt.serve.chat_schemas import ChatBody
from pdrt.serve.errors import ErrorAnswer, UnknownModel, Unready, answer_error
from pdrt.serve.formats import ChatFormat, CompletionFormat, Format, Head
from pdrt.serve.generation import Job, outputs
from pdrt.serve.labels import RequestId
from pdrt.serve.lifecycle import ClientGone, Lifecycle
from pdrt.serve.limits import BodyLimit
from pdrt.serve.schemas import CompletionBody, GenerationBody, StreamOptions
from pdrt.serve.streaming import EventStream, Work, whole_answer


@dataclass
class Server:
    """What all routes share."""

    engine: Engine
    model_name: str
    lifecycle: Lifecycle = field(default_factory=Lifecycle)
    started: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self.metrics = Metrics(self.engine.metrics, self.model_name)

    def check_model(self, name: str | None) -> None:
        if name not in (None, self.model_name):
            raise UnknownModel(
                f"model {name[:200]!r} is not served here; this is {self.model_name!r}", "model"
            )

    def unready_reason(self) -> str | None:
        """Why no request can be served now, or None."""
        if self.lifecycle.draining:
            return "the server is shutting down"
        health = self.engine.health()
        return None if health.ready else health.reason

    async def answer(
        self, body: GenerationBody, job: Job, form: Format, request: Request
    ) -> Response:
        work = Work(
            lifecycle=self.lifecycle,
            start=lambda: outputs(self.engine, self.metrics.requests, job),
            format=form,
            num_prompts=job.num_prompts,
            num_sequences=job.params.n,
        )
        if body.stream:
            return EventStream(work, body.stream_options or StreamOptions())
        return await whole_answer(work, request.receive)


def create_app(server: Server) -> ASGIApp:
    """The ASGI app. FastAPI's pages of docs are off, as they would load scripts from elsewhere."""
    app = FastAPI(
        title="pdrt",
        version=pdrt.__version__,
        docs_url=None,
        redoc_url=None,
        responses={"default": {"model": ErrorAnswer, "description": "What was wrong"}},
    )
    for kind in (PdrtError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, answer_error)
    app.add_exception_handler(ClientGone, _nobody_reads)
    _add_generation(app, server)
    _add_information(app, server)
    return RequestId(BodyLimit(app))


def _add_generation(app: FastAPI, server: Server) -> None:
    engine, tokenizer = server.engine, server.engine.tokenizer

    @app.post("/v1/completions")
    async def completions(body: CompletionBody, request: Request) -> Response:
        server.check_model(body.model)
        body.check()
        prompts, special = body.prompts(), body.add_special_tokens is not False
        job = Job(
            encode=lambda: [
                tokenizer.encode(p, special) if isinstance(p, str) else p for p in prompts
            ],
            num_chars=sum(len(p) for p in prompts if isinstance(p, str)),
            num_prompts=len(prompts),
            params=body.sampling_params(),
            prompt_only=body.prompt_only,
        )
        head, wishes = Head("cmpl", server.model_name), body.wishes(job.params)
        form = CompletionFormat(head, tokenizer, wishes, body.echoes())
        return await server.answer(body, job, form, request)

    @app.post("/v1/chat/completions")
    async def chat_completions(body: ChatBody, request: Request) -> Response:
        server.check_model(body.model)
        body.check()
        messages = [each.model_dump(include={"role", "content"}) for each in body.messages]
        options = body.chat_options()
        job = Job(
            encode=lambda: [engine.encode_chat(messages, options)],
            num_chars=len(await request.body()),
            num_prompts=1,
            params=body.sampling_params(),
        )
        head, wishes = Head("chatcmpl", server.model_name), body.wishes(job.params)
        form = ChatFormat(head, tokenizer, wishes)
        return await server.answer(body, job, form, request)


def _add_information(app: FastAPI, server: Server) -> None:
    @app.get("/v1/models")
    async def models() -> Response:
        card = {
            "id": server.model_name,
            "object": "model",
            "created": server.started,
            "owned_by": "pdrt",
            "max_model_len": server.engine.limits.max_model_len,
        }
        return _json({"object": "list", "data": [card]})

    @app.get("/live")
    async def live() -> Response:
        """The process works; 200 also while it drains. 503: only a restart can help."""
        health = server.engine.health()
        if not health.live:
            raise Unready(str(health.reason))
        return _json({"status": "ok"})

    @app.get("/health")
    @app.get("/ready")
    async def ready() -> Response:
        """Requests are served: every phase has a worker, and work that waits makes progress."""
        reason = server.unready_reason()
        if reason is not None:
            raise Unready(reason)
        return _json({"status": "ok"})

    @app.get("/metrics")
    async def metrics() -> Response:
        headers = {"content-type": CONTENT_TYPE_LATEST}
        return Response(generate_latest(server.metrics.registry), headers=headers)

    @app.get("/version")
    async def version() -> Response:
        return _json({"version": pdrt.__version__})


def _json(body: object) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json")


async def _nobody_reads(request: Request, error: Exception) -> Response:
    """The client left: uvicorn drops whatever is sent. 499 is what proxies log for it."""
    return Response(status_code=499)
