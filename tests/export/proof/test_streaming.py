"""The proof of any recurrent model, against files with one fault each. The reference is the equations in NumPy."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from gatestream.export.proof.needed import _exchanges
from gatestream.export.proof.report import Report, VerificationError
from gatestream.export.proof.streamed import Named
from gatestream.export.proof.streaming import Proof, prove
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.layout import State
from tests.support.artifacts import save

Array = NDArray[Any]
FEATURES, HIDDEN = 3, 4
F32 = TensorProto.FLOAT


class Cell:
    """h' = tanh(W x + R h + v) and a filter m' = 0.5 m + h', whose sum comes out; v is a constant of the session."""

    def __init__(self) -> None:
        rng = np.random.default_rng(3)
        self.W, self.R = rng.normal(size=(HIDDEN, FEATURES)) * 0.5, rng.normal(size=(HIDDEN, HIDDEN)) * 0.3

    name = "numpy"

    def whole(self, inputs: Named, constants: Named) -> Named:
        x = inputs["x"].astype(np.float64)
        h = m = np.zeros((len(x), HIDDEN))
        steps = []
        for t in range(x.shape[1]):
            h = np.tanh(x[:, t] @ self.W.T + h @ self.R.T + constants["v"])
            m = 0.5 * m + h
            steps.append(h + m)
        return {"y": np.stack(steps, axis=1)}

    def step(self, inputs: Named, states: Named) -> tuple[Named, Named]:
        x, h, m, v = (each.astype(np.float64) for each in (inputs["x"][:, 0], *(states[k] for k in "hmv")))
        h = np.tanh(x @ self.W.T + h @ self.R.T + v)
        m = 0.5 * m + h
        return {"y": (h + m)[:, None]}, {"h": h, "m": m, "v": v}


Change = Callable[[list[onnx.NodeProto], pb.ModelSpec], None]


def _file(path: Path, cell: Cell, change: Change | None = None) -> Path:
    """The cell as a Scan over time, with `length`; `change` has the nodes of its body, and the spec."""
    body_nodes = [
        helper.make_node("MatMul", ["x_t", "W"], ["wx"]),
        helper.make_node("MatMul", ["h_in", "R"], ["rh"]),
        helper.make_node("Add", ["wx", "rh"], ["sum"]),
        helper.make_node("Add", ["sum", "v"], ["pre"]),
        helper.make_node("Tanh", ["pre"], ["h_new"]),
        helper.make_node("Mul", ["m_in", "half"], ["decayed"]),
        helper.make_node("Add", ["decayed", "h_new"], ["m_new"]),
        helper.make_node("Add", ["h_new", "m_new"], ["y_t"]),
        helper.make_node("Less", ["t", "length"], ["goes"]),
        helper.make_node("Unsqueeze", ["goes", "last"], ["on"]),
        helper.make_node("Where", ["on", "h_new", "h_in"], ["h_out"]),
        helper.make_node("Where", ["on", "m_new", "m_in"], ["m_out"]),
        helper.make_node("Add", ["t", "one"], ["t_next"]),
    ]
    spec = pb.ModelSpec(
        contract=2,
        name="cell",
        version="1",
        inputs=[pb.TensorSpec(name="x", dtype=pb.DATA_TYPE_FLOAT32, shape=[FEATURES])],
        length_input="length",
        outputs=[pb.TensorSpec(name="y", dtype=pb.DATA_TYPE_FLOAT32, shape=[HIDDEN])],
        states=[
            pb.StateSpec(input=k, output=f"{k}_next", dtype=pb.DATA_TYPE_FLOAT32, shape=[HIDDEN], role=role)
            for k, role in zip(
                "hmv", (pb.STATE_ROLE_HIDDEN, pb.STATE_ROLE_UNSPECIFIED, pb.STATE_ROLE_CONSTANT), strict=True
            )
        ],
        opset=20,
    )
    if change is not None:
        change(body_nodes, spec)

    def info(name: str, *shape: int | str, dtype: int = F32) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, dtype, shape)

    body = helper.make_graph(
        body_nodes,
        "body",
        [
            info("t", dtype=TensorProto.INT32),
            *(info(f"{k}_in", "batch", HIDDEN) for k in "hm"),
            info("x_t", "batch", FEATURES),
        ],
        [
            info("t_next", dtype=TensorProto.INT32),
            *(info(f"{k}_out", "batch", HIDDEN) for k in "hm"),
            info("y_t", "batch", HIDDEN),
        ],
    )
    graph = helper.make_graph(
        [
            helper.make_node(
                "Scan",
                ["zero", "h", "m", "x"],
                ["_", "h_next", "m_next", "y"],
                body=body,
                num_scan_inputs=1,
                scan_input_axes=[1],
                scan_output_axes=[1],
            ),
            helper.make_node("Identity", ["v"], ["v_next"]),
        ],
        "cell",
        [
            info("x", "batch", "time", FEATURES),
            info("length", "batch", dtype=TensorProto.INT32),
            *(info(k, "batch", HIDDEN) for k in "hmv"),
        ],
        [info("y", "batch", "time", HIDDEN), *(info(f"{k}_next", "batch", HIDDEN) for k in "hmv")],
        [
            numpy_helper.from_array(np.asarray(value), key)
            for key, value in {
                "W": cell.W.T.astype(np.float32),
                "R": cell.R.T.astype(np.float32),
                "half": np.float32(0.5),
                "zero": np.int32(0),
                "one": np.int32(1),
                "last": np.array([1], np.int64),
            }.items()
        ],
    )
    return save(path, graph, spec)


def _prove(tmp_path: Path, change: Change | None = None, cell: Cell | None = None) -> Proof:
    return prove(_file(tmp_path / "m.onnx", cell or Cell(), change), cell or Cell())


def test_a_right_file_is_proved(tmp_path: Path) -> None:
    proof = _prove(tmp_path)
    proof.report.raise_for_failure()
    assert proof.rows_independent
    assert proof.replay_bit_equal
    cases = {(figure.reference, figure.case) for figure in proof.report.figures}
    assert cases == {
        ("numpy", "singly"),
        ("numpy", "each step"),
        ("steps", "in chunks"),
        ("alone", "rows together"),
        ("alone", "rows of unlike length"),
    }
    assert max(figure.max_abs_difference for figure in proof.report.figures) < 1e-5
    assert {figure.tensor for figure in proof.report.figures} == {"y", "h", "m", "v"}


def _node(nodes: list[onnx.NodeProto], output: str) -> onnx.NodeProto:
    return next(node for node in nodes if node.output[0] == output)


def _mixes_rows(nodes: list[onnx.NodeProto], _: pb.ModelSpec) -> None:
    _node(nodes, "y_t").output[0] = "y_own"
    nodes.append(helper.make_node("ReduceMean", ["m_new", "batch_axis"], ["mean"], keepdims=1))
    nodes.insert(0, helper.make_node("Constant", [], ["batch_axis"], value_ints=[0]))
    nodes.append(helper.make_node("Add", ["y_own", "mean"], ["y_t"]))


def _ignores_length(nodes: list[onnx.NodeProto], _: pb.ModelSpec) -> None:
    node = _node(nodes, "m_out")
    node.CopyFrom(helper.make_node("Identity", ["m_new"], ["m_out"]))


def _other_equation(nodes: list[onnx.NodeProto], _: pb.ModelSpec) -> None:
    _node(nodes, "h_new").op_type = "Softsign"


def _swapped(_: list[onnx.NodeProto], spec: pb.ModelSpec) -> None:
    spec.states[0].output, spec.states[1].output = spec.states[1].output, spec.states[0].output


def _dead_state(nodes: list[onnx.NodeProto], _: pb.ModelSpec) -> None:
    # It is carried, and nothing but itself is made of it.
    _node(nodes, "y_t").CopyFrom(helper.make_node("Add", ["h_new", "h_new"], ["y_t"]))


def _counts_steps_of_a_run(nodes: list[onnx.NodeProto], _: pb.ModelSpec) -> None:
    """What is carried within a run and lost between two, as what pads inside a graph is."""
    _node(nodes, "y_t").output[0] = "y_own"
    nodes.append(helper.make_node("Cast", ["t"], ["t_float"], to=F32))
    nodes.append(helper.make_node("Add", ["y_own", "t_float"], ["y_t"]))


def _dead_constant(nodes: list[onnx.NodeProto], _: pb.ModelSpec) -> None:
    _node(nodes, "pre").CopyFrom(helper.make_node("Identity", ["sum"], ["pre"]))


def _divides_by_zero(nodes: list[onnx.NodeProto], _: pb.ModelSpec) -> None:
    _node(nodes, "y_t").CopyFrom(helper.make_node("Log", ["h_new"], ["y_t"]))


def _wrong_start(_: list[onnx.NodeProto], spec: pb.ModelSpec) -> None:
    spec.states[1].initial = 0.25


@pytest.mark.parametrize(
    ("change", "check", "says"),
    [
        (_mixes_rows, "rows together", "y differs from alone"),
        (_ignores_length, "rows of unlike length", "m differs from alone"),
        (_other_equation, "carried steps", "differs from numpy (singly), first at step 0"),
        (_swapped, "carried steps", "y differs from numpy (singly), first at step 2"),
        (_counts_steps_of_a_run, "chunks", "y differs from steps (in chunks)"),
        (_divides_by_zero, "replay", "'y' is not a number from step 0 on"),
        (_wrong_start, "carried steps", "y differs from numpy (singly), first at step 0"),
    ],
)
def test_a_fault_is_found_by_the_check_that_is_for_it(tmp_path: Path, change: Change, check: str, says: str) -> None:
    report = _prove(tmp_path, change).report
    assert not report.passed
    assert (report.checks[-1].name, [c.name for c in report.checks if not c.passed]) == (check, [check])
    assert says in report.checks[-1].detail
    with pytest.raises(VerificationError, match=check):
        report.raise_for_failure()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_dead_state, "state 'm': losing it after every step changes no output"),
        (_dead_constant, "constant 'v': another"),
    ],
)
def test_what_changes_nothing_is_no_state(tmp_path: Path, change: Change, says: str) -> None:
    report: Report = prove(_file(tmp_path / "m.onnx", Cell(), change)).report
    assert report.checks[-1].name == "states"
    assert says in report.checks[-1].detail


def test_states_that_cannot_be_told_apart_are_named(tmp_path: Path) -> None:
    def alike(nodes: list[onnx.NodeProto], _: pb.ModelSpec) -> None:
        # Both are the same filter of the same number, and only their sum is used.
        _node(nodes, "rh").CopyFrom(helper.make_node("MatMul", ["both", "R"], ["rh"]))
        nodes.insert(0, helper.make_node("Add", ["h_in", "m_in"], ["both"]))
        _node(nodes, "m_new").CopyFrom(helper.make_node("Identity", ["h_new"], ["m_new"]))

    report = prove(_file(tmp_path / "m.onnx", Cell(), alike)).report
    report.raise_for_failure()
    assert report.checks[-1].detail.endswith("'h' and 'm' cannot be told apart")


def test_a_file_that_was_changed_after_it_was_written_is_found(tmp_path: Path) -> None:
    path = _file(tmp_path / "m.onnx", Cell())
    model = onnx.load(path)
    model.graph.initializer[0].raw_data = bytes(len(model.graph.initializer[0].raw_data))
    onnx.save(model, path)
    report = prove(path, Cell()).report
    assert report.checks[-1].name == "contract"
    assert "its initializers hash to" in report.checks[-1].detail


def test_chaos_is_compared_for_as_long_as_there_is_something_to_compare(tmp_path: Path) -> None:
    cell = Cell()
    cell.R *= 5  # with inputs too small to hold it, its float32 runs part within some tens of steps
    cell.W *= 0.1
    proof = _prove(tmp_path, cell=cell)
    proof.report.raise_for_failure()
    steps = {figure.case: figure.steps for figure in proof.report.figures if figure.reference == "numpy"}
    assert steps["singly"] < 200 <= steps["each step"]


def test_many_states_are_exchanged_with_the_next_of_their_shape_only() -> None:
    states = [State(f"s{k}", np.dtype(np.float32), (2 + k % 2,)) for k in range(100)]
    pairs, left = _exchanges(states)
    assert sorted((a.name, b.name) for a, b in pairs) == sorted((f"s{k}", f"s{k + 2}") for k in range(98))
    assert left == 2 * (50 * 49 // 2) - 98
    few, none_left = _exchanges(states[:10])
    assert (len(few), none_left) == (20, 0)


def test_weights_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    cell = Cell()
    cell.R[1, 2] = np.nan
    check = prove(_file(tmp_path / "m.onnx", cell)).report.checks[-1]
    assert (check.name, check.passed) == ("replay", False)
    assert check.detail.endswith("of inputs that are; there is NaN in 'R'")
