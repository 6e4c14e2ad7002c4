"""What the nodes of a graph carry from step to step: what each starts from, and what it ends as."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import onnx_ir as ir

from gatestream.export.graph.flow import integer
from gatestream.export.graph.initializers import constant
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb

RECURRENT: Final = frozenset({("", "LSTM"), ("", "GRU"), ("", "RNN"), ("com.microsoft", "DynamicQuantizeLSTM")})
"""Operators that have a state of their own, by domain and name."""

FLOATS: Final = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE, ir.DataType.BFLOAT16})

_HIDDEN = ("initial_h", 5, "Y_h", 1, "h", pb.STATE_ROLE_HIDDEN)
_CELL = ("initial_c", 6, "Y_c", 2, "c", pb.STATE_ROLE_CELL)


@dataclass(frozen=True, slots=True, eq=False)
class Slot:
    """One tensor that a node carries.

    Attributes:
        node: a recurrent operator, a Loop or a Scan.
        input: number of the node's input that it starts from.
        output: number of the node's output that it ends as; the node may have fewer.
        start: what errors call its start: "initial_h".
        end: what errors call its end: "Y_h".
        letter: names it in the model that is served: "h", "c", or after the body's tensor.
        role: what it is to the model.
    """

    node: ir.Node
    input: int
    output: int
    start: str
    end: str
    letter: str
    role: pb.StateRole

    @property
    def initial(self) -> ir.Value | None:
        """What it starts from; None: zeros, since the input is left out."""
        return self.node.inputs[self.input] if self.input < len(self.node.inputs) else None

    @property
    def final(self) -> ir.Value | None:
        """What is left of it; None: the output is left out."""
        return self.node.outputs[self.output] if self.output < len(self.node.outputs) else None

    def __str__(self) -> str:
        return f"{self.start} of {describe(self.node)}"


def slots(model: ir.Model) -> list[Slot]:
    """All that the nodes of the main graph carry, in the order of the nodes.

    Of a Loop or Scan these are the floating-point tensors that change: not the counter, not the condition, not weights
    that pass through, and not an output that is written into step by step.
    """
    return [slot for node in model.graph for slot in slots_of(node)]


def is_recurrent(node: ir.Node) -> bool:
    """Whether it is an operator with a state of its own."""
    return (node.domain, node.op_type) in RECURRENT


def is_forward(node: ir.Node) -> bool:
    """Whether a recurrent operator goes through time in one direction, the one in which it passes."""
    attribute = node.attributes.get("direction")
    return attribute is None or attribute.as_string() == "forward"


def describe(node: ir.Node) -> str:
    """How an error calls a node."""
    return f"{node.op_type} '{node.name}'"


def slots_of(node: ir.Node) -> Iterator[Slot]:
    """What one node carries; most carry nothing."""
    if is_recurrent(node):
        for kind in (_HIDDEN, _CELL) if node.op_type.endswith("LSTM") else (_HIDDEN,):
            start, k, end, output, letter, role = kind
            yield Slot(node, k, output, start, end, letter, role)
    elif node.domain == "" and node.op_type == "Scan":
        carried = len(node.inputs) - integer(node, "num_scan_inputs", 0)
        yield from _in_body(node, 0, 0, carried)
    elif node.domain == "" and node.op_type == "Loop" and not is_fixed(node, counting=False):
        yield from _in_body(node, 2, 1, len(node.inputs) - 2)


def is_fixed(loop: ir.Node, counting: bool) -> bool:
    """Whether a Loop runs a number of times that stands in the file.

    Args:
        loop: a Loop.
        counting: even if it goes through something by the number of the round, or gives something in each: then it is
            one over the steps of an example, else it does something again and again within a step.
    """
    body = loop.attributes["body"].as_graph()
    if constant(loop.inputs[0]) is None or not _passes(body.inputs[1], body.outputs[0]):
        return False
    counts = body.inputs[0].uses() or len(body.outputs) > len(loop.inputs) - 1
    return counting or not counts


def _in_body(node: ir.Node, before: int, conditions: int, count: int) -> Iterator[Slot]:
    """The tensors that a body carries and changes.

    Args:
        node: a Loop or Scan.
        before: so many inputs of node and body come before what is carried.
        conditions: so many outputs of the body do.
        count: how many are carried.
    """
    body = node.attributes["body"].as_graph()
    for k in range(count):
        start, end = body.inputs[before + k], body.outputs[conditions + k]
        outside = node.inputs[before + k]
        types = [value.type for value in (start, outside, end) if value is not None and value.type is not None]
        # A list of outputs is a sequence, and no tensor.
        is_float = bool(types) and all(isinstance(kind, ir.TensorType) and kind.dtype in FLOATS for kind in types)
        if is_float and not _passes(start, end) and not _is_written_into(start, end):
            name = start.name or f"state_{k}"
            yield Slot(node, before + k, k, f"start of '{name}'", f"end of '{name}'", name, pb.STATE_ROLE_UNSPECIFIED)


def _passes(start: ir.Value, end: ir.Value) -> bool:
    """Whether the body hands on what it was handed."""
    value: ir.Value | None = end
    while value is not None and value is not start:
        node = value.producer()
        value = node.inputs[0] if node is not None and node.domain == "" and node.op_type == "Identity" else None
    return value is start


def _is_written_into(start: ir.Value, end: ir.Value) -> bool:
    """Whether the body adds its own output to what it was handed: a list of outputs, and no state."""
    node = end.producer()
    kinds = ("Concat", "ScatterND", "ScatterElements", "Scatter")
    return node is not None and node.domain == "" and node.op_type in kinds and start in node.inputs
