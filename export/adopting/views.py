"""Operators that only move numbers: whatever comes out of one went into it, in another order or shape."""

from typing import Final

import onnx_ir as ir

from gatestream.export.adopting.slots import FLOATS

_FIRST: Final = frozenset(
    {"Transpose", "Squeeze", "Unsqueeze", "Reshape", "Flatten", "Slice", "Split", "Gather", "Identity"}
)
"""Those that move their first input, and are told by the others where to."""


def moved(value: ir.Value) -> tuple[ir.Value, ...]:
    """What is moved to make a value; empty: it is made, or given, or constant."""
    node = value.producer()
    if node is None or node.domain != "":
        return ()
    if node.op_type in _FIRST or (node.op_type == "Cast" and _keeps_numbers(node)):
        data = node.inputs[0]
        return () if data is None else (data,)
    if node.op_type == "Concat":
        return tuple(item for item in node.inputs if item is not None)
    return ()


def roots(value: ir.Value) -> list[ir.Value]:
    """The tensors that a value is put together from, each once, in the order in which they are met."""
    found: dict[ir.Value, None] = {}
    seen: set[ir.Value] = set()
    waiting = [value]
    while waiting:
        current = waiting.pop()
        if current in seen:
            continue
        seen.add(current)
        below = moved(current)
        waiting += reversed(below)
        if not below:
            found[current] = None
    return list(found)


def _keeps_numbers(cast: ir.Node) -> bool:
    """From one floating-point type to another."""
    source = cast.inputs[0]
    return cast.attributes["to"].as_int() in FLOATS and source is not None and source.dtype in FLOATS
