"""What a Scan carries from step to step: states that freeze when their row has ended, and the step's number."""

from dataclasses import dataclass

import onnx_ir as ir

from gatestream.export.errors import StructureError
from gatestream.export.graph.flow import integer, label, made_by, operands
from gatestream.export.graph.initializers import constant, integers


@dataclass(frozen=True, slots=True)
class State:
    """One tensor that the Scan carries from step to step.

    Attributes:
        before: inside, at the start of a step.
        after: inside, what the step makes of it, whether or not the row is live.
        initial: outside, what it starts from.
        final: outside, what is left of it after the last step.
    """

    before: ir.Value
    after: ir.Value
    initial: ir.Value
    final: ir.Value


def read_states(scan: ir.Node, body: ir.Graph) -> tuple[list[State], ir.Value]:
    """Find the states, and the graph input that says how long each row is.

    Raises:
        StructureError: the Scan does not go over one input, time first; or a state goes on when its row has ended.
    """
    count = len(body.inputs) - integer(scan, "num_scan_inputs", 0)
    _check_axes(scan, count)
    counters = [k for k in range(count) if constant(scan.inputs[k]) is not None]
    if len(counters) != 1:
        raise StructureError(
            f"Scan '{scan.name}' carries {len(counters)} states that start from a constant; expected one, "
            "the step's number"
        )
    mask = _Mask.read(scan, body, counters[0])
    return [_state(scan, body, k, mask) for k in range(count) if k not in counters], mask.length


def _check_axes(scan: ir.Node, count: int) -> None:
    if len(scan.inputs) != count + 1:
        raise StructureError(f"Scan '{scan.name}' goes over {len(scan.inputs) - count} inputs, expected one")
    for name, attribute in scan.attributes.items():
        if name.startswith("scan_") and any(attribute.as_ints()):
            raise StructureError(
                f"Scan '{scan.name}' has {name} {list(attribute.as_ints())}; expected time first, forward"
            )


@dataclass(frozen=True, slots=True)
class _Mask:
    """`t < length`: which rows are live at step t."""

    t: ir.Value
    length: ir.Value

    @classmethod
    def read(cls, scan: ir.Node, body: ir.Graph, counter: int) -> "_Mask":
        t, t_next = body.inputs[counter], body.outputs[counter]
        add = made_by(t_next, "Add")
        if (
            integers(scan.inputs[counter]) != (0,)
            or add is None
            or add.inputs[0] is not t
            or integers(add.inputs[1]) != (1,)
        ):
            raise StructureError(f"{label(t_next)} does not count the steps from 0: expected '{t.name}' + 1")
        lengths = {
            other
            for value in [use.node for use in t.uses()]
            if value.op_type == "Less" and value.inputs[0] is t
            for other in [value.inputs[1]]
        }
        if len(lengths) != 1 or not (length := lengths.pop()) or not length.is_graph_input():
            raise StructureError(
                f"Scan '{scan.name}' does not compare its step number '{t.name}' with a graph input that "
                "says how long each row is: 'length' is ignored"
            )
        return cls(t, length)

    def freezes(self, condition: ir.Value) -> bool:
        unsqueeze = made_by(condition, "Unsqueeze")
        less = made_by(unsqueeze.inputs[0], "Less") if unsqueeze is not None else None
        return less is not None and tuple(less.inputs) == (self.t, self.length)


def _state(scan: ir.Node, body: ir.Graph, k: int, mask: _Mask) -> State:
    before, out = body.inputs[k], body.outputs[k]
    where = made_by(out, "Where")
    if where is None:
        raise StructureError(
            f"{label(out)}, the next '{before.name}', goes on when a row has ended: 'length' is ignored; "
            "expected Where(t < length, next, before)"
        )
    condition, after, otherwise = operands(where)
    if not mask.freezes(condition) or otherwise is not before:
        raise StructureError(
            f"{label(out)} is Where({label(condition)}, {label(after)}, {label(otherwise)}); expected "
            f"Where(t < '{mask.length.name}', next, '{before.name}')"
        )
    return State(before, after, operands(scan)[k], scan.outputs[k])
