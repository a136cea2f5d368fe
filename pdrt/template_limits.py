"""What one rendering of a chat template may spend: steps, text and processor time.

A template is a program that came with a checkpoint. Three budgets bound what it can cost, whatever
it does; each operation of the sandbox (pdrt.template_sandbox) draws on them:

    steps     turns of loops, calls, filters, tests, operators
    size      characters of every text it makes, and 8 for every item of a list
    seconds   of this thread's processor time, for steps that are long by themselves

The size grows with the messages, so long conversations need no other limits than short ones.
"""

from __future__ import annotations

import time
from collections.abc import ItemsView, Iterator, KeysView, ValuesView
from contextlib import contextmanager
from contextvars import ContextVar

from jinja2 import Undefined
from jinja2.exceptions import SecurityError

MAX_STEPS = 1_000_000
MAX_SECONDS = 1.0
BASE_SIZE = 1 << 24  # characters, for templates that make tables or repeat themselves
SIZE_FACTOR = 16  # more for each unit of the messages' weight: templates copy them some times
MAX_INT_BITS = 4096
ITEM_SIZE = 8
STEPS_PER_LOOK = 16  # asking for the time costs as much as a step


class TemplateLimit(SecurityError):
    """A template exceeded a limit; the message says which."""


class Budget:
    """What is left of one rendering's steps, size and time."""

    __slots__ = ("_deadline", "_next_look", "_size", "_size_limit", "_steps")

    def __init__(self, input_size: int = 0) -> None:
        self._size_limit = self._size = BASE_SIZE + SIZE_FACTOR * input_size
        self._steps = 0
        self._next_look = STEPS_PER_LOOK
        self._deadline = time.thread_time() + MAX_SECONDS

    def step(self, count: int = 1) -> None:
        self._steps += count
        if self._steps < self._next_look:
            return
        self._next_look = self._steps + STEPS_PER_LOOK
        if self._steps > MAX_STEPS:
            raise TemplateLimit(f"it takes more than {MAX_STEPS} steps")
        if time.thread_time() > self._deadline:
            raise TemplateLimit(f"it takes more than {MAX_SECONDS:g} s of processor time")

    def require(self, size: int) -> None:
        """Refuses to make what is larger than what is left; asked before it is made."""
        if size > self._size:
            raise TemplateLimit(f"it makes more than {self._size_limit} characters of text")

    def spend(self, size: int) -> None:
        self.require(size)
        self._size -= size

    def made(self, value: object) -> object:
        """Takes account of a new value, and gives it back. Of containers only the first level."""
        if isinstance(value, str):
            self.spend(len(value))
        elif isinstance(value, (list, tuple, dict)):
            self.spend(ITEM_SIZE * len(value))
        elif isinstance(value, int):
            require_bits(value.bit_length())
        return value

    def weigh(self, *values: object, as_text: bool = False) -> int:
        """At least the length of these values as text or JSON, with an indent of up to 8.

        A list that holds itself many times over, by way of others, is as heavy as it would be long.

        Args:
            as_text: refuse objects of which nobody knows how long they are as text.
        """
        weight, waiting = 0, [(value, 1) for value in values]
        while waiting:
            value, depth = waiting.pop()
            weight += ITEM_SIZE * depth
            if isinstance(value, str):
                weight += len(value) + (depth > 1) * len(value)  # quoted, with some escapes
            elif isinstance(value, dict):
                waiting += [(item, depth + 1) for pair in value.items() for item in pair]
            elif isinstance(value, (list, tuple, KeysView, ValuesView, ItemsView)):
                waiting += [(item, depth + 1) for item in value]
            elif isinstance(value, int):
                weight += value.bit_length() // 3
            elif as_text and not isinstance(value, (float, type(None), Undefined, range)):
                raise TemplateLimit(f"it writes a {type(value).__name__} as text")
            self.require(weight + ITEM_SIZE * len(waiting))
        return weight


def require_bits(bits: int) -> None:
    if bits > MAX_INT_BITS:
        raise TemplateLimit(f"it computes a number of more than {MAX_INT_BITS} bits")


_current: ContextVar[Budget] = ContextVar("budget")


def budget() -> Budget:
    """That of the rendering under way."""
    return _current.get()


@contextmanager
def spending(new: Budget) -> Iterator[None]:
    """Makes a budget the current one."""
    token = _current.set(new)
    try:
        yield
    finally:
        _current.reset(token)
