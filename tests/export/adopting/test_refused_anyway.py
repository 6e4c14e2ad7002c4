"""Files that are refused, or of which something is asked: what serving them anyway would have given.

Of what the operators of a graph show, see `test_refusals`; of the generated files, `test_strangers`; of what does not
even run, `test_no_file`.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from gatestream.export.adopting.adopt import adopt
from gatestream.export.adopting.options import Options
from gatestream.export.errors import AmbiguousError, ArtifactError, NotStreamableError, StructureError
from tests.export.adopting import graphs
from tests.export.adopting.stepping import run
from tests.export.adopting.test_given import CROSSED, RIGHT, means, two_states
from tests.export.adopting.test_loops import scanned
from tests.export.adopting.test_quantised import quantised
from tests.support.strangers.generators import ADOPTED
from tests.support.strangers.graph import Graph
from tests.support.strangers.oracle import Oracle
from tests.support.strangers.stranger import rate

RNG = np.random.default_rng(10)
STEPS, ROWS, INPUTS, HIDDEN = 8, 3, 3, 4
X = RNG.standard_normal((STEPS, ROWS, INPUTS)).astype(np.float32)
Feed = dict[str, graphs.Array]


def apart(one: graphs.Array, other: graphs.Array) -> float:
    return float(np.abs(one - other).max())


def refused(made: onnx.ModelProto, folder: Path, said: str, **told: Any) -> None:
    """It is, in one line, and nothing is written."""
    with pytest.raises(NotStreamableError, match=said) as caught:
        adopt(graphs.saved(made, folder), folder / "out.onnx", Options(**told))
    assert "\n" not in str(caught.value)
    assert not (folder / "out.onnx").exists()


# ---- What a state starts from -------------------------------------------------------------


def started(*nodes: onnx.NodeProto, **constants: Any) -> onnx.ModelProto:
    """A GRU over x [time, batch, 3] that starts from `h0`, made by `nodes` or one of `constants`."""
    made = graphs.plain("GRU", INPUTS, HIDDEN)
    made.graph.node[0].input.extend(["", "h0"])
    for each in reversed(nodes):
        made.graph.node.insert(0, each)
    made.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    return made


def test_rows_of_a_constant_that_are_not_alike(tmp_path: Path) -> None:
    """A session would get other numbers in another row."""
    made = started(h0=RNG.uniform(-0.9, 0.9, (1, ROWS, HIDDEN)).astype(np.float32))
    refused(made, tmp_path, "initial_h of GRU 'rnn' is a constant .* whose rows are not alike")
    y = run(made, {"x": np.repeat(X[:, :1], ROWS, 1)})["y"]
    assert apart(y[:, :, 0], y[:, :, 1]) > 0.01


def test_a_start_by_the_number_of_the_row(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["rows"], start=1, end=2),
        helper.make_node("Squeeze", ["rows"], ["count"]),
        helper.make_node("Range", ["nought", "count", "one"], ["numbers"]),
        helper.make_node("Cast", ["numbers"], ["reals"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["reals", "column"], ["upright"]),
        helper.make_node("Tile", ["upright", "units"], ["h0"]),
    ]
    constants = {"column": np.array([1, -1, 1]), "units": np.array([1, 1, HIDDEN])}
    made = started(*nodes, nought=np.array(0), one=np.array(1), **constants)
    refused(made, tmp_path, "initial_h of GRU 'rnn' is not the same for every row")
    y = run(made, {"x": np.repeat(X[:, :1], ROWS, 1)})["y"]
    assert apart(y[:, :, 0], y[:, :, 1]) > 0.01


def test_a_start_that_is_computed_from_the_input(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Slice", ["x", "nought", "single"], ["first"], name="take"),
        helper.make_node("MatMul", ["first", "E"], ["h0"]),
    ]
    constants = {"nought": np.array([0]), "single": np.array([1])}
    made = started(*nodes, E=RNG.standard_normal((INPUTS, HIDDEN)).astype(np.float32), **constants)
    refused(made, tmp_path, "initial_h of GRU 'rnn' is computed by Slice 'take' from the input 'x'")
    whole, first = run(made, {"x": X})["y"], run(made, {"x": X[:4]})
    again = run(made, {"x": X[4:]})["y"]
    assert apart(whole[:4], first["y"]) < 1e-6
    assert apart(whole[4:], again) > 0.01


def test_a_start_at_random(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["rows"], start=1, end=2),
        helper.make_node("Concat", ["single", "rows", "units"], ["shape"], axis=0),
        helper.make_node("ConstantOfShape", ["shape"], ["empty"]),
        helper.make_node("RandomNormalLike", ["empty"], ["h0"], name="draw"),
    ]
    made = started(*nodes, single=np.array([1]), units=np.array([HIDDEN]))
    refused(made, tmp_path, "initial_h of GRU 'rnn' is drawn at random by RandomNormalLike 'draw'")
    # Sessions that are sent the same, in one run.
    y = run(made, {"x": np.repeat(X[:, :1], ROWS, 1)})["y"]
    assert apart(y[:, :, 0], y[:, :, 1]) > 0.01


def test_a_state_that_is_read_elsewhere_and_does_not_come_out(tmp_path: Path) -> None:
    """What becomes of h is not to be had; fed zeros again, a second run is not the rest of the first."""
    made = graphs.plain("GRU", INPUTS, HIDDEN)
    made.graph.node[0].input.extend(["", "h"])
    made.graph.node[0].output[0] = "all"
    made.graph.node.append(helper.make_node("Add", ["all", "h"], ["y"]))
    made.graph.input.append(graphs.tensor("h", [1, "batch", HIDDEN]))
    refused(made, tmp_path, "is the input 'h', which the graph uses otherwise too")
    h = np.zeros((1, ROWS, HIDDEN), np.float32)
    whole, second = (run(made, {"x": x, "h": h})["y"] for x in (X, X[4:]))
    assert apart(whole[4:], second) > 0.01


def test_a_start_of_two_sizes_that_does_not_come_out(tmp_path: Path) -> None:
    """A Scan from an input of which nobody says which axis is the rows'."""
    made = scanned()
    del made.graph.node[2]
    made.graph.node[-1].input[0] = "h"
    made.graph.input.append(graphs.tensor("h", ["rows", "units"]))
    refused(made, tmp_path, "comes from the input 'h' .*, and no output is what becomes of it")
    h = np.zeros((ROWS, INPUTS), np.float32)
    whole, second = (run(made, {"x": x, "h": h})["y"] for x in (X, X[4:]))
    assert apart(whole[4:], second) > 0.01


def test_a_scan_that_goes_backwards(tmp_path: Path) -> None:
    made = scanned(backwards=True)
    refused(made, tmp_path, "Scan 'scan' reads an input from its last step on")
    assert apart(run(made, {"x": X})["y"][:4], run(made, {"x": X[:4]})["y"]) > 0.01


def test_a_quantised_layer_of_two_directions(tmp_path: Path) -> None:
    path = quantised(tmp_path, "bidirectional")
    with pytest.raises(NotStreamableError, match=r"DynamicQuantizeLSTM .* is bidirectional"):
        adopt(path, tmp_path / "out.onnx")
    assert apart(run(path, {"x": X})["y"][:4], run(path, {"x": X[:4]})["y"]) > 0.01


def test_gates_of_a_quantised_layer(tmp_path: Path) -> None:
    """Form gates is refused: the equations know no ranges, by which a loud neighbour moves a row."""
    path = quantised(tmp_path)
    with pytest.raises(StructureError, match=r"--form gates: DynamicQuantizeLSTM .* rounds by ranges"):
        adopt(path, tmp_path / "out.onnx", Options(form="gates"))
    loud = X * np.array([1, 1, 1000], np.float32)[:, None]
    assert apart(run(path, {"x": X})["y"][:, :, :2], run(path, {"x": loud})["y"][:, :, :2]) > 0.01


# ---- What is asked ------------------------------------------------------------------------


def test_two_outputs_that_hold_the_same_states_in_another_order(tmp_path: Path) -> None:
    made = graphs.plain("LSTM", INPUTS, HIDDEN)
    layer = made.graph.node[0]
    layer.input.extend(["", "h", "c"])
    layer.output.extend(["h2", "c2"])
    made.graph.node.insert(0, helper.make_node("Split", ["s"], ["h", "c"], axis=0))
    made.graph.node.extend(
        helper.make_node("Concat", ends, [name], axis=0) for name, ends in (("p", ["h2", "c2"]), ("q", ["c2", "h2"]))
    )
    made.graph.input.append(graphs.tensor("s", [2, "batch", HIDDEN]))
    made.graph.output.extend(graphs.tensor(name, [2, "batch", HIDDEN]) for name in "pq")
    with pytest.raises(AmbiguousError, match=r"'p', 'q' all hold what becomes of it; choose one with --state s=p"):
        adopt(graphs.saved(made, tmp_path), tmp_path / "out.onnx")
    s = np.zeros((2, ROWS, HIDDEN), np.float32)
    first = run(made, {"x": X[:4], "s": s})
    p, q = (run(made, {"x": X[4:], "s": first[end]})["y"] for end in "pq")
    assert apart(p, q) > 0.01


def test_the_rate_that_decides_between_layers(tmp_path: Path) -> None:
    stranger = ADOPTED["sample_rate"](tmp_path)
    with pytest.raises(AmbiguousError, match="--constant sr=VALUE"):
        adopt(stranger.path, tmp_path / "out.onnx")
    xs = Oracle(stranger).sample(6, 0)
    one, other = (Oracle(replace(stranger, fixed={"sr": rate(hertz)})).run(xs)["output"] for hertz in (16000, 8000))
    assert apart(one, other) > 0.01


def test_one_number_of_which_nobody_says_whose_it_is(tmp_path: Path) -> None:
    made = graphs.plain("GRU", INPUTS, HIDDEN)
    made.graph.node[0].input[0] = "scaled"
    made.graph.node.insert(0, helper.make_node("Mul", ["x", "gain"], ["scaled"]))
    made.graph.input.append(graphs.tensor("gain", []))
    with pytest.raises(AmbiguousError, match=r"input 'gain' is one number.*--constant gain=VALUE"):
        adopt(graphs.saved(made, tmp_path), tmp_path / "out.onnx")
    one, other = (run(made, {"x": X, "gain": np.array(gain, np.float32)})["y"] for gain in (1, 2))
    assert apart(one, other) > 0.01


def test_an_embedding_that_nobody_set(tmp_path: Path) -> None:
    stranger = ADOPTED["embedding"](tmp_path)
    with pytest.raises(AmbiguousError, match="--constant speaker"):
        adopt(stranger.path, tmp_path / "out.onnx")
    oracle = Oracle(stranger)
    xs, speaker = oracle.sample(6, 0), oracle.sample_constants(0)
    zeros = {name: np.zeros_like(value) for name, value in speaker.items()}
    assert apart(oracle.run(xs, speaker)["y"], oracle.run(xs, zeros)["y"]) > 0.01


def test_states_that_were_given_each_others_outputs(tmp_path: Path) -> None:
    path = two_states(tmp_path, "means", means)
    with pytest.raises(AmbiguousError, match="it shows --state a=a2 --state b=b2"):
        adopt(path, tmp_path / "out.onnx", Options(states=CROSSED))
    assert apart(carried(path, RIGHT), carried(path, CROSSED)) > 0.01


def carried(path: Path, pairs: dict[str, str]) -> graphs.Array:
    """The last output of some steps, each a run."""
    states = {name: np.zeros((ROWS, INPUTS), np.float32) for name in pairs}
    found: Feed = {}
    for x in X:
        found = run(path, {"x": x, **states})
        states = {name: found[end] for name, end in pairs.items()}
    return found["y"]


# ---- Axes ---------------------------------------------------------------------------------


def test_rows_along_the_axis_of_time(tmp_path: Path) -> None:
    """A session's step would go on from its neighbour's."""
    made = graphs.plain("GRU", INPUTS, HIDDEN)
    with pytest.raises(AmbiguousError, match="--batch x:0: rows run together along these axes do not give"):
        adopt(graphs.saved(made, tmp_path), tmp_path / "out.onnx", Options(batch={"x": 0}))
    together = run(made, {"x": X[:2, :1]})["y"]
    assert apart(together[1:], run(made, {"x": X[1:2, :1]})["y"]) > 0.01


def averaged() -> onnx.ModelProto:
    """[batch, samples] to the mean of a window, which a mean that forgets goes on with."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["now"], axes=[1], keepdims=1),
        helper.make_node("Mul", ["s", "kept"], ["past"]),
        helper.make_node("Add", ["now", "past"], ["s2"]),
        helper.make_node("Mul", ["x", "s2"], ["y"]),
    ]
    inputs = [graphs.tensor("x", ["batch", "samples"]), graphs.tensor("s", ["batch", 1])]
    ends = [graphs.tensor("y", ["batch", "samples"]), graphs.tensor("s2", ["batch", 1])]
    return graphs.model(nodes, inputs, ends, {"kept": np.array(0.5, np.float32)})


def test_samples_of_a_window_taken_for_steps(tmp_path: Path) -> None:
    made = averaged()
    refused(made, tmp_path, "ReduceMean .* needs all steps of a run", states={"s": "s2"})
    x, s = X[:, :, 0].T.copy(), np.zeros((ROWS, 1), np.float32)
    whole, steps = run(made, {"x": x, "s": s})["y"], []
    for t in range(STEPS):
        found = run(made, {"x": x[:, t : t + 1], "s": s})
        s = found["s2"]
        steps.append(found["y"])
    assert apart(whole, np.concatenate(steps, 1)) > 0.01


def every_step_with_every_other() -> onnx.ModelProto:
    """Steps of a run are compared with each other, by an operator that no rule knows."""
    nodes = [
        helper.make_node("Einsum", ["x", "x"], ["alike"], equation="bti,bui->btu"),
        helper.make_node("Einsum", ["alike", "x"], ["mixed"], equation="btu,bui->bti"),
        helper.make_node("Transpose", ["mixed"], ["zt"], perm=[1, 0, 2]),
        helper.make_node("GRU", ["zt", "W", "R", "B", "", "h"], ["Y", "h2"], name="rnn", hidden_size=HIDDEN),
        helper.make_node("Squeeze", ["Y", "one"], ["ys"]),
        helper.make_node("Transpose", ["ys"], ["y"], perm=[1, 0, 2]),
    ]
    inputs = [graphs.tensor("x", ["batch", "time", INPUTS]), graphs.tensor("h", [1, "batch", HIDDEN])]
    ends = [graphs.tensor("y", ["batch", "time", HIDDEN]), graphs.tensor("h2", [1, "batch", HIDDEN])]
    return graphs.model(nodes, inputs, ends, graphs.weights("GRU", INPUTS, HIDDEN) | {"one": np.array([1])})


@pytest.mark.parametrize("told", [{"time": {"x": 1}}, {}], ids=["told", "found"])
def test_steps_that_do_not_add_up(told: dict[str, Any], tmp_path: Path) -> None:
    made = every_step_with_every_other()
    said = "--time x:1: steps in one run do not give" if told else "steps do not add up to the whole along axis 1"
    refused(made, tmp_path, said, **told)
    x, h = X.swapaxes(0, 1).copy(), np.zeros((1, ROWS, HIDDEN), np.float32)
    whole, first = run(made, {"x": x, "h": h}), run(made, {"x": x[:, :4], "h": h})
    second = run(made, {"x": x[:, 4:], "h": first["h2"]})
    assert apart(whole["y"], np.concatenate([first["y"], second["y"]], 1)) > 0.01


def test_windows_of_which_each_sees_the_others(tmp_path: Path) -> None:
    g = Graph("windows_together")
    x, s = g.input("x", ["time", 20]), g.input("s", [6, 6])
    y, s_next = g.output("y", ["time", 6]), g.output("s_next", [6, 6])
    seen = g.node("Tanh", g.node("MatMul", x, g.weight(20, 6)))
    g.node("Tanh", g.node("Add", g.node("Einsum", seen, seen, equation="ti,tj->ij"), s), out=s_next)
    g.node("MatMul", seen, s_next, out=y)
    path = g.save(tmp_path)
    with pytest.raises(ArtifactError, match="steps do not add up to the whole along axis 0 of 'x'"):
        adopt(path, tmp_path / "out.onnx", Options(states={s: s_next}, context={x: 4}))
    windows, state = RNG.standard_normal((2, 20)).astype(np.float32), np.zeros((6, 6), np.float32)
    together, alone = run(path, {x: windows, s: state})[y], run(path, {x: windows[:1], s: state})[y]
    assert apart(together[:1], alone) > 0.01


def many_axes() -> onnx.ModelProto:
    """Eight inputs of five axes each, of which nobody says what they are: b and a of the sum are exchanged in half."""
    shape = ["a", "b", None, None, None]
    inputs = [graphs.tensor(f"x{k}", shape if k % 2 else shape[1::-1] + shape[2:]) for k in range(8)]
    nodes: list[onnx.NodeProto] = []
    last = "s"
    for k in range(8):
        name = f"x{k}"
        if k % 2 == 0:
            nodes.append(helper.make_node("Transpose", [name], [f"t{k}"], perm=[1, 0, 2, 3, 4]))
            name = f"t{k}"
        nodes.append(helper.make_node("Add", [last, name], [f"sum{k}"]))
        last = f"sum{k}"
    nodes += [helper.make_node("Tanh", [last], ["s2"]), helper.make_node("Identity", ["s2"], ["y"])]
    inputs.append(graphs.tensor("s", shape))
    return graphs.model(nodes, inputs, [graphs.tensor("y", shape), graphs.tensor("s2", shape)])


def test_axes_too_many_to_be_tried(tmp_path: Path) -> None:
    made = many_axes()
    with pytest.raises(AmbiguousError, match=r"too many axes may be the sessions' or time.*--batch x\d:AXIS"):
        adopt(graphs.saved(made, tmp_path), tmp_path / "out.onnx", Options(states={"s": "s2"}))
    # Two sessions put along the first axis of all: x1's rows are then added to x0's columns.
    feed = {f"x{k}": RNG.standard_normal((2, 2, 1, 1, 1)).astype(np.float32) for k in range(8)}
    s = np.zeros((2, 2, 1, 1, 1), np.float32)
    together = run(made, {**feed, "s": s})["y"]
    louder = {**feed, "x0": feed["x0"] + np.array([0, 5], np.float32).reshape(2, 1, 1, 1, 1)}
    assert apart(run(made, {**louder, "s": s})["y"][:1], together[:1]) > 0.01
