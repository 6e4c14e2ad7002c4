"""The only way to give each state an output of its own, against trying all."""

from itertools import permutations

import onnx_ir as ir
from hypothesis import given, settings
from hypothesis import strategies as st

from gatestream.export.adopting.effects import Effect
from gatestream.export.adopting.matching import only_matching
from gatestream.export.adopting.signature import End


def ends(letter: str, count: int) -> list[End]:
    return [End(ir.Value(name=f"{letter}{k}"), ()) for k in range(count)]


@given(
    st.integers(0, 5).flatmap(
        lambda n: st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=n, max_size=n)
    )
)
@settings(max_examples=300, deadline=None)
def test_there_is_one_matching_or_none_is_given(moves: list[list[bool]]) -> None:
    starts, outputs = ends("s", len(moves)), ends("t", 5)
    effects = {
        start.name: {end.name: Effect(moved, False, False, False) for end, moved in zip(outputs, row, strict=True)}
        for start, row in zip(starts, moves, strict=True)
    }
    ways = {way for way in permutations(range(5), len(moves)) if all(moves[k][to] for k, to in enumerate(way))}
    found = only_matching(starts, outputs, effects)
    if found is None:
        assert len(ways) != 1
    else:
        assert {tuple(outputs.index(found[start.name]) for start in starts)} == ways


def test_hundreds_of_states_in_a_row_are_told_apart_at_once() -> None:
    """Each moves its own output and all behind it: trying would take for ever."""
    starts, outputs = ends("s", 300), ends("t", 300)
    effects = {
        start.name: {end.name: Effect(to >= k, False, False, False) for to, end in enumerate(outputs)}
        for k, start in enumerate(starts)
    }
    found = only_matching(starts, outputs, effects)
    assert found == {f"s{k}": outputs[k] for k in range(300)}
