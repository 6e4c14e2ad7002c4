"""What exporters leave to be computed in every run is gone, and what only looks like it stays."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from gatestream.export.adopting.adopt import adopt
from gatestream.export.adopting.lean import shorten_views
from gatestream.export.adopting.naming import shorten
from tests.export.adopting.exports import Exporter, Stack, WithStates, export
from tests.export.adopting.graphs import GATES, Array, model, tensor, weights

HIDDEN = 4
node = helper.make_node
SIZES = [(1, 1), (1, 4), (3, 1), (3, 5), (5, 3), (4, 4)]
"""Sessions and steps."""


def graph(
    nodes: list[onnx.NodeProto], rank: int, constants: dict[str, list[int]] | None = None, operator: str = "LSTM"
) -> ir.Model:
    """x [batch, time, 3] to `y` of so many axes, of these nodes; xs [time, batch, 3] and an operator's Y are there."""
    before = [
        node("Transpose", ["x"], ["xs"], perm=[1, 0, 2]),
        node(operator, ["xs", "W", "R", "B"], ["Y", "Y_h"], hidden_size=HIDDEN, name="rnn"),
    ]
    arrays: dict[str, Array] = {name: np.array(held, np.int64) for name, held in (constants or {}).items()}
    made = model(
        [*before, *nodes],
        [tensor("x", ["batch", "time", 3])],
        [tensor("y", [None] * rank)],
        {**weights(operator, 3, HIDDEN), **arrays},
        opset=20,
    )
    assert set(GATES) >= {operator}
    onnx.checker.check_model(made)
    return ir.from_proto(made)


def computed(changed: ir.Model, batch: int, time: int) -> Array:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(ir.to_proto(changed).SerializeToString(), options)
    x = np.random.default_rng(1).standard_normal((batch, time, 3)).astype(np.float32)
    found: Array = session.run(["y"], {"x": x})[0]
    return found


def operators(changed: ir.Model) -> list[str]:
    return [each.op_type for each in changed.graph]


def shortened(before: ir.Model, change: Callable[[ir.Model], None] = shorten_views, close: float = 0.0) -> list[str]:
    """The operators afterwards; the numbers are the same bits for every number of sessions and steps, or so close."""
    expected = [computed(before, *sizes) for sizes in SIZES]
    change(before)
    for sizes, numbers in zip(SIZES, expected, strict=True):
        found = computed(before, *sizes)
        assert found.shape == numbers.shape
        assert np.abs(found - numbers).max() <= close
    return operators(before)


def by_size(*order: str) -> list[onnx.NodeProto]:
    """Nodes that make `shape` of the sizes of `moved`, and Reshape `moved` to it."""
    pick = [node("Gather", ["sizes", f"at{k}"], [f"size{k}"]) for k in order]
    return [node("Shape", ["moved"], ["sizes"]), *pick, node("Concat", [f"size{k}" for k in order], ["shape"], axis=0)]


AT = {f"at{k}": [k] for k in range(4)}


def test_direction_dropped_by_a_computed_reshape() -> None:
    """As torch's exporter does it: Transpose, sizes sliced and multiplied, Reshape."""
    nodes = [
        node("Transpose", ["Y"], ["moved"], perm=[0, 2, 1, 3]),
        node("Shape", ["moved"], ["sizes"]),
        *(node("Slice", ["sizes", f"at{k}", f"to{k}"], [f"size{k}"]) for k in range(4)),
        node("Mul", ["size2", "size3"], ["product"]),
        node("Reshape", ["product", "all"], ["last"]),
        node("Concat", ["size0", "size1", "last"], ["shape"], axis=0),
        node("Reshape", ["moved", "shape"], ["hs"]),
        node("Transpose", ["hs"], ["y"], perm=[1, 0, 2]),
    ]
    constants = AT | {f"to{k}": [k + 1] for k in range(4)} | {"all": [-1]}
    assert shortened(graph(nodes, 3, constants)) == ["Transpose", "LSTM", "Squeeze", "Transpose"]


@pytest.mark.parametrize("target", [[0, 0, -1], [0, -1, HIDDEN]])
def test_direction_dropped_by_a_constant_reshape(target: list[int]) -> None:
    nodes = [node("Transpose", ["Y"], ["moved"], perm=[0, 2, 1, 3]), node("Reshape", ["moved", "shape"], ["y"])]
    assert shortened(graph(nodes, 3, {"shape": target}, "GRU")) == ["Transpose", "GRU", "Squeeze"]


def test_sizes_taken_elsewhere() -> None:
    """Of x, by scalar indices and Unsqueeze, as TorchScript writes `view`."""
    nodes = [
        node("Shape", ["x"], ["sizes"]),
        node("Gather", ["sizes", "first"], ["b"]),
        node("Gather", ["sizes", "second"], ["t"]),
        *(node("Unsqueeze", [name, "axis"], [f"{name}s"]) for name in "bt"),
        node("Concat", ["ts", "bs", "hidden"], ["shape"], axis=0),
        node("Reshape", ["Y", "shape"], ["y"]),
    ]
    before = graph(nodes, 3, {"first": 0, "second": 1, "axis": [0], "hidden": [HIDDEN]})  # type: ignore[dict-item]
    assert shortened(before) == ["Transpose", "LSTM", "Squeeze"]


def test_neighbours_cancel() -> None:
    nodes = [
        node("Squeeze", ["Y", "one"], ["a"]),
        node("Transpose", ["a"], ["b"], perm=[1, 0, 2]),
        node("Transpose", ["b"], ["c"], perm=[1, 0, 2]),
        node("Unsqueeze", ["c", "one"], ["d"]),
        node("Tanh", ["d"], ["y"]),
    ]
    assert shortened(graph(nodes, 4, {"one": [1]})) == ["Transpose", "LSTM", "Tanh"]


def test_edges_cancel() -> None:
    """Time first inside, and sessions first again before the operator, which wants time first."""
    made = model(
        [
            node("Transpose", ["x"], ["a"], perm=[1, 0, 2]),
            node("Transpose", ["a"], ["b"], perm=[1, 0, 2]),
            node("Transpose", ["b"], ["c"], perm=[1, 0, 2]),
            node("RNN", ["c", "W", "R", "B"], ["Y"], hidden_size=HIDDEN),
            node("Squeeze", ["Y", "one"], ["y"]),
        ],
        [tensor("x", ["batch", "time", 3])],
        [tensor("y", [None] * 3)],
        {**weights("RNN", 3, HIDDEN), "one": np.array([1])},
        opset=20,
    )
    assert shortened(ir.from_proto(made)) == ["Transpose", "RNN", "Squeeze"]


def test_what_two_read_is_made_once() -> None:
    nodes = [
        node("Transpose", ["Y"], ["moved"], perm=[0, 2, 1, 3]),
        *by_size("0", "1", "3"),
        node("Reshape", ["moved", "shape"], ["hs"]),
        node("Transpose", ["hs"], ["a"], perm=[1, 0, 2]),
        node("Transpose", ["hs"], ["b"], perm=[1, 0, 2]),
        node("Add", ["a", "b"], ["y"]),
    ]
    assert shortened(graph(nodes, 3, AT)) == ["Transpose", "LSTM", "Squeeze", "Transpose", "Add"]


def stays(nodes: list[onnx.NodeProto], rank: int, constants: dict[str, list[int]]) -> None:
    before = graph(nodes, rank, constants)
    expected = operators(before)
    assert shortened(before) == expected


def test_numbers_read_in_another_order_stay() -> None:
    """[time, 1, batch, hidden] as [batch, time, hidden] without a Transpose: what was of one row is of another."""
    nodes = [
        node("Transpose", ["Y"], ["moved"], perm=[0, 1, 2, 3]),
        *by_size("2", "0", "3"),
        node("Reshape", ["moved", "shape"], ["y"]),
    ]
    before = graph(nodes, 3, AT)
    assert "Reshape" in shortened(before)


def test_axes_put_together_stay() -> None:
    nodes = [
        node("Transpose", ["Y"], ["moved"], perm=[0, 2, 1, 3]),
        node("Reshape", ["moved", "shape"], ["y"]),
    ]
    stays(nodes, 2, {"shape": [-1, HIDDEN]})


def test_a_size_that_only_happens_to_fit_stays() -> None:
    """Ten numbers of time and hidden together: the example's sizes say nothing of others."""
    nodes = [
        node("Transpose", ["Y"], ["moved"], perm=[2, 0, 1, 3]),
        node("Reshape", ["moved", "shape"], ["y"]),
    ]
    stays(nodes, 3, {"shape": [0, -1, 2]})


def test_a_squeeze_of_an_axis_of_unknown_size_stays() -> None:
    """It fails where there are two sessions, and so it does afterwards."""
    nodes = [
        node("Transpose", ["Y"], ["moved"], perm=[2, 0, 1, 3]),
        node("Squeeze", ["moved", "zero"], ["a"]),
        node("Unsqueeze", ["a", "zero"], ["y"]),
    ]
    before = graph(nodes, 4, {"zero": [0]})
    expected = computed(before, 1, 3)
    shorten_views(before)
    assert "Squeeze" in operators(before)
    assert computed(before, 1, 3).tobytes() == expected.tobytes()
    with pytest.raises(Exception, match="Squeeze"):
        computed(before, 2, 3)


@pytest.mark.parametrize(("end", "left"), [(1, ["Squeeze", "Tanh"]), (2**62, ["Squeeze", "Tanh"])])
def test_a_slice_of_all_goes(end: int, left: list[str]) -> None:
    nodes = [
        node("Slice", ["Y", "zero", "end", "one"], ["a"]),
        node("Squeeze", ["a", "one"], ["b"]),
        node("Tanh", ["b"], ["y"]),
    ]
    assert shortened(graph(nodes, 3, {"zero": [0], "one": [1], "end": [end]})) == ["Transpose", "LSTM", *left]


@pytest.mark.parametrize(("axis", "end"), [(3, 2), (2, 1), (0, 2**62)])
def test_a_slice_of_what_may_be_more_stays(axis: int, end: int) -> None:
    """Half of hidden; one session of many; all steps, which nothing says are the ones that are there."""
    nodes = [node("Slice", ["Y", "zero", "end", "axis"], ["a"]), node("Squeeze", ["a", "one"], ["y"])]
    stays(nodes, 3, {"zero": [0], "one": [1], "end": [end], "axis": [axis]})


# ---- Whole files --------------------------------------------------------------------------

FUSED = ["Transpose", "Transpose", "Transpose", "LSTM", "Squeeze", "Transpose", "MatMul", "Add", "Transpose"]
"""Of one layer: x, h and c to time first, the operator, the axis of directions, sessions first, the head; h and c."""


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
@pytest.mark.parametrize("states", [False, True])
def test_one_layer_of_torch(exporter: Exporter, states: bool, tmp_path: Path) -> None:
    module = WithStates("LSTM") if states else Stack("LSTM")
    before, after = (["h", "c"], ["hn", "cn"]) if states else ([], [])
    rows: list[str | None] = [None, "batch", None]
    path = export(
        module,
        [torch.randn(2, 7, 3), *(torch.zeros(1, 2, 4) for _ in before)],
        tmp_path / "theirs.onnx",
        exporter=exporter,
        opset=18,
        names=(["x", *before], ["y", *after]),
        axes={"x": ["batch", "time", None], "y": ["batch", "time", None], **dict.fromkeys([*before, *after], rows)},
    )
    adopt(path, tmp_path / "ours.onnx")
    found = onnx.load(tmp_path / "ours.onnx")
    assert [each.op_type for each in found.graph.node] == [*FUSED, "Transpose"]
    shapes = sorted(list(each.dims) for each in found.graph.initializer if each.data_type == TensorProto.FLOAT)
    assert [shape for shape in shapes if shape[0] == 1] == [[1, 16, 3], [1, 16, 4], [1, 32]]


def test_cells_that_stood_in_branches() -> None:
    made = model(
        [node("Identity", ["x"], ["xs"], name="decoder.rnn_2")],
        [tensor("x", ["batch", "time", 3])],
        [tensor("y", [None] * 4)],
        weights("LSTM", 3, HIDDEN),
    )
    long = "If_0_If_0_then_branch__Inline_0__/decoder/If_1_If_0_then_branch__Inline_0__/decoder/rnn/LSTM"
    names = [long, f"{long}_1", "/encoder/rnn/LSTM", "If_0_else_branch__Inline_3__node_lstm"]
    below = ["x", "Y0", "Y1", "Y2"]
    del made.graph.node[:]
    for k, name in enumerate(names):
        made.graph.node.append(node("LSTM", [below[k], "W", "R"], [f"Y{k}"], name=name, hidden_size=HIDDEN))
    renamed = ir.from_proto(made)
    shorten(renamed)
    assert [each.name for each in renamed.graph] == ["decoder.rnn", "decoder.rnn_2", *names[2:]]
