"""Plain initializers: constants that stand in the file, and that no input overrides."""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

TRANSPOSED = ".T"
"""Ends the name of an initializer that is stored transposed: `head.weight.T` is [hidden, outputs]."""


def constant(value: ir.Value | None) -> NDArray[np.generic] | None:
    """What a plain initializer holds; None for everything else."""
    if value is None or not value.is_initializer() or value.is_graph_input() or value.const_value is None:
        return None
    return value.const_value.numpy()


def stored(value: ir.Value | None) -> ir.Value | None:
    """The plain initializer that holds a weight: `value` itself, or of float16 what is cast to make `value`."""
    node = value.producer() if value is not None else None
    if node is not None and is_widening(node):
        return node.inputs[0]
    return value if constant(value) is not None else None


def is_widening(node: ir.Node) -> bool:
    """Whether a node casts a float16 initializer to float32: onnxruntime does it once, when it loads the model."""
    array = constant(node.inputs[0]) if node.domain == "" and node.op_type == "Cast" else None
    return array is not None and array.dtype == np.float16 and node.attributes["to"].as_int() == ir.DataType.FLOAT


def integers(value: ir.Value | None) -> tuple[int, ...] | None:
    """A constant index or list of axes; None for everything else."""
    array = constant(value)
    if array is None or not np.issubdtype(array.dtype, np.integer):
        return None
    return tuple(int(number) for number in array.ravel())


def store(graph: ir.Graph, name: str, array: NDArray[np.generic]) -> ir.Value:
    """Add an initializer to the graph."""
    # NumPy makes a number that is contiguous a vector of one.
    tensor = ir.Tensor(np.ascontiguousarray(array).reshape(array.shape), name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value
