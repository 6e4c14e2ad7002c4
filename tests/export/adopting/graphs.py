"""Small files in the styles of others' exporters, written by hand."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[Any]
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
FLOAT = TensorProto.FLOAT


def tensor(name: str, shape: Sequence[str | int | None], dtype: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, list(shape))


def integers(name: str, *numbers: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(numbers, np.int64), name)


def weights(
    operator: str, inputs: int, hidden: int, seed: int = 0, prefix: str = "", directions: int = 1
) -> dict[str, Array]:
    """W, R and B, by the names that they get in a graph."""
    rng = np.random.default_rng(seed)
    gates = GATES[operator] * hidden

    def draw(*shape: int) -> Array:
        return rng.uniform(-0.6, 0.6, (directions, *shape)).astype(np.float32)

    return {
        f"{prefix}W": draw(gates, inputs),
        f"{prefix}R": draw(gates, hidden),
        f"{prefix}B": draw(2 * gates),
    }


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    constants: dict[str, Array] | None = None,
    opset: int = 17,
    ir_version: int = 8,
) -> onnx.ModelProto:
    initializers = [
        numpy_helper.from_array(np.ascontiguousarray(v).reshape(v.shape), k) for k, v in (constants or {}).items()
    ]
    graph = helper.make_graph(list(nodes), "graph", list(inputs), list(outputs), initializers)
    opsets = [helper.make_opsetid("", opset)]
    if any(node.domain == "com.microsoft" for node in nodes):
        opsets.append(helper.make_opsetid("com.microsoft", 1))
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)


def plain(operator: str = "LSTM", inputs: int = 3, hidden: int = 4, **attributes: Any) -> onnx.ModelProto:
    """X [time, batch, inputs] to Y [time, 1, batch, hidden], and no word of a state."""
    node = helper.make_node(operator, ["x", "W", "R", "B"], ["y"], name="rnn", hidden_size=hidden, **attributes)
    return model(
        [node],
        [tensor("x", ["time", "batch", inputs])],
        [tensor("y", ["time", 1, "batch", hidden])],
        weights(operator, inputs, hidden),
    )


def saved(proto: onnx.ModelProto, folder: Path, name: str = "theirs.onnx") -> Path:
    path = folder / name
    path.write_bytes(proto.SerializeToString())
    return path
