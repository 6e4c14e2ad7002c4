"""What adopting adds to a graph, what it asks for, and what would come of not asking."""

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, numpy_helper

from gatestream.export.adopting import reading
from gatestream.export.adopting.adopt import adopt
from gatestream.export.adopting.options import Options
from gatestream.export.adopting.table import lines
from gatestream.export.drawing import text
from gatestream.export.errors import AmbiguousError, ArtifactError, SourceError, StatelessError
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.server.backend.artifact import Artifact
from tests.support.strangers import layers
from tests.support.strangers.comparison import differences
from tests.support.strangers.generators import ADOPTED, REFUSED
from tests.support.strangers.graph import Graph
from tests.support.strangers.stranger import Stranger, Tensor

H = 5


def told(stranger: Stranger) -> Options:
    constants = {**stranger.fixed, **dict.fromkeys(stranger.per_session)}
    options: dict[str, Any] = {"states": {"mean": "new_mean"}} if stranger.name == "smoothing" else {}
    options |= stranger.options
    return Options(constants=constants, context=stranger.context, windows=stranger.windows, **options)


def operators(path: Path) -> Counter[str]:
    """Of the main graph."""
    return Counter(node.op_type for node in onnx.load(path).graph.node)


@pytest.mark.parametrize("name", ["lstm_exposed", "no_batch"])
def test_the_server_takes_what_was_made_and_it_says_where_it_is_from(name: str, tmp_path: Path) -> None:
    stranger = ADOPTED[name](tmp_path)
    output = tmp_path / "new" / "model.onnx"
    found = adopt(stranger.path, output, told(stranger))
    assert found.report.passed
    assert Artifact.load(output).spec == found.spec
    source = found.spec.source
    assert (source.name, source.opset) == (stranger.path.name, 17)
    assert source.sha256 == hashlib.sha256(stranger.path.read_bytes()).hexdigest()
    tensors = {tensor.name: tensor for tensor in source.tensors}
    for tensor in (*stranger.inputs, *stranger.outputs):
        assert tensors[tensor.name].time_axis == tensor.time
    for state in stranger.states:
        assert tensors[state.input].batch_axis == (-1 if stranger.one_row else state.batch)


# ---- What is put into the graph -----------------------------------------------------------


def lstm(folder: Path, *, batch_first: bool, states_first: bool) -> Path:
    g = Graph(f"lstm_{batch_first}_{states_first}")
    x = g.input("x", ["batch", "time", 4] if batch_first else ["time", "batch", 4])
    shape: list[int | str] = ["batch", 1, H] if states_first else [1, "batch", H]
    starts = [g.input(name, shape) for name in ("h", "c")]
    ends = [g.output(name, shape) for name in ("hn", "cn")]
    y = g.output("y", ["batch", "time", H] if batch_first else ["time", "batch", H])

    def turned(value: str, on: bool, out: str = "") -> str:
        return g.node("Transpose", value, perm=[1, 0, 2], out=out) if on else value

    inner = ["h_all", "c_all"] if states_first else ends
    initial = [turned(start, states_first) for start in starts]
    g.lstm(turned(x, batch_first), 4, H, *initial, out=["all", *inner])
    if states_first:
        for value, end in zip(inner, ends, strict=True):
            turned(value, True, end)
    squeezed = g.node("Squeeze", "all", g.constant([1]), out="" if batch_first else y)
    turned(squeezed, batch_first, y if batch_first else "")
    return g.save(folder)


def test_nothing_is_added_to_a_graph_in_normal_form(tmp_path: Path) -> None:
    path = lstm(tmp_path, batch_first=True, states_first=True)
    found = adopt(path, tmp_path / "out.onnx")
    assert operators(tmp_path / "out.onnx") == operators(path)
    assert list(found.spec.source.rewritten) == ["opset 17 converted to 20"]


def test_a_transpose_stands_at_each_edge_that_needs_one_and_nowhere_else(tmp_path: Path) -> None:
    path = lstm(tmp_path, batch_first=True, states_first=False)
    adopt(path, tmp_path / "out.onnx")
    assert operators(tmp_path / "out.onnx") - operators(path) == Counter(Transpose=4)
    path = lstm(tmp_path, batch_first=False, states_first=True)
    found = adopt(path, tmp_path / "out.onnx")
    assert operators(tmp_path / "out.onnx") - operators(path) == Counter(Transpose=2)
    assert found.spec.source.rewritten[-1] == "axes moved, by a Transpose each: 'x', 'y'"


def test_a_scan_stands_only_where_the_file_takes_one_step_or_one_row(tmp_path: Path) -> None:
    for name, nodes in {"window": {"Scan": 1, "Transpose": 2}, "no_batch": {"Scan": 1}}.items():
        stranger = ADOPTED[name](tmp_path)
        found = adopt(stranger.path, tmp_path / "out.onnx", told(stranger))
        assert operators(tmp_path / "out.onnx") == Counter(nodes), found.spec.source.rewritten


# ---- What cannot be found out -------------------------------------------------------------


def smoothed(folder: Path) -> Stranger:
    return ADOPTED["smoothing"](folder)


def test_a_spectrum_and_a_state_of_one_shape_are_not_told_apart(tmp_path: Path) -> None:
    path = smoothed(tmp_path).path
    for options, named in ((Options(), ("x", "mean")), (Options(time={"x": None}), ("mean",))):
        with pytest.raises(AmbiguousError) as asked:
            adopt(path, tmp_path / "out.onnx", options)
        assert "\n" not in str(asked.value)
        assert "any of the outputs 'y', 'new_mean'" in str(asked.value)
        assert ", ".join(f"--state {name}=OUTPUT" for name in named) in str(asked.value)
    found = adopt(path, tmp_path / "out.onnx", Options(states={"mean": "new_mean"}))
    assert [(state.input, state.output) for state in found.spec.states] == [("mean", "new_mean")]


@pytest.mark.parametrize("pair", [("mean", "new_mean"), ("mean", "y"), ("x", "y"), ("x", "new_mean")], ids="=".join)
def test_whichever_of_them_were_the_state_what_came_would_last(pair: tuple[str, str], tmp_path: Path) -> None:
    """Running cannot tell them apart: each pair makes a stream of its own, in which the first step is heard later."""
    session = ort.InferenceSession(str(smoothed(tmp_path).path))
    state, successor = pair
    [fed] = {"x", "mean"} - {state}
    rng = np.random.default_rng(0)
    steps = rng.standard_normal((4, 1, 3)).astype(np.float32)

    def last(steps: np.ndarray) -> np.ndarray:
        carried = np.zeros((1, 3), np.float32)
        for step in steps:
            found = session.run(["y", "new_mean"], {state: carried, fed: step, "counts": np.ones((1, 1), np.bool_)})
            carried = found[["y", "new_mean"].index(successor)]
        return carried

    assert np.abs(last(steps) - last(np.concatenate([steps[:1] + 5, steps[1:]]))).max() > 1e-3


def test_what_a_switch_only_lets_by_is_no_state(tmp_path: Path) -> None:
    """Bypassed, the model hands on its input to the last bit, as a cache does, and is none."""
    g = Graph("bypass")
    x, bypass = g.input("x", ["batch", 4]), g.input("bypass", ["batch", 1], TensorProto.BOOL)
    s, y, s_next = g.input("s", ["batch", 6]), g.output("y", ["batch", 4]), g.output("s_next", ["batch", 6])
    joined = g.node("Tanh", g.node("MatMul", g.node("Concat", x, s, axis=1), g.weight(10, 6)), out=s_next)
    g.node("Where", bypass, x, g.node("MatMul", joined, g.weight(6, 4)), out=y)
    path = g.save(tmp_path)
    found = adopt(path, tmp_path / "out.onnx", Options(states={s: s_next}))
    assert [(state.input, state.output) for state in found.spec.states] == [(s, s_next)]
    with pytest.raises(AmbiguousError, match="--state x=y"):
        adopt(path, tmp_path / "out.onnx")


def test_an_open_window_is_asked_for(tmp_path: Path) -> None:
    """It takes anything from 16 to 19 samples, and gives other numbers for each."""
    g = Graph("open_window")
    x, s = g.input("x", ["batch", "samples"]), g.input("s", ["batch", 6])
    y, s_next = g.output("y", ["batch", 6]), g.output("s_next", ["batch", 6])
    frames = g.node("Conv", g.node("Unsqueeze", x, g.constant([1])), g.weight(6, 1, 16), strides=[4])
    g.node("Tanh", g.node("Add", g.node("ReduceMean", frames, axes=[2], keepdims=0), s), out=s_next)
    g.node("Relu", s_next, out=y)
    path = g.save(tmp_path)
    with pytest.raises(AmbiguousError, match="--window"):
        adopt(path, tmp_path / "out.onnx")
    found = adopt(path, tmp_path / "out.onnx", Options(windows={"x": 16}, states={"s": "s_next"}))
    assert [(i.name, list(i.shape), i.window) for i in found.spec.inputs] == [("x", [16], 16)]
    # Any other size would have been served as well, with other numbers.
    session = ort.InferenceSession(str(path))
    noise = np.random.default_rng(0).standard_normal((1, 19)).astype(np.float32)
    state = np.zeros((1, 6), np.float32)
    first, second = (session.run(["y"], {"x": noise[:, :size], "s": state})[0] for size in (16, 24 - 5))
    third = session.run(["y"], {"x": np.pad(noise, ((0, 0), (0, 5))), "s": state})[0]
    assert first.shape == second.shape == third.shape
    assert np.abs(first - third).max() > 0.01


def test_context_is_a_state_and_leaving_it_out_gives_other_numbers(tmp_path: Path) -> None:
    stranger = ADOPTED["context"](tmp_path)
    found = adopt(stranger.path, tmp_path / "out.onnx", told(stranger))
    assert [(i.window, i.context) for i in found.spec.inputs] == [(16, 4)]
    roles = {state.input: state.role for state in found.spec.states}
    assert roles["input_context"] == pb.STATE_ROLE_CONTEXT


def test_windows_that_are_not_steps_are_not_given_a_context(tmp_path: Path) -> None:
    """What a window gives depends on all the others of the run: one after another they give other numbers."""
    g = Graph("windows_together")
    x, s = g.input("x", ["time", 20]), g.input("s", [6, 6])
    y, s_next = g.output("y", ["time", 6]), g.output("s_next", [6, 6])
    seen = g.node("Tanh", g.node("MatMul", x, g.weight(20, 6)))
    g.node("Tanh", g.node("Add", g.node("Einsum", seen, seen, equation="ti,tj->ij"), s), out=s_next)
    g.node("MatMul", seen, s_next, out=y)
    with pytest.raises(ArtifactError) as refused:
        adopt(g.save(tmp_path), tmp_path / "out.onnx", Options(states={s: s_next}, context={x: 4}))
    assert "steps do not add up to the whole along axis 0 of 'x'" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_constant_that_every_step_could_have_is_asked_for(tmp_path: Path) -> None:
    stranger = ADOPTED["embedding"](tmp_path)
    with pytest.raises(AmbiguousError, match="--constant speaker"):
        adopt(stranger.path, tmp_path / "out.onnx")
    found = adopt(stranger.path, tmp_path / "out.onnx", told(stranger))
    [constant] = [state for state in found.spec.states if state.role == pb.STATE_ROLE_CONSTANT]
    assert (constant.input, list(constant.shape), constant.required) == ("speaker", [3], True)
    assert "set by every session" in text.state(constant)


def test_an_embedding_per_step_is_an_input(tmp_path: Path) -> None:
    stranger = ADOPTED["embedding"](tmp_path)
    found = adopt(stranger.path, tmp_path / "out.onnx", Options(time={"speaker": None}))
    assert {i.name: list(i.shape) for i in found.spec.inputs} == {"x": [4], "speaker": [3]}
    assert operators(tmp_path / "out.onnx")["Scan"] == 1


def test_the_limit_of_an_id_is_the_size_of_what_it_indexes(tmp_path: Path) -> None:
    stranger = ADOPTED["tokens"](tmp_path)
    found = adopt(stranger.path, tmp_path / "out.onnx", told(stranger))
    [column] = found.spec.inputs
    assert (column.dtype, list(column.shape)) == (pb.DATA_TYPE_INT64, [])
    assert column.limit > 1
    session = ort.InferenceSession(str(tmp_path / "out.onnx"))
    states = {s.input: np.zeros((1, *s.shape), np.float32) for s in found.spec.states}
    session.run(None, {column.name: np.full((1, 1), column.limit - 1), **states})
    with pytest.raises(Exception, match=r"out of data bounds|out of bounds|indices"):
        session.run(None, {column.name: np.full((1, 1), column.limit), **states})


def test_an_input_from_which_two_states_start_is_zeros_for_a_new_session(tmp_path: Path) -> None:
    # What torch writes where the example has one tensor for both: the other is read by nothing.
    g = Graph("one_start", "pytorch", opset=14)
    x, y = g.input("x", ["time", "batch", layers.F]), g.output("y", ["time", "batch", layers.H])
    g.input("h", [1, "batch", layers.H])
    c = g.input("c", [1, "batch", layers.H])
    g.lstm(x, layers.F, layers.H, c, c, out=["all", "", ""])
    g.node("Squeeze", "all", g.constant([1]), out=y)
    zeros = dict.fromkeys(("h", "c"), np.zeros((1, 1, layers.H), np.float32))
    stranger = Stranger(g.name, g.save(tmp_path), (Tensor(x, 1, 0),), (Tensor(y, 1, 0),), fixed=zeros)
    adopted = adopt(stranger.path, tmp_path / "ours.onnx")
    assert [state.role for state in adopted.spec.states] == [pb.STATE_ROLE_HIDDEN, pb.STATE_ROLE_CELL]
    found = {tensor.name: tensor.found for tensor in adopted.spec.source.tensors if tensor.role == "ignored"}
    assert found == {"h": "nothing reads it", "c": "what states start from"}
    assert max(differences(stranger, adopted.path).values()) < 1e-6


def test_a_new_session_starts_from_what_is_said(tmp_path: Path) -> None:
    path = lstm(tmp_path, batch_first=True, states_first=False)
    values = np.arange(H, dtype=np.float32).reshape(1, 1, H) / H
    found = adopt(path, tmp_path / "out.onnx", Options(initial={"h": np.array(0.25), "c": values}))
    layout = {state.name: state for state in Artifact.load(tmp_path / "out.onnx").layout.states}
    assert layout["h"].first().tolist() == [[0.25] * H]
    assert layout["c"].first() == pytest.approx(values[0])
    assert found.report.passed


def test_a_file_without_states_is_taken_only_when_asked(tmp_path: Path) -> None:
    with pytest.raises(StatelessError, match="--stateless"):
        adopt(REFUSED["no_state"](tmp_path).path, tmp_path / "out.onnx")
    stranger = REFUSED["no_state"](tmp_path)
    found = adopt(stranger.path, tmp_path / "out.onnx", Options(stateless=True))
    assert (list(found.spec.states), found.report.passed) == ([], True)
    assert max(differences(stranger, tmp_path / "out.onnx").values()) < 1e-6


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (Options(states={"nothing": "hn"}), "--state nothing: no input is called so; there are x, h, c"),
        (Options(states={"h": "nothing"}), "--state h=nothing: no output is called so"),
        (Options(time={"x": 7}), "'x' [batch, time, 4] has no axis 7"),
        (Options(time={"x": 2}), "one step of one session does not run"),
        (Options(batch={"x": 0, "h": 0}), "rows run together along these axes do not give what each gives alone"),
        (Options(initial={"y": np.array(1.0)}), "--initial y: no state is called so; there are h, c"),
        (Options(initial={"h": np.array(1e39)}), "--initial h: the state is float32, which has no such finite number"),
        (
            Options(initial={"c": np.array(np.nan)}),
            "--initial c: the state is float32, which has no such finite number",
        ),
        (Options(states={"x": "y"}), "no input of a step is left: 'x', 'h', 'c' are all states or constants"),
    ],
)
def test_a_flag_that_does_not_fit_is_an_error_that_says_what_there_is(
    options: Options, said: str, tmp_path: Path
) -> None:
    path = lstm(tmp_path, batch_first=True, states_first=False)
    with pytest.raises(AmbiguousError) as raised:
        adopt(path, tmp_path / "out.onnx", options)
    assert said in str(raised.value)


def test_an_output_that_is_there_stays_when_adopting_fails(tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    output.write_bytes(b"as it was")
    with pytest.raises(ArtifactError):
        adopt(REFUSED["padded_convolution"](tmp_path).path, output)
    assert output.read_bytes() == b"as it was"


# ---- What serving it anyway would have given ----------------------------------------------


def test_a_batch_along_time_would_mix_sessions(tmp_path: Path) -> None:
    """Rows of a file that has no batch axis are not put along the axis that looks like one."""
    stranger = ADOPTED["no_batch"](tmp_path)
    session = ort.InferenceSession(str(stranger.path))
    feed = {}
    for value in session.get_inputs():
        shape = [2 if isinstance(size, str) else size for size in value.shape]
        feed[value.name] = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    name = stranger.inputs[0].name
    together = session.run(None, feed)[0]
    alone = session.run(None, {**feed, name: feed[name][1:]})[0]
    assert np.abs(together[1:] - alone).max() > 0.01
    found = adopt(stranger.path, tmp_path / "out.onnx")
    assert found.spec.promises.rows_independent
    assert any("Scan over rows" in line for line in found.spec.source.rewritten)


# ---- What is printed ----------------------------------------------------------------------


def test_the_table_says_what_was_found_and_how(tmp_path: Path) -> None:
    stranger = ADOPTED["sample_rate"](tmp_path)
    found = adopt(stranger.path, tmp_path / "out.onnx", told(stranger))
    printed = "\n".join(lines(found.spec, found.report))
    for said in (
        "state -> stateN",
        "sessions axis 1",
        "of LSTM",
        "--constant sr=16000",
        "constants folded",
        "a Scan over time",
        "proved",
        "largest difference",
    ):
        assert said in printed, printed


def test_states_of_integers_and_bools_are_carried(tmp_path: Path) -> None:
    """A counter of steps, and whether anything was above zero yet."""
    g = Graph("counter")
    x = g.input("x", ["batch", 2])
    n, seen = g.input("n", ["batch", 1], TensorProto.INT64), g.input("seen", ["batch", 1], TensorProto.BOOL)
    y = g.output("y", ["batch", 1])
    n_next = g.output("n_next", ["batch", 1], TensorProto.INT64)
    seen_next = g.output("seen_next", ["batch", 1], TensorProto.BOOL)
    above = g.node("Greater", g.node("ReduceMax", x, axes=[1]), g.constant(1.0))
    g.node("Or", seen, above, out=seen_next)
    g.node("Add", n, g.constant(1), out=n_next)
    counted = g.node("Cast", n_next, to=TensorProto.FLOAT)
    g.node("Where", seen_next, counted, g.constant(-1.0), out=y)
    found = adopt(g.save(tmp_path), tmp_path / "out.onnx", Options(states={n: n_next, seen: seen_next}))
    assert {state.dtype for state in found.spec.states} == {pb.DATA_TYPE_INT64, pb.DATA_TYPE_BOOL}


def test_the_gates_of_a_strangers_operators_are_shown(tmp_path: Path) -> None:
    stranger = ADOPTED["lstm_exposed"](tmp_path)
    found = adopt(stranger.path, tmp_path / "out.onnx", Options(form="gates"))
    assert found.spec.form == pb.FORM_GATES
    assert [gate.name for gate in found.spec.gates] == ["input", "forget", "candidate", "output"]
    assert max(differences(stranger, tmp_path / "out.onnx").values()) < 1e-5
    plain = adopt(stranger.path, tmp_path / "plain.onnx")
    assert plain.spec.weights_fingerprint == found.spec.weights_fingerprint


def test_a_file_that_changes_while_it_is_adopted_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = lstm(tmp_path, batch_first=True, states_first=False)
    other = onnx.load(path)
    other.graph.initializer[0].CopyFrom(
        numpy_helper.from_array(numpy_helper.to_array(other.graph.initializer[0]) * 2, other.graph.initializer[0].name)
    )
    fold = reading.fold

    def replaced(*arguments: Any) -> None:  # somebody writes the file right after it was read
        fold(*arguments)
        onnx.save(other, path)

    monkeypatch.setattr(reading, "fold", replaced)
    with pytest.raises(SourceError, match="changed while it was adopted; adopt it again"):
        adopt(path, tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


def test_weights_beside_a_file_that_change_while_it_is_adopted_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = ADOPTED["external_data"](tmp_path)
    beside = {
        item.value
        for tensor in onnx.load(stranger.path, load_external_data=False).graph.initializer
        for item in tensor.external_data
        if item.key == "location"
    }
    [weights] = [stranger.path.parent / name for name in beside]
    fold = reading.fold

    def replaced(*arguments: Any) -> None:
        fold(*arguments)
        data = np.frombuffer(weights.read_bytes(), np.float32)
        weights.write_bytes((data * 2).tobytes())

    monkeypatch.setattr(reading, "fold", replaced)
    with pytest.raises(SourceError, match="changed while it was adopted; adopt it again"):
        adopt(stranger.path, tmp_path / "out.onnx", told(stranger))
    assert not (tmp_path / "out.onnx").exists()
