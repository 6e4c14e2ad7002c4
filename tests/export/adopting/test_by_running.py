"""Pairs that only show when a graph is run: which evidence is enough, and which is not."""

from pathlib import Path

import pytest

from gatestream.export.adopting import reading
from gatestream.export.adopting.by_running import pairs_by_running
from gatestream.export.adopting.running import Runner
from gatestream.export.adopting.signature import End
from gatestream.export.errors import AmbiguousError
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from tests.support.strangers.graph import Graph


def paired(g: Graph, folder: Path, *left_out: str, others: bool = False, fed: bool = False) -> dict[str, str]:
    model = reading.read(g.save(folder))
    inputs, outputs = ([End.of(value) for value in values] for values in (model.graph.inputs, model.graph.outputs))
    found = pairs_by_running(Runner.of(model), inputs, outputs, left_out, others=others, fed=fed)
    constants = {pair.input.name for pair in found if pair.role == pb.STATE_ROLE_CONSTANT}
    assert constants <= {"speaker"}
    return {pair.input.name or "": pair.output.name or "" for pair in found}


def caches(g: Graph) -> None:
    """Two of one shape, each handing on what it was given."""
    x = g.input("x", ["batch", 3, 1])
    for k in range(2):
        cache, end = g.input(f"cache{k}", ["batch", 3, 4]), g.output(f"next{1 - k}", ["batch", 3, 4])
        seen = g.node("Concat", cache, x, axis=2)
        g.node("Slice", seen, *(g.constant([i]) for i in (1, 5, 2)), out=end)
        x = g.node("ReduceMean", g.node("Tanh", seen), axes=[2], keepdims=1)
    g.node("Squeeze", x, g.constant([2]), out=g.output("y", ["batch", 3]))


def cell(g: Graph, hidden: str = "h", size: int = 5, *, out: str = "h_next", x: str = "x") -> None:
    """An unrolled cell without gates."""
    h, end = g.input(hidden, ["batch", size]), g.output(out, ["batch", size])
    total = g.node("Add", g.node("MatMul", x, g.weight(4, size)), g.node("MatMul", h, g.weight(size, size)))
    g.node("Tanh", total, out=end)


def mask(g: Graph, x: str, y: str) -> None:
    """What is left of a spectrum: an output of the input's shape, that moves with it."""
    shape: list[int | str] = ["batch", 7]
    g.node("Mul", g.input(x, shape), g.constant(0.5), out=g.output(y, shape))


def test_a_cache_is_known_by_what_it_hands_on_whatever_it_is_called(tmp_path: Path) -> None:
    g = Graph("two_caches")
    caches(g)
    assert paired(g, tmp_path) == {"cache0": "next1", "cache1": "next0"}


def test_the_only_shape_of_which_there_can_be_states_is_that_of_the_states(tmp_path: Path) -> None:
    g = Graph("one_cell")
    x = g.input("x", ["batch", 4])
    cell(g)
    g.node("MatMul", "h_next", g.weight(5, 2), out=g.output("y", ["batch", 2]))
    assert x == "x"
    assert paired(g, tmp_path) == {"h": "h_next"}


def test_a_constant_is_what_comes_out_as_it_went_in(tmp_path: Path) -> None:
    g = Graph("constant")
    x = g.input("x", ["batch", 4])
    speaker = g.input("speaker", ["batch", 6])
    g.node("Identity", speaker, out=g.output("speaker_again", ["batch", 6]))
    g.node("Concat", x, speaker, axis=1, out=g.output("y", ["batch", 10]))
    assert paired(g, tmp_path) == {"speaker": "speaker_again"}


def test_a_spectrum_and_what_is_left_of_it_are_not_taken_for_a_state(tmp_path: Path) -> None:
    """Its shape is not that of the state; but which of the two is the state, no number says."""
    g = Graph("masked")
    g.input("x", ["batch", 4])
    cell(g)
    mask(g, "spectrum", "left")
    g.node("MatMul", "h_next", g.weight(5, 2), out=g.output("y", ["batch", 2]))
    with pytest.raises(AmbiguousError, match="--state h=h_next --state spectrum=left if they are; --time NAME:none"):
        paired(g, tmp_path)
    assert paired(g, tmp_path, "spectrum", fed=True) == {"h": "h_next"}


def test_beside_a_known_state_nothing_that_only_moves_is_taken_for_one(tmp_path: Path) -> None:
    g = Graph("beside")
    x = g.input("x", ["batch", 4])
    mask(g, "spectrum", "left")
    g.node("MatMul", x, g.weight(4, 2), out=g.output("y", ["batch", 2]))
    with pytest.raises(AmbiguousError, match="--state spectrum=left"):
        paired(g, tmp_path, others=True)


def test_the_only_input_is_no_state(tmp_path: Path) -> None:
    g = Graph("only")
    mask(g, "x", "y")
    assert paired(g, tmp_path) == {}
    # Beside an input that was told it may be one, and there is no output left that is none.
    g = Graph("only_of_two")
    g.input("told", ["batch", 1])
    mask(g, "s", "s_next")
    with pytest.raises(AmbiguousError, match="--state s=s_next"):
        paired(g, tmp_path, "told", fed=True)


def test_a_sequence_is_no_state(tmp_path: Path) -> None:
    g = Graph("sequence")
    x, y = g.input("x", ["batch", "time", 5]), g.output("y", ["batch", "time", 5])
    h, end = g.input("h", ["batch", 1, 5]), g.output("h_next", ["batch", 1, 5])
    g.node("Tanh", g.node("Add", g.node("ReduceMean", x, axes=[1], keepdims=1), h), out=end)
    g.node("Relu", x, out=y)
    assert paired(g, tmp_path) == {"h": "h_next"}
