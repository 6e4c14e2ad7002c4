from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from gatestream.export.adopting.dataflow import pairs
from gatestream.export.adopting.expose import expose
from gatestream.export.adopting.reading import read
from gatestream.export.errors import AmbiguousError
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from tests.export.adopting import graphs
from tests.export.adopting.stepping import assert_streams, run, stepped

X = np.random.default_rng(4).standard_normal((6, 2, 3)).astype(np.float32)
AXES = graphs.integers("axes", 0)


def node(operator: str, inputs: list[str], outputs: list[str], **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, inputs, outputs, **attributes)


def lstm(*, h: str = "h", c: str = "c", x: str = "x", name: str = "rnn", hidden: int = 4) -> onnx.NodeProto:
    """An LSTM with outputs `<name>.Y`, `<name>.h` and `<name>.c`, and weights of its own."""
    return node(
        "LSTM",
        [x, f"{name}.W", f"{name}.R", f"{name}.B", "", h, c],
        [f"{name}.Y", f"{name}.h", f"{name}.c"],
        name=name,
        hidden_size=hidden,
    )


def file(
    folder: Path,
    nodes: list[onnx.NodeProto],
    states: dict[str, list[str | int]],
    after: dict[str, list[str | int]],
    layers: tuple[str, ...] = ("rnn",),
    **constants: Any,
) -> Path:
    """A file with x [time, batch, 3] and y [time, batch, 4] beside its states."""
    weights: dict[str, Any] = {"zero": np.array([0]), "one": np.array([1])}
    for k, layer in enumerate(layers):
        weights |= graphs.weights("LSTM", 4 if k else 3, 4, k, f"{layer}.")
    proto = graphs.model(
        [*nodes, node("Squeeze", [f"{layers[-1]}.Y", "one"], ["y"])],
        [graphs.tensor("x", ["time", "batch", 3]), *(graphs.tensor(name, dims) for name, dims in states.items())],
        [graphs.tensor("y", ["time", "batch", 4]), *(graphs.tensor(name, dims) for name, dims in after.items())],
        weights | constants,
    )
    return graphs.saved(proto, folder)


def check(path: Path, expected: list[tuple[str, str]], rows_axis: dict[str, int]) -> None:
    """The pairs, and that carrying them is right."""
    model = read(path)
    found = pairs(model)
    assert [(pair.input.name, pair.output.name) for pair in found] == expected
    assert expose(model) == []
    for pair in found:
        if pair.batch_axis is not None:
            assert pair.batch_axis == rows_axis[pair.input.name or ""]
        pair.batch_axis = rows_axis[pair.input.name or ""]
    shapes = {p.input.name or "": [d if isinstance(d, int) else 2 for d in p.input.shape or ()] for p in found}
    zeros = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    original = onnx.load(path)
    assert_streams_from(original, model, found, {"x": X}, zeros)


def assert_streams_from(original: onnx.ModelProto, model: Any, found: Any, feed: Any, zeros: Any) -> None:
    expected = run(original, feed | zeros)
    for cuts in ([1] * 6, [2, 4], [6]):
        values = stepped(model, found, feed, cuts, {"x": 0, "y": 0})
        np.testing.assert_allclose(values["y"], expected["y"], atol=1e-6)


S3: list[str | int] = [1, "batch", 4]
S2: list[str | int] = ["batch", 4]


def test_states_as_the_operator_has_them(tmp_path: Path) -> None:
    ends = [node("Identity", ["rnn.h"], ["p"]), node("Identity", ["rnn.c"], ["q"])]
    path = file(tmp_path, [lstm(), *ends], {"h": S3, "c": S3}, {"q": S3, "p": S3})
    check(path, [("h", "p"), ("c", "q")], {"h": 1, "c": 1})
    assert [pair.role for pair in pairs(read(path))] == [pb.STATE_ROLE_HIDDEN, pb.STATE_ROLE_CELL]
    assert [pair.batch_axis for pair in pairs(read(path))] == [1, 1]
    assert [pair.cell for pair in pairs(read(path))] == ["rnn", "rnn"]


def test_a_cell_state_before_the_hidden_one(tmp_path: Path) -> None:
    """Equal shapes, and an order that says the wrong thing."""
    ends = [node("Identity", ["rnn.c"], ["s1_out"]), node("Identity", ["rnn.h"], ["s2_out"])]
    path = file(tmp_path, [lstm(h="s1", c="s2"), *ends], {"s1": S3, "s2": S3}, {"s1_out": S3, "s2_out": S3})
    check(path, [("s1", "s2_out"), ("s2", "s1_out")], {"s1": 1, "s2": 1})


def test_keras_states_have_two_axes(tmp_path: Path) -> None:
    nodes = [
        node("Unsqueeze", ["h", "zero"], ["h3"]),
        node("Unsqueeze", ["c", "zero"], ["c3"]),
        lstm(h="h3", c="c3"),
        node("Squeeze", ["rnn.h", "zero"], ["p"]),
        node("Squeeze", ["rnn.c", "zero"], ["q"]),
    ]
    check(file(tmp_path, nodes, {"h": S2, "c": S2}, {"p": S2, "q": S2}), [("h", "p"), ("c", "q")], {"h": 0, "c": 0})


def test_h_and_c_in_one_tensor(tmp_path: Path) -> None:
    packed: list[str | int] = [2, "batch", 4]
    nodes = [
        node("Split", ["s"], ["h", "c"], axis=0),
        lstm(),
        node("Concat", ["rnn.h", "rnn.c"], ["s_next"], axis=0),
    ]
    check(file(tmp_path, nodes, {"s": packed}, {"s_next": packed}), [("s", "s_next")], {"s": 1})


def test_c_on_the_last_axis(tmp_path: Path) -> None:
    packed: list[str | int] = [1, "batch", 4, 2]
    nodes = [
        node("Gather", ["s", "first"], ["h"], axis=3),
        node("Gather", ["s", "second"], ["c"], axis=3),
        lstm(),
        node("Unsqueeze", ["rnn.h", "last"], ["h4"]),
        node("Unsqueeze", ["rnn.c", "last"], ["c4"]),
        node("Concat", ["h4", "c4"], ["s_next"], axis=3),
    ]
    constants: dict[str, Any] = {"first": np.array(0), "second": np.array(1), "last": np.array([3])}
    check(file(tmp_path, nodes, {"s": packed}, {"s_next": packed}, **constants), [("s", "s_next")], {"s": 1})


def test_layers_in_one_tensor(tmp_path: Path) -> None:
    stacked: list[str | int] = [2, "batch", 4]
    nodes = [
        node("Slice", ["h", "zero", "one", "zero"], ["h0"]),
        node("Slice", ["h", "one", "two", "zero"], ["h1"]),
        node("Split", ["c"], ["c0", "c1"], axis=0),
        lstm(h="h0", c="c0", name="a"),
        node("Squeeze", ["a.Y", "one"], ["between"]),
        lstm(x="between", h="h1", c="c1", name="b"),
        node("Concat", ["a.h", "b.h"], ["h_next"], axis=0),
        node("Concat", ["a.c", "b.c"], ["c_next"], axis=0),
    ]
    states, after = {"h": stacked, "c": stacked}, {"c_next": stacked, "h_next": stacked}
    path = file(tmp_path, nodes, states, after, ("a", "b"), two=np.array([2]))
    check(path, [("h", "h_next"), ("c", "c_next")], {"h": 1, "c": 1})
    [h, _] = pairs(read(path))
    assert "'a'" in h.found
    assert "'b'" in h.found


def test_a_prediction_that_is_the_state_too_is_not_its_successor_when_its_shape_differs(tmp_path: Path) -> None:
    nodes = [
        lstm(),
        node("Squeeze", ["rnn.h", "zero"], ["embedding"]),
        node("Identity", ["rnn.h"], ["p"]),
        node("Identity", ["rnn.c"], ["q"]),
    ]
    path = file(tmp_path, nodes, {"h": S3, "c": S3}, {"embedding": S2, "p": S3, "q": S3})
    check(path, [("h", "p"), ("c", "q")], {"h": 1, "c": 1})


def test_two_successors_are_ambiguous(tmp_path: Path) -> None:
    nodes = [lstm(), *(node("Identity", ["rnn.h"], [name]) for name in ("p", "r")), node("Identity", ["rnn.c"], ["q"])]
    model = read(file(tmp_path, nodes, {"h": S3, "c": S3}, {"p": S3, "r": S3, "q": S3}))
    with pytest.raises(AmbiguousError, match=r"'p', 'r' .*--state h=p"):
        pairs(model)
    assert [pair.input.name for pair in pairs(model, settled={"h", "r"})] == ["c"]
    assert expose(model, settled={"h", "r"}) == []


def test_an_input_without_an_output_is_given_one(tmp_path: Path) -> None:
    path = file(tmp_path, [lstm(), node("Identity", ["rnn.h"], ["p"])], {"h": S3, "c": S3}, {"p": S3})
    model = read(path)
    [kept] = pairs(model)
    [new] = expose(model)
    assert (kept.input.name, new.input.name, new.output.name) == ("h", "rnn.c", "rnn.c_next")
    assert [value.name for value in model.graph.inputs] == ["x", "h", "rnn.c"]
    assert "'c'" in new.found
    feed = {"x": X, "h": np.zeros((1, 2, 4), np.float32), "c": np.zeros((1, 2, 4), np.float32)}
    original = onnx.load(path)
    expected = run(original, feed)["y"]
    np.testing.assert_allclose(
        stepped(model, [kept, new], {"x": X}, [2, 1, 3], {"x": 0, "y": 0})["y"], expected, atol=1e-6
    )


def test_states_in_one_input_and_two_outputs_get_their_own(tmp_path: Path) -> None:
    """h of both layers comes stacked and goes singly: what comes out cannot go in again as it is."""
    stacked: list[str | int] = [2, "batch", 4]
    nodes = [
        node("Split", ["h", "ones"], ["h0", "h1"], axis=0),
        lstm(h="h0", c="", name="a"),
        node("Squeeze", ["a.Y", "one"], ["between"]),
        lstm(x="between", h="h1", c="", name="b"),
        node("Identity", ["a.h"], ["p0"]),
        node("Identity", ["b.h"], ["p1"]),
    ]
    path = file(tmp_path, nodes, {"h": stacked}, {"p0": S3, "p1": S3}, ("a", "b"), ones=np.array([1, 1]))
    model = read(path)
    assert pairs(model) == []
    found = expose(model)
    # The file has tensors of the names `a.h` and `b.h`.
    assert [pair.input.name for pair in found] == ["a.h_2", "a.c", "b.h_2", "b.c"]
    assert [value.name for value in model.graph.inputs] == ["x", *(pair.input.name for pair in found)]
    assert [value.name for value in model.graph.outputs] == ["y", *(pair.output.name for pair in found)]
    zeros = {"h": np.zeros((2, 2, 4), np.float32)}
    expected = run(onnx.load(path), {"x": X} | zeros)["y"]
    y = stepped(model, found, {"x": X}, [1, 2, 3], {"x": 0, "y": 0})["y"]
    np.testing.assert_allclose(y, expected, atol=1e-6)


def test_an_output_that_is_the_last_state_stays_where_it_is_the_only_one(tmp_path: Path) -> None:
    proto = graphs.model(
        [
            node("GRU", ["x", "W", "R", "B"], ["", "last"], name="rnn", hidden_size=4),
            node("Squeeze", ["last", "zero"], ["summary"]),
        ],
        [graphs.tensor("x", ["time", "batch", 3])],
        [graphs.tensor("summary", ["batch", 4])],
        graphs.weights("GRU", 3, 4) | {"zero": np.array([0])},
    )
    model = read(graphs.saved(proto, tmp_path))
    [pair] = expose(model)
    assert [value.name for value in model.graph.outputs] == ["summary", "rnn.h_next"]
    summary = stepped(model, [pair], {"x": X}, [2, 4], {"x": 0})["summary"]
    np.testing.assert_allclose(summary, run(proto, {"x": X})["summary"], atol=1e-6)


def test_nothing_is_found_where_nothing_is_carried(tmp_path: Path) -> None:
    proto = graphs.plain()
    model = read(graphs.saved(proto, tmp_path))
    assert pairs(model) == []
    assert_streams(proto, model, expose(model), {"x": X}, {"x": 0, "y": 0})
