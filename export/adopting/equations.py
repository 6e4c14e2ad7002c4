"""States of cells that are written out as equations, and caches, told by what flows where.

Only what nothing else looks like: of an LSTM `c' = f c + i g` and `h' = o tanh(c')`, of a GRU `h' = (1 - z) n + z h`
or `h' = z (h - n) + n`, with f, i, o, z made by Sigmoid and g, n by Tanh; of a cache, that it is handed on next to
newer numbers in which it had no part. A mask by which an input is multiplied is none of these.
"""

from collections.abc import Callable, Collection

import onnx_ir as ir

from gatestream.export.adopting.states import Pair
from gatestream.export.adopting.views import moved, roots
from gatestream.export.graph.flow import made_by, operands
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb

Alike = Callable[[ir.Value, ir.Value], bool]


def written_out(model: ir.Model, left: Collection[str], alike: Alike) -> list[Pair]:
    """The states of such cells and caches.

    Args:
        model: the graph.
        left: inputs and outputs that are known to be something else.
        alike: whether two tensors can be of one shape.

    Returns:
        One for each input that has exactly one such output.
    """
    inputs = [value for value in model.graph.inputs if value.name not in left]
    outputs = [value for value in model.graph.outputs if value.name not in left]
    found: dict[ir.Value, list[Pair]] = {}
    for output in outputs:
        for pair in (*_lstm(output, inputs, outputs), *_gru(output, inputs), *_cache(output, inputs, alike)):
            if alike(pair.input, pair.output):
                found.setdefault(pair.input, []).append(pair)
    return [_one(pairs) for pairs in found.values() if len({_origin(pair.output) for pair in pairs}) == 1]


def _one(pairs: list[Pair]) -> Pair:
    """Outputs that are one tensor are equal: the last one is the state, as it comes behind the outputs."""
    return pairs[-1]


def _lstm(output: ir.Value, inputs: list[ir.Value], outputs: list[ir.Value]) -> list[Pair]:
    """Both states, if the output is the cell state's and another is the hidden one's."""
    c_next = _origin(output)
    carried = _carried(c_next, inputs)
    if carried is None:
        return []
    for other in outputs:
        factors = _factors(_origin(other))
        tanh = [value for value in factors if (node := made_by(value, "Tanh")) and _origin(node.inputs[0]) is c_next]
        if len(factors) != 2 or len(tanh) != 1 or not all(_is_gate(value) for value in factors if value not in tanh):
            continue
        own = [value for value in inputs if value is not carried and _is_stateful(value, carried)]
        behind = _behind(c_next)
        candidates = [value for value in own if value in behind]
        if len(candidates) != 1:
            return []
        said = f"of the LSTM whose equations make '{c_next.name}'"
        return [
            Pair(candidates[0], other, f"h {said}", role=pb.STATE_ROLE_HIDDEN),
            Pair(carried, output, f"c {said}", role=pb.STATE_ROLE_CELL),
        ]
    return []


def _gru(output: ir.Value, inputs: list[ir.Value]) -> list[Pair]:
    """The state, if the output is a mixture of it and a candidate."""
    h_next = _origin(output)
    node = made_by(h_next, "Add")
    if node is None:
        return []
    said = f"h of the GRU whose equations make '{h_next.name}'"
    for a, b in (operands(node), operands(node)[::-1]):
        h = _mixed(a, b, inputs) or _moved_towards(a, b, inputs)
        if h is not None:
            return [Pair(h, output, said, role=pb.STATE_ROLE_HIDDEN)]
    return []


def _mixed(a: ir.Value, b: ir.Value, inputs: list[ir.Value]) -> ir.Value | None:
    """h, where a is z h and b is (1 - z) n."""
    z, h = _gated(a, inputs)
    rest, n = _split(b, _is_candidate)
    sub = made_by(rest, "Sub")
    if z is None or n is None or sub is None or _origin(sub.inputs[1]) is not _origin(z):
        return None
    return h


def _moved_towards(a: ir.Value, n: ir.Value, inputs: list[ir.Value]) -> ir.Value | None:
    """h, where a is z (h - n)."""
    z, difference = _split(a, lambda value: made_by(value, "Sub") is not None)
    if z is None or difference is None or not _is_gate(z) or not _is_candidate(_origin(n)):
        return None
    sub = made_by(difference, "Sub")
    assert sub is not None  # as it was split by
    h, subtracted = map(_origin, sub.inputs)
    return h if h in inputs and subtracted is _origin(n) else None


def _cache(output: ir.Value, inputs: list[ir.Value], alike: Alike) -> list[Pair]:
    """The state, if the output is put together from it and from what does not depend on it."""
    parts = roots(output)
    own = [value for value in inputs if value in parts and alike(value, output)]
    exact = [value for value in own if _sizes(value) == _sizes(output)]
    own = exact if len(exact) == 1 else own
    others = [value for value in parts if value not in own]
    if len(own) != 1 or not others or any(own[0] in _behind(value) for value in others):
        return []
    if not any(value.is_graph_input() for other in others for value in _behind(other)):
        return []
    return [Pair(own[0], output, f"'{output.name}' is '{own[0].name}' with newer numbers behind it")]


def _carried(value: ir.Value, inputs: list[ir.Value]) -> ir.Value | None:
    """c, where a value is f c + i g."""
    node = made_by(value, "Add")
    if node is None:
        return None
    for a, b in (operands(node), operands(node)[::-1]):
        gate, c = _gated(a, inputs)
        other, g = _split(b, _is_candidate)
        if gate is not None and c is not None and g is not None and other is not None and _is_gate(other):
            return c
    return None


def _gated(value: ir.Value, inputs: list[ir.Value]) -> tuple[ir.Value | None, ir.Value | None]:
    """The gate and the input of the graph, where a value is one times the other."""
    gate, state = _split(value, lambda item: item in inputs)
    return (gate, state) if gate is not None and _is_gate(gate) else (None, None)


def _split(value: ir.Value, which: Callable[[ir.Value], bool]) -> tuple[ir.Value | None, ir.Value | None]:
    """The other factor and the one that is so, where a value is a product of two."""
    factors = _factors(_origin(value))
    for k, factor in enumerate(factors):
        if len(factors) == 2 and which(_origin(factor)):
            return factors[1 - k], _origin(factor)
    return None, None


def _factors(value: ir.Value) -> tuple[ir.Value, ...]:
    node = made_by(value, "Mul")
    return tuple(_origin(item) for item in operands(node)) if node is not None else ()


def _is_gate(value: ir.Value) -> bool:
    return made_by(_origin(value), "Sigmoid", "HardSigmoid") is not None


def _is_candidate(value: ir.Value) -> bool:
    return made_by(value, "Tanh") is not None


def _is_stateful(value: ir.Value, other: ir.Value) -> bool:
    """Whether a value can be the hidden state that goes with a cell state: of its shape."""
    return (
        value.dtype == other.dtype
        and (value.shape is None or other.shape is None or len(value.shape) == len(other.shape))
        and _last(value) == _last(other)
    )


def _sizes(value: ir.Value) -> list[int | None]:
    """Those that are fixed."""
    return [dim if isinstance(dim, int) else None for dim in value.shape or ()]


def _last(value: ir.Value) -> object:
    return value.shape[-1] if value.shape is not None and len(value.shape) else None


def _origin(value: ir.Value | None) -> ir.Value:
    """What a value was before it was moved, where it is one tensor."""
    assert value is not None  # no operator here has optional inputs in front
    while len(below := moved(value)) == 1:
        value = below[0]
    return value


def _behind(value: ir.Value) -> set[ir.Value]:
    """All that a value is made from, itself too."""
    found: set[ir.Value] = set()
    waiting = [value]
    while waiting:
        current = waiting.pop()
        if current not in found:
            found.add(current)
            node = current.producer()
            waiting += [item for item in node.inputs if item is not None] if node is not None else []
    return found
