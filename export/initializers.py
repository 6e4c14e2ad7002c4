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


def integers(value: ir.Value | None) -> tuple[int, ...] | None:
    """A constant index or list of axes; None for everything else."""
    array = constant(value)
    if array is None or not np.issubdtype(array.dtype, np.integer):
        return None
    return tuple(int(number) for number in array.ravel())


def store(graph: ir.Graph, name: str, array: NDArray[np.generic]) -> ir.Value:
    """Add an initializer to the graph."""
    tensor = ir.Tensor(np.ascontiguousarray(array), name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value
