"""A Scan that computes one cell and nothing else: what an operator over the whole input would do too."""

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from gatestream.export.errors import StructureError
from gatestream.export.finder.cells import FoundCell
from gatestream.export.finder.scopes import Scopes, strip
from gatestream.export.graph.flow import integer, label, made_by, operands

_DIRECTIONS = ("scan_input_directions", "scan_output_directions")


@dataclass(frozen=True, slots=True)
class Loop:
    """The Scan, from outside.

    Attributes:
        scan: the node.
        x: what it goes over.
        axis: of `x`, that it goes over.
        states: of h, and of an LSTM c: what it starts from, and what is left of it.
        ys: what collects h of every step, with the axis of time.
        length: how many steps of each row are real; None: all are.
    """

    scan: ir.Node
    x: ir.Value
    axis: int
    states: tuple[tuple[ir.Value, ir.Value], ...]
    ys: tuple[tuple[ir.Value, int], ...]
    length: ir.Value | None


def read(scopes: Scopes, cell: FoundCell) -> Loop:
    """The Scan in whose body a cell stands.

    Raises:
        StructureError: the cell is in no Scan, or that does something else besides: the message says what.
    """
    scan, body = cell.holder, cell.graph
    if scan is None or scan.op_type != "Scan" or cell.h is None:
        raise StructureError(f"cell '{cell.name}' stands in no Scan")
    called = f"Scan '{scan.name}'"
    if integer(scan, "num_scan_inputs", 0) != 1 or cell.x is not body.inputs[-1]:
        raise StructureError(f"{called} gives cell '{cell.name}' {label(cell.x)}; expected what it goes over")
    if any(any(scan.attributes[key].as_ints()) for key in _DIRECTIONS if key in scan.attributes):
        raise StructureError(f"{called} goes backwards")
    count = len(body.inputs) - 1
    before = [cell.h] if cell.c is None else [cell.h, cell.c]
    after = [value for value in (cell.h_next, cell.c_next) if value is not None]
    states, lengths, places = [], [], []
    for old, new in zip(before, after, strict=True):
        place = next((k for k, value in enumerate(body.inputs[:count]) if value is old), None)
        if place is None:
            raise StructureError(f"{label(old)}, from which cell '{cell.name}' goes on, is not carried by {called}")
        lengths.append(_frozen(scopes, body.outputs[place], old, new))
        states.append((operands(scan)[place], scan.outputs[place]))
        places.append(place)
    length = lengths[0]
    if any(each is not length for each in lengths):
        raise StructureError(f"{called} ends rows by unlike lengths: {', '.join(map(label, lengths))}")
    gates = {gate.activation for gate in cell.gates.values()}
    axes = _axes(scan, "scan_output_axes", len(body.outputs) - count)
    ys = []
    for inside, outside, axis in zip(body.outputs[count:], scan.outputs[count:], axes, strict=True):
        if _used(outside) and strip(inside, "Identity") not in gates:
            _check_y(scopes, inside, after[0], length)
            ys.append((outside, axis))
    for k in range(count):
        if k not in places and _used(scan.outputs[k]):
            raise StructureError(f"{called} puts out {label(body.outputs[k])}, which is no state of cell '{cell.name}'")
    started = tuple((_started(scopes, initial, length), final) for initial, final in states)
    return Loop(scan, operands(scan)[-1], _axes(scan, "scan_input_axes", 1)[0], started, tuple(ys), length)


def _axes(scan: ir.Node, name: str, count: int) -> Sequence[int]:
    return scan.attributes[name].as_ints() if name in scan.attributes else [0] * count


def _used(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()


def _frozen(scopes: Scopes, out: ir.Value, old: ir.Value, new: ir.Value) -> ir.Value | None:
    """The lengths from which on a state stays as it is; None: it goes on."""
    out = strip(out, "Identity")
    if out is new:
        return None
    where = made_by(out, "Where")
    if where is None or where.inputs[1] is not new or where.inputs[2] is not old:
        raise StructureError(
            f"{label(out)} is carried as the next '{old.name}'; expected '{new.name}', or Where(t < length, "
            f"'{new.name}', '{old.name}')"
        )
    return _length(scopes, operands(where)[0])


def _length(scopes: Scopes, live: ir.Value) -> ir.Value:
    """Of `t < length`, with t the number of the step."""
    column = made_by(live, "Unsqueeze")
    axes = scopes.known(column.inputs[1]) if column is not None else None
    less = made_by(column.inputs[0], "Less") if column is not None else None
    if less is None or axes is None or axes.array.tolist() not in ([1], [-1]):
        raise StructureError(f"{label(live)} says which rows go on; expected t < length, [batch, 1]")
    t, length = operands(less)
    after = scopes.after(t)
    counted = made_by(after, "Add")
    step = scopes.known(counted.inputs[1]) if counted is not None and counted.inputs[0] is t else None
    start = scopes.known(scopes.initial(t))
    if any(each is None or each.array.size != 1 for each in (step, start)) or scopes.after(length) is not None:
        raise StructureError(f"{label(less.outputs[0])} compares {label(t)} with {label(length)}; expected t < length")
    assert step is not None  # as was just seen
    assert start is not None
    if (start.array.ravel()[0], step.array.ravel()[0]) != (0, 1):
        raise StructureError(f"{label(t)} does not count the steps from 0: expected '{t.name}' + 1, and 0 at first")
    return length


def _started(scopes: Scopes, initial: ir.Value, length: ir.Value | None) -> ir.Value:
    """What a state starts from, without what zeroes it in rows of no step: an operator does that itself."""
    where = made_by(initial, "Where")
    if length is None or where is None:
        return initial
    some, value, otherwise = operands(where)
    greater = made_by(strip(some, "Unsqueeze"), "Greater")
    zero = scopes.known(otherwise)
    undone = greater is not None and greater.inputs[0] is length and zero is not None and not zero.array.any()
    return value if undone else initial


def _check_y(scopes: Scopes, inside: ir.Value, h_next: ir.Value, length: ir.Value | None) -> None:
    """What is collected of each step is h, or zero in rows that have ended."""
    inside = strip(inside, "Identity")
    if inside is h_next:
        return
    where = made_by(inside, "Where")
    parts = operands(where) if where is not None else ()
    zero = scopes.known(parts[2]) if len(parts) == 3 else None
    if zero is None or zero.array.any() or parts[1] is not h_next or _length(scopes, parts[0]) is not length:
        raise StructureError(
            f"{label(inside)} is collected of each step; expected '{h_next.name}', or 0 where the row has ended"
        )
