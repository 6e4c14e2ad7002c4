"""Where the states of a cell come from and go to, outside all Scans."""

from collections.abc import Callable, Iterator

import onnx_ir as ir

from gatestream.export.finder.scopes import Scopes
from gatestream.export.graph.flow import operands

_REARRANGING = (
    "Identity",
    "Squeeze",
    "Unsqueeze",
    "Transpose",
    "Reshape",
    "Cast",
    "Slice",
    "Split",
    "Gather",
    "Concat",
)


def beginnings(scopes: Scopes, value: ir.Value) -> set[ir.Value]:
    """The tensors that a state starts from: those that are only taken apart, put together and handed into bodies.

    Where rows of no step are zeroed (`Where`), what the others start from.
    """
    return set(_back(scopes, value, scopes.initial))


def endings(scopes: Scopes, value: ir.Value) -> set[ir.Value]:
    """The tensors, inside all bodies, that an output is put together from."""
    return set(_back(scopes, value, scopes.inside))


def _back(scopes: Scopes, value: ir.Value, hop: Callable[[ir.Value], ir.Value | None]) -> Iterator[ir.Value]:
    waiting = [value]
    seen: set[ir.Value] = set()
    while waiting:
        current = scopes.resolve(waiting.pop())
        if current in seen:
            continue
        seen.add(current)
        further = hop(current)
        node = current.producer()
        if further is not None:
            waiting.append(further)
        elif node is not None and node.domain == "" and node.op_type in _REARRANGING:
            waiting += operands(node)
        elif node is not None and node.domain == "" and node.op_type == "Where" and len(operands(node)) == 3:
            waiting.append(operands(node)[1])
        elif scopes.known(current) is None:
            yield current
