"""What counts as moving on: steps that begin, and layers of a step that lasts; no idle turns."""

from __future__ import annotations

from collections.abc import Callable

from pdrt._C import Holder, Ledger
from pdrt.movement import Movement
from tests.fixtures_clock import Clock

ME = 1 << 8  # worker 0


def still_after_turns(movement: Movement, holder: Holder, clock: Clock) -> list[float]:
    """How long nothing has moved, after each of five turns of a second, in which the word moves."""
    seconds = []
    movement.look(is_idle=False)
    for _ in range(5):
        clock.now += 1.0
        holder.beat()
        movement.look(is_idle=False)
        seconds.append(movement.seconds_still)
    return seconds


def test_a_step_that_begins_is_a_movement_and_an_idle_turn_is_none(
    make_ledger: Callable[..., Ledger], clock: Clock
) -> None:
    ledger = make_ledger()
    holder, movement = ledger.holder(ME), Movement(ledger, [0, 1], clock)
    assert still_after_turns(movement, holder, clock) == [1.0, 2.0, 3.0, 4.0, 5.0]
    holder.launch()
    movement.look(is_idle=False)
    assert movement.seconds_still == 0.0


def test_a_long_step_moves_as_long_as_its_layers_do(
    make_ledger: Callable[..., Ledger], clock: Clock
) -> None:
    ledger = make_ledger()
    holder, movement = ledger.holder(ME), Movement(ledger, [0, 1], clock)
    holder.launch()
    holder.set_computing(True)
    assert still_after_turns(movement, holder, clock) == [0.0] * 5
    for _ in range(5):  # it hangs
        clock.now += 1.0
        movement.look(is_idle=False)
    assert movement.seconds_still == 5.0


def test_where_nobody_asks_nothing_stands_still(
    make_ledger: Callable[..., Ledger], clock: Clock
) -> None:
    movement = Movement(make_ledger(), [0], clock)
    clock.now += 100.0
    movement.look(is_idle=True)
    clock.now += 1.0
    assert movement.seconds_still == 1.0
