"""Which inputs and outputs of a graph are states, told by what flows where: names say nothing here."""

from collections.abc import Collection

import onnx_ir as ir

from gatestream.export.adopting.equations import written_out
from gatestream.export.adopting.slots import Slot, describe, is_recurrent, slots
from gatestream.export.adopting.states import Pair
from gatestream.export.adopting.views import roots
from gatestream.export.errors import AmbiguousError
from gatestream.export.graph.flow import name_of
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb


def pairs(model: ir.Model, settled: Collection[str] = ()) -> list[Pair]:
    """The states that a graph shows: an input that nodes start from, and the output in which the same nodes end.

    What nodes start from is followed back to the graph's inputs, and the graph's outputs to what nodes end in, through
    operators that only move numbers. An input and an output belong together where they hold the same tensors of the
    same nodes: h of one layer, of all layers stacked, h and c packed. Cells that are written out as equations, and
    caches, are found where they can be nothing else.

    Args:
        model: at the contract's opset.
        settled: inputs and outputs that are left out, because somebody else has said what they are.

    Returns:
        In the order of the graph's inputs. States that nothing in the graph shows to be carried are not among them, nor
        are inputs without an output.

    Raises:
        AmbiguousError: one input has several outputs, and nothing tells which is its successor.
    """
    found = []
    for value, ways in candidates(model, settled).items():
        if len(ways) > 1:
            named = ", ".join(f"'{pair.output.name}'" for pair in ways)
            raise AmbiguousError(
                f"input '{value.name}' is where {ways[0].found} starts, and {named} all hold what becomes of it; "
                f"choose one with --state {value.name}={ways[0].output.name}"
            )
        found += ways
    order = {value: k for k, value in enumerate(model.graph.inputs)}
    return sorted(found, key=lambda pair: order[pair.input])


def candidates(model: ir.Model, settled: Collection[str] = ()) -> dict[ir.Value, list[Pair]]:
    """By input, every way to pair it that `pairs` can see: several where outputs hold the same tensors."""
    carried = slots(model)
    started = _started(model, carried)
    ended = _ended(model, carried)
    found: dict[ir.Value, list[Pair]] = {}
    for value in model.graph.inputs:
        held = started.get(value)
        if held is None or value.name in settled:
            continue
        for output in ended:
            if ended[output] == held and _alike(value, output) and output.name not in settled:
                found.setdefault(value, []).append(_pair(value, output, held))
    known = {name_of(value) for value in (*started, *ended)} | set(settled)
    return found | {pair.input: [pair] for pair in written_out(model, known, _alike)}


def starts_from(slot: Slot) -> list[ir.Value]:
    """The graph's inputs that a state starts from; empty unless it is put together from such inputs alone."""
    if slot.initial is None:
        return []
    found = roots(slot.initial)
    return found if all(value.is_graph_input() for value in found) else []


def holds(output: ir.Value, carried: Collection[Slot]) -> frozenset[Slot]:
    """Whose ends an output holds; empty unless it holds nothing else."""
    ends = {slot.final: slot for slot in carried if slot.final is not None}
    found = roots(output)
    return frozenset(ends[value] for value in found) if all(value in ends for value in found) else frozenset()


def _started(model: ir.Model, carried: list[Slot]) -> dict[ir.Value, frozenset[Slot]]:
    """By input of the graph, what starts from it."""
    found: dict[ir.Value, set[Slot]] = {}
    for slot in carried:
        for value in starts_from(slot):
            if value.graph is model.graph:
                found.setdefault(value, set()).add(slot)
    return {value: frozenset(held) for value, held in found.items()}


def _ended(model: ir.Model, carried: list[Slot]) -> dict[ir.Value, frozenset[Slot]]:
    """By output of the graph, what ends in it."""
    return {output: held for output in model.graph.outputs if (held := holds(output, carried))}


def _alike(a: ir.Value, b: ir.Value) -> bool:
    """Whether two tensors can be of one shape; unknown sizes fit any."""
    if a.shape is None or b.shape is None:
        return True
    if len(a.shape) != len(b.shape):
        return False
    return all(not (isinstance(m, int) and isinstance(n, int)) or m == n for m, n in zip(a.shape, b.shape, strict=True))


def _pair(value: ir.Value, output: ir.Value, held: frozenset[Slot]) -> Pair:
    roles = {slot.role for slot in held}
    nodes = {slot.node for slot in held}
    [role] = roles if len(roles) == 1 else [pb.STATE_ROLE_UNSPECIFIED]
    [node] = nodes if len(nodes) == 1 else [None]
    cell = node.name or "" if node is not None and is_recurrent(node) else ""
    plain = cell and any(slot.initial is value for slot in held)  # [1, batch, hidden]
    return Pair(value, output, _said(held), role=role, batch_axis=1 if plain else None, cell=cell)


def _said(held: Collection[Slot]) -> str:
    """What a state holds, in the order of the nodes: "initial_h of LSTM 'a' and GRU 'b'"."""
    ordered = sorted(held, key=lambda slot: (slot.start, slot.node.name or ""))
    by_start: dict[str, list[str]] = {}
    for slot in ordered:
        by_start.setdefault(slot.start, []).append(describe(slot.node))
    return ", ".join(f"{start} of {' and '.join(nodes)}" for start, nodes in by_start.items())
