"""Where a recurrence meets the rest of the graph: what its states start from, and what becomes of its last layer."""

from collections.abc import Collection, Sequence

import onnx_ir as ir

from gatestream.export.errors import StructureError
from gatestream.export.graph.flow import label, name_of, selected, sources


def state_input(kind: str, layers: Sequence[ir.Value]) -> str:
    """The graph input from which all layers take a state, each its own part.

    Args:
        kind: what to call the state in an error.
        layers: what each layer starts from, [batch, hidden].

    Raises:
        StructureError: there is no such input, or the layers take their parts in another order.
    """
    taken = [selected(value, axis=1) for value in layers]
    names = {name_of(value) for value, _ in taken if value.is_graph_input()}
    if len(names) != 1 or [index for _, index in taken] != list(range(len(taken))):
        found = ", ".join(f"{label(value)}[{index}]" for value, index in taken)
        raise StructureError(f"the layers' {kind} states start from {found}; expected one graph input, layer by layer")
    return names.pop()


def weights_below(value: ir.Value, recurrence: ir.Node) -> tuple[str, ...]:
    """The graph inputs and the weights that the first layer's input `value` is computed from."""
    return tuple(name_of(source) for source in sources(value, recurrence))


def weights_above(
    outputs: Sequence[ir.Value], known: Collection[str], recurrence: ir.Node, top: Collection[ir.Value]
) -> tuple[str, ...]:
    """The weights that the model's own output is computed from, besides the last layer's hidden states.

    Args:
        outputs: of the graph.
        known: names of those that are states or gates.
        recurrence: the last of the recurrent operations.
        top: its outputs with the last layer's hidden state at every step.

    Raises:
        StructureError: there is no output but states and gates, or it is computed from something else.
    """
    rest = [value for value in outputs if value.name not in known]
    if not rest:
        raise StructureError("every graph output is a state or a gate; expected one with what the model computes")
    found = sources(rest[0], recurrence)
    steps = [value for value in found if value.producer() is recurrence]
    if len(steps) != 1 or steps[0] not in top:
        raise StructureError(
            f"output '{rest[0].name}' is computed from {', '.join(map(label, steps)) or 'no state'}; expected the "
            "last layer's hidden state at every step"
        )
    return tuple(name_of(value) for value in found if value is not steps[0])
