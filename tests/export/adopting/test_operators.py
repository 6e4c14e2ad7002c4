"""Exposed states of LSTM, GRU and RNN against the equations, over what the operators can be told."""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from gatestream.export.adopting.dataflow import pairs
from gatestream.export.adopting.expose import expose
from gatestream.export.adopting.reading import read
from gatestream.export.adopting.refusals import check
from gatestream.export.errors import NotStreamableError
from tests.export.adopting import graphs, onnx_equations
from tests.export.adopting.stepping import stepped

RNG = np.random.default_rng(8)
STEPS, ROWS, INPUTS, HIDDEN = 9, 3, 3, 4
X = RNG.standard_normal((STEPS, ROWS, INPUTS)).astype(np.float32)
START = {letter: RNG.uniform(-0.9, 0.9, (1, 1, HIDDEN)).astype(np.float32) for letter in "hc"}
CUTS = [1] * STEPS, [4, 5], [1, 7, 1], [STEPS]

OPTIONS: list[tuple[str, dict[str, Any]]] = [
    *(("GRU", {"linear_before_reset": k, **more}) for k, more in product((0, 1), ({}, {"clip": 0.4}))),
    *(("GRU", {"linear_before_reset": k, "activations": ["HardSigmoid", "Softsign"]}) for k in (0, 1)),
    ("RNN", {}),
    ("RNN", {"clip": 0.3}),
    *(("RNN", {"activations": [name]}) for name in ("Relu", "Softplus", "Elu")),
    ("LSTM", {}),
    ("LSTM", {"clip": 0.4}),
    ("LSTM", {"input_forget": 1}),
    ("LSTM", {"activations": ["HardSigmoid", "Softsign", "Relu"]}),
    ("LSTM", {"peepholes": True}),
    ("LSTM", {"peepholes": True, "clip": 0.5}),
]


def build(operator: str, *, layout: int, start: str, lengths: bool, **options: Any) -> tuple[onnx.ModelProto, Any]:
    """A file of one operator, and its weights.

    Args:
        operator: LSTM, GRU or RNN.
        layout: of the operator.
        start: what its states start from: "absent", "constant" or "computed".
        lengths: there is an input of the rows' lengths.
        options: attributes, and whether there are peepholes.
    """
    constants: dict[str, Any] = dict(graphs.weights(operator, INPUTS, HIDDEN, seed=3))
    weights = dict(constants)
    peepholes = options.pop("peepholes", False)
    if peepholes:
        constants["P"] = weights["P"] = RNG.uniform(-0.9, 0.9, (1, 3 * HIDDEN)).astype(np.float32)
    letters = "hc" if operator == "LSTM" else "h"
    nodes = []
    states = ["" for _ in letters]
    if start == "constant":
        constants |= {letter: np.tile(START[letter], (1, ROWS, 1)) for letter in letters}
        states = list(letters)
        if layout:
            constants |= {letter: np.ascontiguousarray(constants[letter].swapaxes(0, 1)) for letter in letters}
    elif start == "computed":
        constants |= {f"{letter}0": START[letter] for letter in letters}
        constants |= {"zero": np.array([0]), "one": np.array([1]), "two": np.array([2]), "hidden": np.array([HIDDEN])}
        at = ["zero", "one"] if layout else ["one", "two"]
        order = ["rows", "one", "hidden"] if layout else ["one", "rows", "hidden"]
        nodes += [
            helper.make_node("Shape", ["x"], ["sizes"]),
            helper.make_node("Slice", ["sizes", *at], ["rows"]),
            helper.make_node("Concat", order, ["shape"], axis=0),
            *(helper.make_node("Expand", [f"{letter}0", "shape"], [letter]) for letter in letters),
        ]
        states = list(letters)
    inputs = ["x", "W", "R", "B", "lengths" if lengths else "", *states]
    if peepholes:
        inputs += ["P"] if len(inputs) == 7 else []
    attributes = {"hidden_size": HIDDEN, **options} | ({"layout": 1} if layout else {})
    nodes.append(helper.make_node(operator, inputs, ["Y"], name="rnn", **attributes))
    axis = 2 if layout else 1
    constants["axis"] = np.array([axis])
    nodes.append(helper.make_node("Squeeze", ["Y", "axis"], ["y"]))
    rows = ["batch", "time"] if layout else ["time", "batch"]
    given = [graphs.tensor("x", [*rows, INPUTS])]
    given += [graphs.tensor("lengths", ["batch"], TensorProto.INT32)] if lengths else []
    return graphs.model(nodes, given, [graphs.tensor("y", [*rows, HIDDEN])], constants), weights


@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("start", ["absent", "constant", "computed"])
@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize(("operator", "options"), OPTIONS)
def test_steps_follow_the_equations(
    operator: str, options: dict[str, Any], layout: int, start: str, lengths: bool, tmp_path: Path
) -> None:
    proto, weights = build(operator, layout=layout, start=start, lengths=lengths, **options)
    model = read(graphs.saved(proto, tmp_path))
    check(model)
    assert pairs(model) == []
    found = expose(model)
    assert [pair.input.name for pair in found] == [f"rnn.{letter}" for letter in ("hc" if operator == "LSTM" else "h")]
    first = {letter: np.zeros((1, 1, HIDDEN)) if start == "absent" else START[letter] for letter in "hc"}
    for pair, letter in zip(found, "hc", strict=False):
        initial = np.zeros((1, 1, HIDDEN)) if pair.initial is None else pair.initial
        swapped = initial.swapaxes(0, 1) if layout else initial
        np.testing.assert_array_equal(swapped, first[letter])
    real = [STEPS, 2, 5] if lengths else None
    expected = onnx_equations.run(
        operator,
        X,
        weights,
        np.tile(first["h"][0], (ROWS, 1)),
        np.tile(first["c"][0], (ROWS, 1)),
        lengths=real,
        peepholes=weights["P"][0] if "P" in weights else None,
        **{name: value for name, value in options.items() if name != "peepholes"},
    )
    x = X.swapaxes(0, 1) if layout else X
    time = {"x": layout, "y": layout}
    for cuts in CUTS:
        y = stepped(model, found, {"x": x}, cuts, time, ROWS, lengths={"lengths": real} if real else None)["y"]
        np.testing.assert_allclose(y.swapaxes(0, 1) if layout else y, expected, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("operator", graphs.GATES)
@pytest.mark.parametrize("direction", ["reverse", "bidirectional"])
def test_other_directions_are_refused(operator: str, direction: str, tmp_path: Path) -> None:
    directions = 2 if direction == "bidirectional" else 1
    node = helper.make_node(operator, ["x", "W", "R", "B"], ["y"], name="rnn", hidden_size=4, direction=direction)
    proto = graphs.model(
        [node],
        [graphs.tensor("x", ["time", "batch", 3])],
        [graphs.tensor("y", ["time", directions, "batch", 4])],
        graphs.weights(operator, 3, 4, directions=directions),
    )
    model = read(graphs.saved(proto, tmp_path))
    for refuse in (check, expose):
        with pytest.raises(NotStreamableError, match=f"{operator} 'rnn'"):
            refuse(model)


def test_rows_that_start_differently_are_refused(tmp_path: Path) -> None:
    proto, _ = build("GRU", layout=0, start="constant", lengths=False)
    h = next(item for item in proto.graph.initializer if item.name == "h")
    h.CopyFrom(numpy_helper.from_array(RNG.standard_normal((1, ROWS, HIDDEN)).astype(np.float32), "h"))
    model = read(graphs.saved(proto, tmp_path))
    with pytest.raises(NotStreamableError, match="rows are not alike"):
        expose(model)


def test_a_start_that_is_computed_from_the_input_is_refused(tmp_path: Path) -> None:
    proto = graphs.plain("GRU")
    proto.graph.initializer.append(numpy_helper.from_array(RNG.standard_normal((3, 4)).astype(np.float32), "E"))
    proto.graph.node[0].input.extend(["", "h0"])
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=1),
        helper.make_node("MatMul", ["m", "E"], ["h0"], name="encode"),
        *proto.graph.node,
    ]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    model = read(graphs.saved(proto, tmp_path))
    with pytest.raises(NotStreamableError, match=r"initial_h of GRU 'rnn'.*'x'"):
        expose(model)
