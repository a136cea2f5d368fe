"""What a worker runs before its first request: all is compiled then, and no page is touched.

A Triton kernel is compiled once for each set of specialised arguments. In the interpreter nothing
is compiled, so the tests ask Triton's own rule what each launch would have been compiled for.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import triton

from pdrt.kernels.launch import INTERPRETED
from pdrt.messages import Role
from pdrt.runner.logits import Context
from pdrt.runner.rehearsal import (
    DRAWN,
    FILTERED,
    GREEDY,
    RIVALS,
    kinds_of_steps,
    rehearse,
    rehearsed_batch,
)
from pdrt.runner.shape import ServerShape
from tests.model_server import Shape, Weights
from tests.test_gpu_runner import make_executor

# Kernels that are not run leave what was in memory, and numpy warns where that overflows.
pytestmark = pytest.mark.filterwarnings("ignore:.* encountered in :RuntimeWarning")

SHAPE = Shape(max_model_len=1200, num_pages=8, max_num_seqs=3, chunk=40)
ROLES = get_args(Role)


class Launches:
    """What each launch was compiled for, or would have been: (kernel, its specialised arguments).

    Only kernels named in `run` are run: what the others would compute does not matter here.
    """

    def __init__(self, patch: pytest.MonkeyPatch, run: str = "") -> None:
        from triton.runtime.interpreter import InterpretedFunction

        self.keys: set[tuple[object, ...]] = set()
        launch = InterpretedFunction.run

        def recorded(kernel: Any, *args: Any, **options: Any) -> None:
            self.keys.add((kernel.__name__, *self._arguments(kernel, args, options)))
            if kernel.__name__ == run:
                launch(kernel, *args, **options)

        patch.setattr(InterpretedFunction, "run", recorded)

    @staticmethod
    def _arguments(kernel: Any, args: tuple[Any, ...], options: dict[str, Any]) -> list[object]:
        from triton._C.libtriton import native_specialize_impl
        from triton.backends.compiler import BaseBackend

        signature = inspect.signature(kernel.fn)
        given = {name: value for name, value in options.items() if name in signature.parameters}
        excepted = kernel.kwargs["do_not_specialize"] or ()
        arguments: list[object] = [options["num_warps"]]
        for name, value in signature.bind(*args, **given).arguments.items():
            if "constexpr" in str(signature.parameters[name].annotation):
                arguments.append((name, value))
            else:
                special = name not in excepted
                key = native_specialize_impl(BaseBackend, value, False, special, special)
                arguments.append((name, *key))
        return arguments


@pytest.mark.skipif(not INTERPRETED, reason="counts launches of the interpreter")
@pytest.mark.parametrize("role", ROLES)
def test_no_step_after_it_needs_a_kernel_that_was_not_compiled(
    tiny_llama: Path, role: Role, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor, _ = make_executor(Weights(tiny_llama, device="cuda"), SHAPE)
    launches = Launches(monkeypatch)
    rehearse(executor, SHAPE.limits, role)
    before = set(launches.keys)
    decode = [[(1, 17)], [(1, 1200), (1, 16)], [(1, 64), (1, 65), (1, 5)]]
    prefill = [[(40, 40)], [(3, 3)], [(5, 1199)], [(16, 500), (2, 33), (17, 17)], [(1, 1), (9, 9)]]
    mixed = [[(1, 30), (16, 16)], [(1, 30), (1, 1200), (12, 1100), (5, 5)]]
    steps = {"decode": decode, "prefill": prefill, "unified": [*decode, *prefill, *mixed]}[role]
    for rows in steps:
        hidden = executor.forward(rehearsed_batch(rows, SHAPE.page_size))
        for params in (GREEDY, DRAWN, FILTERED, RIVALS):
            contexts = [Context(params, end) for _, end in rows]
            executor.draw(hidden, contexts, ()).read()
    assert len(before) > 10
    assert launches.keys - before == set()


@pytest.mark.skipif(not INTERPRETED, reason="runs one kernel in the interpreter")
@pytest.mark.parametrize("role", ROLES)
def test_it_touches_page_0_only_and_is_as_large_as_a_step_can_be(
    tiny_llama: Path, role: Role, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = ServerShape(3, 40, 50, 16)
    executor, pool = make_executor(
        Weights(tiny_llama, device="cuda"), Shape(max_model_len=50, num_pages=2)
    )
    pool.copy_(torch.randn(pool.shape, generator=torch.Generator().manual_seed(1)))
    before = pool.clone()
    Launches(monkeypatch, run="rope_kv_write_kernel")
    rehearse(executor, shape, role)
    assert torch.equal(pool[1:], before[1:]) and not torch.equal(pool[0], before[0])
    steps = list(kinds_of_steps(shape, role))
    assert max(len(rows) for rows in steps) == 3
    assert max(sum(new for new, _ in rows) for rows in steps) == (3 if role == "decode" else 40)
    assert max(end for rows in steps for _, end in rows) == 50


@pytest.mark.gpu
@pytest.mark.parametrize("role", ROLES)
def test_triton_compiles_nothing_after_it(tiny_llama: Path, role: Role) -> None:
    executor, _ = make_executor(Weights(tiny_llama, device="cuda"), SHAPE)
    executor.warm_up(role)
    compiled: list[str] = []
    hooks = triton.knobs.runtime
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            hooks, "jit_post_compile_hook", lambda **facts: compiled.append(facts["repr"])
        )
        for rows in kinds_of_steps(SHAPE.limits, role):
            hidden = executor.forward(rehearsed_batch(rows, SHAPE.page_size))
            executor.draw(hidden, [Context(DRAWN, e) for _, e in rows], ()).read()
    assert compiled == []
