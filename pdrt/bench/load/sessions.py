"""What is to be sent: sessions of turns, and how one session's text grows.

Most loads are sessions of one turn. In a session of several, a turn is sent when the one before has
been answered, and its prompt begins with all that was said so far, as a chat client sends it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

Message = dict[str, str]
Prompt = str | list[int] | list[Message]


@dataclass(frozen=True, slots=True)
class Turn:
    """What the user adds, and how long the answer is to be.

    prompt_tokens: of this turn alone; None where nobody has counted them.
    """

    prompt: Prompt
    output_tokens: int
    prompt_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Session:
    """Turns of one user. at: seconds after the start, where a trace says so."""

    turns: tuple[Turn, ...]
    at: float | None = None
    think_time: float = 0.0  # seconds between an answer's end and the next turn

    def arriving(self, at: float) -> Session:
        return replace(self, at=at)


@dataclass(slots=True)
class History:
    """All that was said in a session so far."""

    text: str = ""
    messages: list[Message] = field(default_factory=list)

    def prompt(self, turn: Turn) -> Prompt:
        """For an API that takes text or token ids."""
        return self.text + turn.prompt if isinstance(turn.prompt, str) else turn.prompt

    def chat(self, turn: Turn) -> list[Message]:
        """For an API that takes messages.

        Raises:
            TypeError: the prompt is token ids.
        """
        return [*self.messages, *_as_messages(turn.prompt)]

    def add(self, turn: Turn, answer: str) -> None:
        if isinstance(turn.prompt, str):
            self.text += turn.prompt + answer
            said = [*_as_messages(turn.prompt), {"role": "assistant", "content": answer}]
            self.messages += said


def _as_messages(prompt: Prompt) -> list[Message]:
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    messages = [item for item in prompt if isinstance(item, dict)]
    if len(messages) < len(prompt):
        raise TypeError("token ids cannot be sent as a chat; make the load without as_ids")
    return messages
