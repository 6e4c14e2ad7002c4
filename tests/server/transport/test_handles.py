import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatestream.server.errors import NotFound
from gatestream.server.transport.handles import FREE, LEAVING, Handles

# A handle, and its session and its model; a negative one: as marked.
sessions = st.dictionaries(st.integers(0, 60), st.tuples(st.integers(0, 2), st.integers(-2, 100)), min_size=1)


def table(held: dict[int, tuple[int, int]]) -> Handles:
    handles = Handles()
    for handle, (model, session) in held.items():
        handles.reserve(handle, model)
        handles.mark(handle, session)
    return handles


@given(sessions)
def test_a_handle_stands_for_what_it_was_given(held: dict[int, tuple[int, int]]) -> None:
    handles = table(held)
    for handle in range(200):
        model, session = held.get(handle, (0, FREE))
        assert handles.session(handle) == session
        if handle in held:
            assert handles.model(handle) == model
    taking = sorted(handle for handle, (_, session) in held.items() if session >= 0)
    assert handles.held().tolist() == taking
    by_model = {
        number: [(handle, held[handle][1]) for handle in taking if held[handle][0] == number]
        for number in {held[handle][0] for handle in taking}
    }

    def told() -> dict[int, list[tuple[int, int]]]:
        every = handles.by_model(handles.held(closing=True))
        return {number: list(zip(some.tolist(), found.tolist(), strict=True)) for number, some, found in every}

    assert told() == by_model
    # Closing, they take no more steps, and it is known whose they are.
    handles.close(np.array(taking[::2], np.int64))
    assert handles.held().tolist() == taking[1::2]
    assert all(handles.session(handle) < 0 for handle in taking[::2])
    assert told() == by_model


def test_what_a_handle_stands_for_is_not_changed_unnoticed() -> None:
    handles = table({3: (0, 7)})
    seen = {handles.generation}
    for session in (LEAVING, FREE, 9):
        handles.mark(3, session)
        seen.add(handles.generation)
    assert len(seen) == 4


def test_handles_none_of_which_is_known() -> None:
    with pytest.raises(NotFound, match="handle 40 has no session on this stream"):
        table({3: (0, 7), 4: (0, LEAVING)}).look_up(np.array([40, 4]))


@given(sessions, st.lists(st.integers(0, 70), min_size=1, max_size=12))
def test_faults_are_those_of_each_entry_by_itself(held: dict[int, tuple[int, int]], asked: list[int]) -> None:
    handles, sent = table(held), np.array(asked)
    models = [held[handle][0] for handle in asked if held.get(handle, (0, FREE))[1] >= 0]
    if not models:
        with pytest.raises(NotFound):
            handles.look_up(sent)
        return
    found, model = handles.look_up(sent)
    assert model == models[0]
    assert [max(session, FREE) for session in found.tolist()] == [
        max(held.get(handle, (0, FREE))[1], FREE) for handle in asked
    ]
    unknown, other, repeated = (fault.tolist() for fault, _ in handles.faults(sent, found, [model]))
    for k, handle in enumerate(asked):
        its_model, session = held.get(handle, (0, FREE))
        assert unknown[k] == (session < 0)
        assert other[k] == (session >= 0 and its_model != model)
        assert repeated[k] == (session >= 0 and asked.count(handle) > 1)
    assert handles.all_right(sent, found, model) == (not any(unknown + other + repeated))
    held_ones = np.flatnonzero(found >= 0)
    split = handles.split(sent, held_ones)
    assert sorted(entry for _, entries in split for entry in entries.tolist()) == held_ones.tolist()
    assert all(held[asked[entry]][0] == number for number, entries in split for entry in entries.tolist())
