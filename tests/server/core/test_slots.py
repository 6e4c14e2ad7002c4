import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatestream.server.core.slots import Ring, Slots


@given(st.lists(st.integers(0, 6), max_size=60))
def test_no_slot_has_two_holders(counts: list[int]) -> None:
    slots = Slots(20)
    held: set[int] = set()
    for count in counts:
        if count <= slots.free:
            taken = slots.take(count).tolist()
            assert not held & set(taken)
            held |= set(taken)
        else:
            back = sorted(held)[: len(held) // 2 + 1]
            slots.give_back(np.array(back))
            held -= set(back)
        assert slots.free == 20 - len(held)


def test_taking_more_than_there_are_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="21 slots wanted, 20 free"):
        Slots(20).take(21)


def test_giving_back_twice_is_a_bug() -> None:
    slots = Slots(1)
    slot = slots.take(1)
    slots.give_back(slot)
    with pytest.raises(AssertionError, match="given back twice"):
        slots.give_back(slot)


@given(st.lists(st.one_of(st.lists(st.integers(0, 99), max_size=5), st.integers(0, 7)), max_size=50))
def test_a_queue_is_first_in_first_out_but_for_what_is_put_back(actions: list[list[int] | int]) -> None:
    queue, model = Ring(16), list[int]()
    for action in actions:
        if isinstance(action, int):
            assert queue.pop(action).tolist() == model[:action]
            del model[:action]
        elif len(model) + len(action) <= 16 and sum(action) % 2:
            queue.put_back(np.array(action, np.int64))
            model[:0] = action
        elif len(model) + len(action) <= 16:
            queue.push(np.array(action, np.int64))
            model += action
        assert len(queue) == len(model)
