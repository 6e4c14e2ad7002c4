"""Changes to an artifact after which a row's numbers depend on the rows beside it, as some models in the world do."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.support.artifacts import POISON


def quantise(path: Path) -> Path:
    """Have it quantise its input as it runs, by the range that all rows and steps of the run have together."""
    numbers = ["x_quantised", "x_scale", "x_zero"]
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], numbers),
        helper.make_node("DequantizeLinear", numbers, ["x_restored"]),
    ]
    return _before_all(path, nodes, "x_restored")


def unpack(path: Path) -> Path:
    """Have its weights be inputs with a default, as old exporters wrote them.

    onnxruntime cannot lay them out beforehand, and then has a kernel of its own for a run of one row.
    """
    model = onnx.load(path)
    for item in model.graph.initializer:
        if item.name[0] in "WRb":
            model.graph.input.append(helper.make_tensor_value_info(item.name, item.data_type, item.dims))
    onnx.save(model, path)
    return path


def embrittle(path: Path) -> Path:
    """Have every run fail in which any row has an input of POISON or more."""
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["largest"], keepdims=0),
        helper.make_node("GreaterOrEqual", ["largest", "poison"], ["poisoned"]),
        helper.make_node("Cast", ["poisoned"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "index"], ["nothing"]),
        helper.make_node("Add", ["x", "nothing"], ["x_safe"]),
    ]
    tables = {"poison": np.array(POISON, np.float32), "table": np.zeros(1, np.float32)}
    return _before_all(path, nodes, "x_safe", tables)


def randomise(path: Path) -> Path:
    """Have it add noise of its own to its input."""
    nodes = [
        helper.make_node("RandomNormalLike", ["x"], ["noise"]),
        helper.make_node("Add", ["x", "noise"], ["x_noisy"]),
    ]
    return _before_all(path, nodes, "x_noisy")


def _before_all(
    path: Path, nodes: Sequence[onnx.NodeProto], result: str, tables: dict[str, np.ndarray] | None = None
) -> Path:
    """Put nodes between the input x and all that takes it."""
    model = onnx.load(path)
    for node in model.graph.node:
        node.input[:] = [result if name == "x" else name for name in node.input]
    behind = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *behind])
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in (tables or {}).items())
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path
