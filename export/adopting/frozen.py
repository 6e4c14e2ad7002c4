"""Graphs in which the steps of an example are counted once for all."""

from collections.abc import Iterator
from math import prod
from typing import Final

import numpy as np
import onnx_ir as ir

from gatestream.export.adopting.growth import Growth, growth
from gatestream.export.adopting.over_time import shape_of
from gatestream.export.adopting.probing import Probe
from gatestream.export.adopting.signature import Signature
from gatestream.export.adopting.slots import describe, is_fixed, is_recurrent
from gatestream.export.adopting.work import Work
from gatestream.export.errors import NotStreamableError
from gatestream.export.graph.flow import integer
from gatestream.export.graph.initializers import integers
from gatestream.export.proof.streamed import sample

_BY_NUMBER: Final = frozenset({"Gather", "Slice", "Split", "SplitToSequence"})


def reshaped(model: ir.Model, grown: Growth | None, ends: list[ir.Value]) -> str | None:
    """Why rows and steps come out mixed, or nothing runs: a Reshape to the sizes of an example.

    Args:
        model: the graph.
        grown: how its axes go with the free sizes; None: it runs on none that were tried, and is looked at up to the
            first Reshape to sizes that are constant.
        ends: the outputs that are no states.
    """
    if grown is None:
        behind: set[ir.Value] = set()
        for node in model.graph:
            if _to_constant(node) is not None or behind.intersection(node.inputs):
                behind.update(node.outputs)
        before = [value for node in model.graph for value in node.outputs if value not in behind]
        grown = growth(model, before)
        if grown is None:
            return None
        ends = []
    for node in model.graph:
        sizes = _mixed(node, grown)
        if any(not any(grown.of(end, axis) == {size} for end, axis in _axes(ends, grown)) for size in sizes):
            data = node.inputs[0]
            assert data is not None  # as `_mixed` found
            return (
                f"{describe(node)} makes {list(_to_constant(node) or ())} of '{data.name}' {shape_of(data, grown)}: "
                "how many steps the example had that the model was exported with is frozen inside; export it with "
                "dynamic axes, or where a step is a window of so many samples say so with --window INPUT:SAMPLES"
            )
    return None


def unrolled(
    model: ir.Model, grown: Growth, ends: list[ir.Value], gone_through: list[tuple[ir.Value, int]]
) -> str | None:
    """Why further steps are ignored: each of an example's is taken by its number.

    Args:
        model: the graph.
        grown: how its axes go with the free sizes.
        ends: the outputs that are no states.
        gone_through: tensors that an operator goes through step by step, with the axis.
    """
    for size in grown.second:
        if any(grown.axes(end, {size}) for end in ends):
            continue
        if any(axis in grown.axes(value, {size}) for value, axis in gone_through):
            continue
        for node in model.graph:
            if node.domain == "" and node.op_type == "Loop" and is_fixed(node, counting=True):
                read = [value for value in _read_inside(node) if grown.axes(value, {size})]
                if read:
                    return (
                        f"{describe(node)} runs as often as the example had steps that the model was exported with, "
                        f"and no output grows with {size}, as '{read[0].name}' {shape_of(read[0], grown)} does: "
                        "further steps are ignored; export it with a number of rounds that is computed from the input"
                    )
        taken: dict[ir.Value, list[ir.Node]] = {}
        for node in model.graph:
            data = node.inputs[0] if node.inputs else None
            chosen = node.op_type in _BY_NUMBER and not any(grown.axes(output, {size}) for output in node.outputs)
            if data is not None and chosen and grown.axes(data, {size}):
                taken.setdefault(data, []).append(node)
        for data, nodes in taken.items():
            if sum(len(node.outputs) for node in nodes) > 1 or nodes[0].op_type == "SplitToSequence":
                return (
                    f"{describe(nodes[0])} takes steps of '{data.name}' {shape_of(data, grown)} by their numbers, and "
                    f"no output grows with {size}: the loop over time was unrolled for the example that the model was "
                    "exported with, and further steps are ignored; export a module of one step, or one with an "
                    "operator for the loop"
                )
    return None


def _read_inside(loop: ir.Node) -> list[ir.Value]:
    """The tensors of the main graph that a body reads."""
    inside = [value for node in loop.attributes["body"].as_graph().all_nodes() for value in node.inputs]
    return [value for value in inside if value is not None and value.graph is loop.graph]


def _to_constant(node: ir.Node) -> tuple[int, ...] | None:
    """The sizes that a Reshape makes, where they are constant."""
    return integers(node.inputs[1]) if node.domain == "" and node.op_type == "Reshape" else None


def _mixed(node: ir.Node, grown: Growth) -> set[str]:
    """The free sizes that a Reshape puts into one axis with others, less what it has as a constant."""
    target, data = _to_constant(node), node.inputs[0] if node.inputs else None
    if target is None or data is None or data not in grown.first:
        return set()
    growing = grown.axes(data, set(grown.second))
    shape = grown.first[data]
    kept = [axis for axis, size in enumerate(target) if size == 0 and not integer(node, "allowzero", 0)]
    sizes = {name for axis in growing if axis not in kept for name in grown.of(data, axis)}
    fixed = prod(size for size in target if size > 0)
    own = prod(size for axis, size in enumerate(shape) if axis not in growing and axis not in kept)
    return sizes if fixed != own and (len(sizes) > 1 or -1 not in target) else set()


def _axes(values: list[ir.Value], grown: Growth) -> Iterator[tuple[ir.Value, int]]:
    for value in values:
        for axis in range(len(grown.first.get(value, ()))):
            yield value, axis


def check_steps(work: Work, signature: Signature) -> None:
    """A file without a time axis takes one step a run, unless it was said that a step is a window of several.

    Args:
        work: the file.
        signature: of its graph, its axes known.

    Raises:
        NotStreamableError: a recurrent operator goes through several steps in every run.
    """
    ends = signature.inputs
    told = work.options.time.keys() | work.options.windows.keys() | work.options.context.keys()
    layers = [node for node in work.model.graph if is_recurrent(node)]
    if not layers or any(end.time is not None for end in ends) or told & {end.name for end in ends}:
        return
    rng = np.random.default_rng(0)
    probe = Probe(work.model, [value for node in layers if (value := node.inputs[0]) is not None])
    found = probe.run({end.name: sample(end.dtype, end.limit, end.base, rng) for end in signature.fed})
    for node in layers:
        assert node.inputs[0] is not None
        if (steps := len(found[node.inputs[0].name or ""])) > 1:
            raise NotStreamableError(
                f"time is frozen inside: {node.op_type} '{node.name}' goes through {steps} steps in every run, and no "
                f"other number of them runs; export it with a time axis of any size, or, where what it takes in a run "
                f"is one step of yours, say so: --time {ends[0].name}:none"
            )
