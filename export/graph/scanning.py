"""A graph put into an ONNX Scan, over time or over whatever else its turns lie along."""

from collections.abc import Collection, Mapping, Sequence

import onnx_ir as ir

from gatestream.export.graph.flow import name_of
from gatestream.export.graph.names import Names

_TIME = 1


def scan(
    nodes: Sequence[ir.Node],
    states: Sequence[tuple[ir.Value, ir.Value]],
    inputs: Sequence[ir.Value],
    outputs: Sequence[ir.Value],
    *,
    turn: str,
    along: str,
    axis: int,
    names: Names,
) -> ir.Node:
    """Make nodes the body of a Scan, and give what the body takes and gives a counterpart outside.

    Args:
        nodes: in order, and in no graph.
        states: what is carried from turn to turn: as a turn takes it, and as it gives it.
        inputs: tensors of which each turn takes its own, none of them made by `nodes`.
        outputs: tensors of which each turn gives its own, each made by one of `nodes`, like those of `states`.
        turn: one round of it, "step": names the body, and begins the new names of the tensors it takes and gives.
        along: what the turns lie along, "time": names the Scan, and the axis where shapes are known.
        axis: where inputs and outputs have that axis outside.
        names: of the model.

    Returns:
        The Scan, as yet in no graph. Its inputs and outputs are the counterparts, states first: new tensors, which have
        the names that those inside had.
    """
    takes = [*(before for before, _ in states), *inputs]
    gives = [*(after for _, after in states), *outputs]
    outside = {
        value: _outside(value, along if k >= len(states) else None, axis)
        for values in (takes, gives)
        for k, value in enumerate(values)
    }
    for value in outside:
        value.name = names.fresh(f"{turn}.{value.name}")
    return ir.node(
        "Scan",
        [outside[value] for value in takes],
        {
            "body": ir.Graph(takes, gives, nodes=nodes, name=turn),
            "num_scan_inputs": len(inputs),
            "scan_input_axes": [axis] * len(inputs),
            "scan_output_axes": [axis] * len(outputs),
        },
        outputs=[outside[value] for value in gives],
        name=names.fresh(f"over_{along}"),
    )


def over_time(model: ir.Model, inputs: Collection[str], states: Mapping[str, str]) -> None:
    """Give a graph of one step a time axis, in place.

    What the graph takes and gives each step becomes [batch, time, *shape]; states stay [batch, *shape], those before
    the first step and those after the last. Initializers, and inputs that are neither (what is constant over a run),
    stay where they are, and the Scan's body reads them from outside.

    Args:
        model: inputs and outputs of a step, and states, all [batch, *shape].
        inputs: names of the graph's inputs of which each step has its own.
        states: by the name of a state's input, that of its output.

    Raises:
        ValueError: a name is none of the graph's inputs or outputs, or a state goes out as it came in, with no node
            between (put an Identity there).
    """
    graph = model.graph
    before = {name_of(value): value for value in graph.inputs}
    after = {name_of(value): value for value in graph.outputs}
    if unknown := ({*inputs, *states} - before.keys()) | ({*states.values()} - after.keys()):
        raise ValueError(f"{sorted(unknown)} are no inputs or outputs of the graph")
    if through := [name for name, value in after.items() if value.producer() is None]:
        raise ValueError(f"the outputs {through} are made by no node")
    names, nodes = Names(model), list(graph)
    graph.remove(nodes)
    graph.inputs.clear()
    graph.outputs.clear()
    node = scan(
        nodes,
        [(before[name], after[successor]) for name, successor in states.items()],
        [value for name, value in before.items() if name in inputs],
        [value for name, value in after.items() if name not in states.values()],
        turn="step",
        along="time",
        axis=_TIME,
        names=names,
    )
    graph.append(node)
    taken = before | {value.name: value for value in node.inputs if value is not None}
    given = {value.name: value for value in node.outputs}
    graph.inputs.extend(taken[name] for name in before)
    graph.outputs.extend(given[name] for name in after)


def _outside(value: ir.Value, along: str | None, axis: int) -> ir.Value:
    """What stands outside for a tensor of the body; `along`: the name of the axis that it has more."""
    shape = None
    if value.shape is not None:
        dims = list(value.shape.dims)
        if along is not None:
            dims.insert(axis, ir.SymbolicDim(along))
        shape = ir.Shape(dims)
    return ir.Value(name=value.name, shape=shape, type=value.type)
