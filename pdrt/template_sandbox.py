"""Where chat templates run: jinja2's sandbox, with every operation on the rendering's budget.

jinja2 keeps templates from attributes that Python keeps to itself, and from changing anything. This
adds bounds (pdrt.template_limits) by means that jinja2 offers: operators and calls can be
intercepted, filters and tests are functions in a table, and what is left is rewritten in the syntax
tree (pdrt.template_syntax) as filters of our own. Constants are not folded, as jinja2 would do that
when it compiles.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from typing import Any

from jinja2 import Template, TemplateSyntaxError, Undefined, pass_context
from jinja2.exceptions import SecurityError
from jinja2.ext import LoopControlExtension
from jinja2.runtime import BlockReference, Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Cycler, Joiner, Namespace

from pdrt.template_costs import (
    FILTER_COSTS,
    ITEM_FILTERS,
    METHOD_COSTS,
    OPERATOR_COSTS,
    SAFE_METHODS,
    TEXT_FILTERS,
)
from pdrt.template_limits import Budget, budget, spending
from pdrt.template_syntax import Generation, Rewriter

MAX_SOURCE = 1 << 20  # characters
ITEMS_PER_STEP = 64  # of a filter's input

_OWN_CALLABLES = (types.FunctionType, Macro, BlockReference, LoopContext, Joiner)
_OWN_TYPES = (dict, Namespace, Cycler, Joiner)


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment. Rendering and compiling need a current budget.

    Args:
        filters, names: what templates find beside jinja2's own.
    """

    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)

    def __init__(
        self, filters: dict[str, Callable[..., object]], names: dict[str, Callable[..., object]]
    ) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            finalize=_finalize,
            extensions=[LoopControlExtension, Generation],
        )
        known = ITEM_FILTERS | TEXT_FILTERS
        found = {name: f for name, f in {**self.filters, **filters}.items() if name in known}
        self.filters = {name: _guarded_filter(name, f) for name, f in found.items()} | _REWRITTEN
        self.tests = {
            name: _guarded_test(test) for name, test in dict[str, Any](self.tests).items()
        }
        self.globals |= names
        del self.globals["lipsum"]

    def template(self, source: str) -> Template:
        """Compiles a template.

        Raises:
            TemplateSyntaxError: it is none, or it uses what templates may not.
        """
        if len(source) > MAX_SOURCE:
            raise TemplateSyntaxError(f"it has {len(source)} characters, over {MAX_SOURCE}", 1)
        with spending(Budget()):
            return self.from_string(Rewriter().visit(self.parse(source)))

    def concat(self, parts: Iterable[str]) -> str:
        """What jinja2 joins the pieces of outputs, macros and blocks with."""
        spent, kept = budget(), []
        for part in parts:
            spent.spend(len(part))
            kept.append(part)
        return "".join(kept)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        spent = budget()
        spent.step()
        if operator in OPERATOR_COSTS:
            spent.require(OPERATOR_COSTS[operator](left, right))
        result = super().call_binop(context, operator, left, right)
        if isinstance(result, (list, tuple)):
            spent.spend(spent.weigh(result))
        return spent.made(result)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: B902
        spent = budget()
        spent.step()
        method = getattr(__obj, "__wrapped__", __obj)  # str.format is wrapped by jinja2
        if isinstance(method, (types.BuiltinMethodType, types.MethodType)):
            _check_method(method, args, kwargs)
        elif not isinstance(method, (*_OWN_CALLABLES, Undefined)) and method not in _OWN_TYPES:
            raise SecurityError(f"templates may not call a {type(method).__name__}")
        if _collects(__obj):
            spent.weigh(*args, *kwargs.values())
        return spent.made(super().call(__context, __obj, *args, **kwargs))


def _collects(callee: object) -> bool:
    """Whether a call makes a collection of its arguments, which are to be weighed as [...] is."""
    if isinstance(callee, Macro):
        return callee.catch_varargs or callee.catch_kwargs
    return callee is dict or callee is Cycler


def _check_method(
    method: types.BuiltinMethodType | types.MethodType, args: Any, kwargs: dict[str, Any]
) -> None:
    owner, name = method.__self__, method.__name__
    if isinstance(owner, (LoopContext, Cycler)):
        return
    kind = next((kind for kind in SAFE_METHODS if isinstance(owner, kind)), None)
    if kind is None or name not in SAFE_METHODS[kind]:
        raise SecurityError(f"templates may not call {type(owner).__name__}.{name}")
    if kind is str and name in METHOD_COSTS:
        budget().require(METHOD_COSTS[name](owner, *args, **kwargs))


def _guarded_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that draws on the budget, before it runs and for what it makes.

    Iterators become lists: what takes a turn for each item does so here, where its size is known.
    """
    first = 1 if hasattr(function, "jinja_pass_arg") else 0
    writes_text, cost = name in TEXT_FILTERS, FILTER_COSTS.get(name)

    @wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        spent = budget()
        given = args[first:]
        if writes_text:
            weight = spent.weigh(*given, *kwargs.values(), as_text=True)
            spent.step(1 + weight // (ITEMS_PER_STEP * ITEMS_PER_STEP))
            if name not in ("join", "tojson"):
                given = (str(given[0]), *given[1:]) if type(given[0]) is not str else given
        else:
            size = len(given[0]) if hasattr(given[0], "__len__") else 0
            spent.step(1 + size // ITEMS_PER_STEP)
        if cost is not None:
            spent.require(cost(*given, **kwargs))
        result = function(*args[:first], *given, **kwargs)
        return spent.made(list(result) if isinstance(result, Iterator) else result)

    return guarded


def _guarded_test(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        budget().step()
        return function(*args, **kwargs)

    return guarded


@pass_context  # so that jinja2 leaves constants to the rendering
def _finalize(context: Context, value: object) -> object:
    """Every value that is written."""
    if type(value) is not str:
        budget().weigh(value, as_text=True)
    return value


def _step(value: object) -> object:
    budget().step()
    return value


def _weighed(value: object) -> object:
    spent = budget()
    spent.spend(spent.weigh(value))
    return value


def _made(value: object) -> object:
    return budget().made(value)


def _concat(values: list[object]) -> object:
    spent = budget()
    for value in values:
        if type(value) is not str:
            spent.weigh(value, as_text=True)
    return spent.made("".join(map(str, values)))


_REWRITTEN: dict[str, Callable[..., Any]] = {
    "(step)": _step,
    "(weighed)": _weighed,
    "(made)": _made,
    "(concat)": _concat,
}
