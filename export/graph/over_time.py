"""A graph of one step put into an ONNX Scan over time."""

from collections.abc import Collection, Mapping

import onnx_ir as ir

from gatestream.export.graph.flow import name_of

_BATCH, _TIME = 0, 1


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
    by_name = {name_of(value): value for value in graph.inputs}
    after = {name_of(value): value for value in graph.outputs}
    if unknown := ({*inputs, *states} - by_name.keys()) | ({*states.values()} - after.keys()):
        raise ValueError(f"{sorted(unknown)} are no inputs or outputs of the graph")
    if through := [name for name, value in after.items() if value.producer() is None]:
        raise ValueError(f"the outputs {through} are made by no node")
    nodes = list(graph)
    carried = [by_name[name] for name in states]
    stepped = [value for name, value in by_name.items() if name in inputs]
    successors = [after[name] for name in states.values()]
    results = [value for name, value in after.items() if name not in states.values()]
    outer_inputs = {name_of(value): _outer(value, value in stepped) for value in (*carried, *stepped)}
    outer_outputs = {name_of(value): _outer(value, value in results) for value in (*successors, *results)}
    order_in = [outer_inputs.get(name_of(value), value) for value in graph.inputs]
    order_out = [outer_outputs[name_of(value)] for value in graph.outputs]
    graph.remove(nodes)
    graph.inputs.clear()
    graph.outputs.clear()
    for value in (*carried, *stepped, *successors, *results):
        value.name = f"step.{value.name}"
    body = ir.Graph([*carried, *stepped], [*successors, *results], nodes=nodes, name="step")
    scan = ir.Node(
        "",
        "Scan",
        [outer_inputs[name.removeprefix("step.")] for name in map(name_of, body.inputs)],
        [
            ir.AttrGraph("body", body),
            ir.AttrInt64("num_scan_inputs", len(stepped)),
            ir.AttrInt64s("scan_input_axes", [_TIME] * len(stepped)),
            ir.AttrInt64s("scan_output_axes", [_TIME] * len(results)),
        ],
        outputs=[outer_outputs[name.removeprefix("step.")] for name in map(name_of, body.outputs)],
        name="over_time",
    )
    graph.append(scan)
    graph.inputs.extend(order_in)
    graph.outputs.extend(order_out)


def _outer(value: ir.Value, has_time: bool) -> ir.Value:
    """What stands outside for a tensor of the step."""
    assert value.shape is not None  # of a graph's input or output
    dims: list[int | str | ir.SymbolicDim] = ["batch", *(value.shape.dims[_BATCH + 1 :])]
    if has_time:
        dims.insert(_TIME, "time")
    return ir.Value(name=value.name, shape=ir.Shape(dims), type=value.type)
