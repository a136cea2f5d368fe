"""The body of /v1/chat/completions: messages, and how the chat template is to write them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from pdrt.chat_template import ChatOptions
from pdrt.errors import InvalidRequest
from pdrt.sampling_params import MAX_LOGPROBS, SamplingParams
from pdrt.serve.schemas import MAX_ITEMS, Body, GenerationBody

Items = Field(fail_fast=True, max_length=MAX_ITEMS)


class TextPart(Body):
    type: Literal["text"]
    text: str


class Message(Body):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Items] | None = None

    def check(self, name: str) -> None:
        """Raises InvalidRequest: it says nothing, or calls tools, which this version has not."""
        for field in ("tool_calls", "function_call"):
            if (self.model_extra or {}).get(field):
                raise InvalidRequest(
                    f"{name}.{field} is not supported in this version; leave it out",
                    f"{name}.{field}",
                )
        if self.content is None:
            raise InvalidRequest(f"{name}.content is missing; give text", f"{name}.content")


class ChatBody(GenerationBody):
    messages: Annotated[list[Message], Items]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    def check(self) -> None:
        super().check()
        if self.top_logprobs and not self.logprobs:
            raise InvalidRequest(
                f"top_logprobs={self.top_logprobs} needs logprobs=true; give both", "top_logprobs"
            )
        if not 0 <= (self.top_logprobs or 0) <= MAX_LOGPROBS:
            raise InvalidRequest(
                f"top_logprobs={self.top_logprobs} is not accepted; give 0 to {MAX_LOGPROBS}",
                "top_logprobs",
            )
        if (self.model_extra or {}).get("chat_template") is not None:
            raise InvalidRequest(
                "chat_template is set by the server alone, with --chat-template; leave it out",
                "chat_template",
            )
        if not self.messages:
            raise InvalidRequest("messages is empty; give at least one", "messages")
        for i, message in enumerate(self.messages):
            message.check(f"messages[{i}]")

    def chat_options(self) -> ChatOptions:
        """A generation prompt is added unless the final message is to be continued."""
        continued = bool(self.continue_final_message)
        generate = self.add_generation_prompt
        return ChatOptions(
            add_generation_prompt=not continued if generate is None else generate,
            continue_final_message=continued,
            variables=self.chat_template_kwargs or {},
        )

    def sampling_params(self) -> SamplingParams:
        """`max_completion_tokens` is the newer name, and wins."""
        newer = self.max_completion_tokens
        logprobs = (self.top_logprobs or 0) if self.logprobs else None
        return self._params(self.max_tokens if newer is None else newer, logprobs)
