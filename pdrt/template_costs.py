"""Which methods and filters a chat template may use, and how large a text each can make.

What is not named here does not exist for templates. Most of it makes no more than it is given,
which is accounted for when it is made; what can make much of little is asked beforehand here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sized
from typing import Any

from pdrt.template_limits import TemplateLimit, budget, require_bits

Cost = Callable[..., int]  # of the arguments: an upper bound for the size of the result

MAX_SEARCHED = 64  # characters that quadratic searches may look for
MAX_FORMAT_NUMBER = 3  # digits of a width or precision
MAX_INDENT = 8
MAX_DIGITS = 20

SAFE_METHODS: dict[type, frozenset[str]] = {
    str: frozenset(
        "capitalize casefold center count endswith find format index isalnum isalpha isascii "
        "isdecimal isdigit isidentifier islower isnumeric isprintable isspace istitle isupper join "
        "ljust lower lstrip partition removeprefix removesuffix replace rfind rindex rjust "
        "rpartition rsplit rstrip split splitlines startswith strip swapcase title upper "
        "zfill".split()
    ),
    dict: frozenset(["copy", "get", "items", "keys", "values"]),
    list: frozenset(["copy", "count", "index"]),
    tuple: frozenset(["count", "index"]),
}

# Filters that take items as they are, and those that write what they are given as text.
ITEM_FILTERS = frozenset(
    "abs count d default dictsort first float int items last length list map max min reject "
    "rejectattr reverse round select selectattr sort sum unique".split()
)
TEXT_FILTERS = frozenset(
    "capitalize center e escape format indent join lower replace safe string title tojson trim "
    "upper".split()
)


def format_cost(text: str, *args: object, **kwargs: object) -> int:
    """Of `text % args` and `text.format(*args, **kwargs)`."""
    if re.search(rf"[0-9]{{{MAX_FORMAT_NUMBER + 1}}}", text) or re.search(r"%[^a-z%]*\*", text):
        raise TemplateLimit(f"it formats to a width of more than {MAX_FORMAT_NUMBER} digits")
    if re.search(r"{[^{}]*{", text.replace("{{", "")):
        raise TemplateLimit("it formats to a width that is itself a value")
    fields = text.count("%") + text.count("{")
    widest: int = 10**MAX_FORMAT_NUMBER + budget().weigh(*args, *kwargs.values(), as_text=True)
    return len(text) + fields * widest


def _width_cost(text: str, width: int = 80, *_: object) -> int:
    return max(len(text), width)


def _replace_cost(text: str, old: str, new: str, *_: object) -> int:
    return len(text) + text.count(old) * len(new)


def _join_cost(separator: str, items: Sized) -> int:
    return budget().weigh(items, as_text=True) + len(items) * len(separator)


def _search_cost(text: str, searched: str | None = None, *_: object, **__: object) -> int:
    """The search takes the product of both lengths in time."""
    if searched is not None and len(searched) > MAX_SEARCHED:
        raise TemplateLimit(f"it searches backwards for more than {MAX_SEARCHED} characters")
    return len(text)


METHOD_COSTS: dict[str, Cost] = {
    "center": _width_cost,
    "ljust": _width_cost,
    "rjust": _width_cost,
    "zfill": _width_cost,
    "replace": _replace_cost,
    "join": _join_cost,
    "format": format_cost,
    **dict.fromkeys(
        ("strip", "lstrip", "rstrip", "rfind", "rindex", "rpartition", "rsplit"), _search_cost
    ),
}


def _tojson_cost(
    value: object, ensure_ascii: bool = False, indent: int | None = None, *rest: object, **more: Any
) -> int:
    separators = rest[0] if rest else more.get("separators")
    if (indent or 0) > MAX_INDENT or budget().weigh(separators) > 100:
        raise TemplateLimit(f"it indents JSON by more than {MAX_INDENT} or by long separators")
    return budget().weigh(value)


def _indent_cost(text: str, width: int | str = 4, *_: object, **__: object) -> int:
    each = len(width) if isinstance(width, str) else width
    return len(text) + (len(text.splitlines()) + 1) * each


def _round_cost(value: object, precision: int = 0, *_: object, **__: object) -> int:
    if abs(precision) > MAX_DIGITS:
        raise TemplateLimit(f"it rounds to more than {MAX_DIGITS} digits")
    return 0


def _sum_cost(value: object, attribute: object = None, start: object = 0) -> int:
    """Adding lists up takes the square of their number in time."""
    if not isinstance(start, (int, float)):
        raise TemplateLimit("it sums up what is no number")
    return 0


def _weight(value: object, *_: object, **__: object) -> int:
    """Of filters that may copy every item."""
    return budget().weigh(value)


FILTER_COSTS: dict[str, Cost] = {
    "center": _width_cost,
    "format": format_cost,
    "indent": _indent_cost,
    "join": lambda items, d="", *_, **__: _join_cost(d, items),
    "replace": _replace_cost,
    "round": _round_cost,
    "sum": _sum_cost,
    "tojson": _tojson_cost,
    "trim": _search_cost,
    **dict.fromkeys(("dictsort", "sort", "unique"), _weight),
}


def product_cost(left: object, right: object) -> int:
    """Of `left * right`: a text or list many times over, or a large number."""
    for many, times in ((left, right), (right, left)):
        if isinstance(many, (str, list, tuple)) and isinstance(times, int):
            return budget().weigh(many) * max(0, times)
    if isinstance(left, int) and isinstance(right, int):
        require_bits(left.bit_length() + right.bit_length())
    return 0


def power_cost(left: object, right: object) -> int:
    """Of `left ** right`."""
    if isinstance(left, int) and isinstance(right, int):
        require_bits(left.bit_length() * abs(right))
    return 0


def modulo_cost(left: object, right: object) -> int:
    """Of `left % right`, which formats where left is a text."""
    return format_cost(left, right) if isinstance(left, str) else 0


OPERATOR_COSTS: dict[str, Cost] = {"*": product_cost, "**": power_cost, "%": modulo_cost}
