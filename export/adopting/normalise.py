"""A foreign graph in normal form: inputs and outputs [batch, time, *shape], states [batch, *shape].

A Transpose stands only where an axis is elsewhere; a Scan over time only where the graph takes one step a run; a Scan
over rows only where it takes one row.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import onnx_ir as ir

from gatestream.export.adopting.signature import End, Signature
from gatestream.export.graph.initializers import store
from gatestream.export.graph.names import Names
from gatestream.export.graph.scanning import scan

_BATCH: Final = "batch"
_TIME: Final = "time"
_Axis = str | int
"""The sessions', time, or the number that another axis has in the file."""


def normalise(model: ir.Model, signature: Signature) -> list[str]:
    """Rewrite the graph.

    Args:
        model: it is changed.
        signature: its inputs, outputs and states, their axes known; the values in it become those of the new graph.

    Returns:
        What was done, one line each.
    """
    return _Rewriting(model, signature).rewrite()


class _Rewriting:
    def __init__(self, model: ir.Model, signature: Signature) -> None:
        self._graph = model.graph
        self._signature = signature
        self._names = Names(model)
        self._said: list[str] = []

    def rewrite(self) -> list[str]:
        graph, signature = self._graph, self._signature
        names = [end.name for end in [*signature.inputs, *signature.outputs]]
        pairs = [(state.pair.input.name, state.pair.output.name) for state in signature.states]
        moved = self._moved()
        self._separate()
        nodes = list(graph)
        graph.inputs.clear()
        graph.outputs.clear()
        graph.remove(nodes)
        for value in [*(value for node in nodes for value in node.outputs), *(end.value for end in signature.fed)]:
            value.shape = None  # what the file says of a tensor between two others holds for its own sizes only
        if not signature.time:
            nodes = self._over_time(nodes)
        if not signature.batch:
            nodes = self._over_rows(nodes, scanned=not signature.time)
        else:
            nodes = self._at_edges(nodes, scanned=not signature.time)
        if moved:
            self._said.append(f"axes moved, by a Transpose each: {', '.join(moved)}")
        self._finish(nodes, names, pairs)
        return self._said

    def _moved(self) -> list[str]:
        """What has the sessions' axis or time elsewhere than in normal form."""
        signature = self._signature
        batch = 0 if signature.batch else None
        found = [state.end for state in signature.states if state.end.batch != batch]
        first = (batch,) if not signature.time else (0, 1) if signature.batch else (None, 0)
        ends = [*signature.inputs, *signature.outputs]
        found += [end for end in ends if (end.batch, end.time)[: len(first)] != first]
        return [f"'{end.name}'" for end in found]

    def _separate(self) -> None:
        """Every output is made by a node of its own."""
        taken: set[ir.Value] = set()
        for end in self._signature.outputs:
            end.value = self._own(end.value, taken)
        for state in self._signature.states:
            state.pair.output = self._own(state.pair.output, taken)

    def _own(self, value: ir.Value, taken: set[ir.Value]) -> ir.Value:
        if value.producer() is not None and value not in taken:
            taken.add(value)
            return value
        node = ir.node("Identity", [value])
        self._graph.append(node)
        return self._op(node, value)

    # ---- The three ways -----------------------------------------------------------------------

    def _over_time(self, nodes: list[ir.Node]) -> list[ir.Node]:
        """The graph becomes the body of a Scan, a step each time."""
        signature = self._signature
        first = [_BATCH] if signature.batch else []
        before, steps_in = self._adapted_inputs(signature.inputs, first)
        after, steps_out = self._adapted_outputs(signature.outputs, first)
        for value, end in zip(steps_out, signature.outputs, strict=True):
            value.shape = ir.Shape([*first, *end.shape])
        states = [(state.pair.input, state.pair.output) for state in signature.states]
        for state in signature.states:
            # onnxruntime wants to know it, and cannot find it out where a Loop or an If is behind it.
            sizes = enumerate(state.end.base)
            state.pair.output.shape = ir.Shape([_BATCH if axis == state.end.batch else size for axis, size in sizes])
        made = scan(
            [*before, *nodes, *after],
            states,
            steps_in,
            steps_out,
            turn="step",
            along=_TIME,
            axis=len(first),
            names=self._names,
        )
        self._put_outside(made)
        why = "the context of a step is the end of the one before" if signature.many else "it takes one step a run"
        self._said.append(f"a Scan over time, one step of the file each: {why}")
        return [made]

    def _over_rows(self, nodes: list[ir.Node], *, scanned: bool) -> list[ir.Node]:
        """The graph becomes the body of a Scan, a row each time."""
        signature = self._signature
        before: list[ir.Node] = []
        after: list[ir.Node] = []
        rows_in, rows_out = [end.value for end in signature.inputs], [end.value for end in signature.outputs]
        if not scanned:
            before, rows_in = self._adapted_inputs(signature.inputs, [_TIME])
            after, rows_out = self._adapted_outputs(signature.outputs, [_TIME])
        states_in = [state.pair.input for state in signature.states]
        states_out = [state.pair.output for state in signature.states]
        made = scan(
            [*before, *nodes, *after],
            [],
            [*states_in, *rows_in],
            [*states_out, *rows_out],
            turn="row",
            along=_BATCH,
            axis=0,
            names=self._names,
        )
        self._put_outside(made)
        self._said.append(
            "a Scan over rows: the file takes one session a run; sessions in a batch are computed one after another"
        )
        return [made]

    def _at_edges(self, nodes: list[ir.Node], *, scanned: bool) -> list[ir.Node]:
        """Transposes where the sessions' axis, or time, is not where normal form has it."""
        signature = self._signature
        before: list[ir.Node] = []
        after: list[ir.Node] = []
        if not scanned:
            before, outside = self._adapted_inputs(signature.inputs, [_BATCH, _TIME])
            for end, value in zip(signature.inputs, outside, strict=True):
                end.value = value
            after, results = self._adapted_outputs(signature.outputs, [_BATCH, _TIME])
            for end, value in zip(signature.outputs, results, strict=True):
                end.value = value
        for state in signature.states:
            end = state.end
            value, added = self._to_file(state.pair.input, end, [_BATCH])
            before += added
            result, added = self._from_file(state.pair.output, end, [_BATCH])
            after += added
            state.pair.input, state.pair.output, end.value = value, result, value
        return [*before, *nodes, *after]

    def _put_outside(self, made: ir.Node) -> None:
        """What the signature has is what stands outside a Scan: states first, then inputs or outputs of each step."""
        signature = self._signature
        count = len(signature.states)
        for state, outside, result in zip(signature.states, made.inputs, made.outputs, strict=False):
            assert outside is not None
            state.pair.input, state.pair.output, state.end.value = outside, result, outside
        for end, outside in zip(signature.inputs, made.inputs[count:], strict=True):
            assert outside is not None
            end.value = outside
        for end, result in zip(signature.outputs, made.outputs[count:], strict=True):
            end.value = result

    # ---- Layouts ------------------------------------------------------------------------------

    def _adapted_inputs(self, ends: Sequence[End], first: Sequence[str]) -> tuple[list[ir.Node], list[ir.Value]]:
        nodes, values = [], []
        for end in ends:
            value, added = self._to_file(end.value, end, first)
            nodes += added
            values.append(value)
        return nodes, values

    def _adapted_outputs(self, ends: Sequence[End], first: Sequence[str]) -> tuple[list[ir.Node], list[ir.Value]]:
        nodes, values = [], []
        for end in ends:
            value, added = self._from_file(end.value, end, first)
            nodes += added
            values.append(value)
        return nodes, values

    def _to_file(self, inside: ir.Value, end: End, first: Sequence[str]) -> tuple[ir.Value, list[ir.Node]]:
        """A value whose axes are `first` and the rest, and the nodes that make the file's input of it."""
        there, perm = _layout(end, first)
        nodes: list[ir.Node] = []
        if perm == list(range(len(perm))) and len(there) == len(_axes(end)):
            return inside, nodes
        value = outside = ir.Value(name=inside.name, type=inside.type)
        if perm != list(range(len(perm))):
            nodes.append(ir.node("Transpose", [value], {"perm": perm}))
            value = self._op(nodes[-1], inside)
        if len(there) != len(_axes(end)):
            axes = [k for k, axis in enumerate(_axes(end)) if axis not in there]
            nodes.append(ir.node("Unsqueeze", [value, self._constant(axes)]))
            value = self._op(nodes[-1], inside)
        ir.convenience.replace_all_uses_with(inside, value)
        inside.name = self._names.fresh(f"{inside.name}.file")
        return outside, nodes

    def _from_file(self, value: ir.Value, end: End, first: Sequence[str]) -> tuple[ir.Value, list[ir.Node]]:
        """The nodes that make of the file's output one whose axes are `first` and the rest, and that value."""
        there, perm = _layout(end, first)
        nodes: list[ir.Node] = []
        like = value
        if len(there) != len(_axes(end)):
            axes = [k for k, axis in enumerate(_axes(end)) if axis not in there]
            nodes.append(ir.node("Squeeze", [value, self._constant(axes)]))
            value = self._op(nodes[-1], like)
        if perm != list(range(len(perm))):
            back = [perm.index(k) for k in range(len(perm))]
            nodes.append(ir.node("Transpose", [value], {"perm": back}))
            value = self._op(nodes[-1], like)
        return value, nodes

    def _constant(self, axes: Sequence[int]) -> ir.Value:
        name = "axes_" + "_".join(map(str, axes))
        known = self._graph.initializers.get(f"normal_form.{name}")
        return known or store(self._graph, self._names.fresh(f"normal_form.{name}"), np.array(axes, np.int64))

    def _op(self, node: ir.Node, like: ir.Value) -> ir.Value:
        """The result of a node just made, of another value's type."""
        node.name = self._names.fresh(f"{node.op_type}_{like.name}")
        result = node.outputs[0]
        result.name, result.type = self._names.fresh(f"{like.name}.{node.op_type.lower()}"), like.type
        return result

    # ---- The new graph ------------------------------------------------------------------------

    def _finish(self, nodes: list[ir.Node], names: list[str], pairs: list[tuple[str | None, str | None]]) -> None:
        graph, signature = self._graph, self._signature
        graph.extend(nodes)
        ends = [*signature.inputs, *signature.outputs]
        inputs = [*(end.value for end in signature.inputs), *(state.pair.input for state in signature.states)]
        outputs = [*(end.value for end in signature.outputs), *(state.pair.output for state in signature.states)]
        outer = dict(zip([end.value for end in ends], names, strict=True))
        for state, (before, after) in zip(signature.states, pairs, strict=True):
            outer |= {state.pair.input: before or "", state.pair.output: after or ""}
        taken = set(outer.values())
        inside = [value for node in graph.all_nodes() for value in node.outputs]
        inside += [value for body in graph.subgraphs() for value in body.inputs]
        for value in inside:
            if value.name in taken and value not in outer:
                value.name = self._names.fresh(f"{value.name}.inside")
        for value, name in outer.items():
            value.name = name
        for end in ends:
            end.value.shape = ir.Shape([_BATCH, _TIME, *end.shape])
        for state in signature.states:
            for value in (state.pair.input, state.pair.output):
                value.shape = ir.Shape([_BATCH, *state.end.shape])
        graph.inputs.extend(inputs)
        graph.outputs.extend(outputs)


def _axes(end: End) -> list[_Axis]:
    """What each axis in the file is."""
    return [_BATCH if k == end.batch else _TIME if k == end.time else k for k in range(len(end.base))]


def _layout(end: End, first: Sequence[str]) -> tuple[list[_Axis], list[int]]:
    """Those axes of the file that are there outside, in the file's order; and where outside each of them stands."""
    outside: list[_Axis] = [*first, *end.rest]
    there = [axis for axis in _axes(end) if axis in outside]
    outside = [axis for axis in outside if axis in there]
    return there, [outside.index(axis) for axis in there]
