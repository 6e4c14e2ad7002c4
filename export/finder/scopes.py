"""Graphs inside graphs: what a tensor in the body of a Scan, Loop or If stands for outside."""

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from gatestream.export.graph.constants import Constant, known
from gatestream.export.graph.flow import integer

_RANK_ONLY = ("Identity", "Squeeze", "Unsqueeze")
_ARRANGED = (*_RANK_ONLY, "Transpose", "Reshape", "Cast")


@dataclass(frozen=True, slots=True)
class Scope:
    """A graph, and the node whose body it is.

    Attributes:
        graph: it.
        node: None: it is the model's own.
    """

    graph: ir.Graph
    node: ir.Node | None


class Scopes:
    """All graphs of a model, the outer ones first.

    Args:
        model: to read.
    """

    def __init__(self, model: ir.Model) -> None:
        self.all = list(_walk(model.graph, None))
        self._outer: dict[ir.Value, ir.Value] = {}
        self._carried: dict[ir.Value, ir.Value] = {}
        self._initial: dict[ir.Value, ir.Value] = {}
        self._steps: dict[ir.Value, ir.Value] = {}
        self._collected: dict[ir.Value, ir.Value] = {}
        for scope in self.all:
            if scope.node is not None and scope.node.op_type in ("Scan", "Loop"):
                self._read(scope.node, scope.graph)

    def _read(self, node: ir.Node, body: ir.Graph) -> None:
        scan = node.op_type == "Scan"
        given = 0 if scan else 2  # a Loop's body is told the iteration and the condition
        count = len(body.inputs) - given - (integer(node, "num_scan_inputs", 0) if scan else 0)
        kept = 0 if scan else 1  # and gives the condition first
        for k in range(count):
            before, after, initial = body.inputs[given + k], body.outputs[kept + k], node.inputs[given + k]
            if strip(after, "Identity") is before and initial is not None:
                self._outer[before] = initial
            else:
                self._carried[before] = after
                if initial is not None:
                    self._initial[before] = initial
        for before, whole in zip(body.inputs[given + count :], node.inputs[given + count :], strict=True):
            if whole is not None:
                self._steps[before] = whole
        for inside, whole in zip(body.outputs[kept + count :], node.outputs[count:], strict=True):
            self._collected[whole] = inside
        for inside, whole in zip(body.outputs[kept : kept + count], node.outputs, strict=False):
            self._collected[whole] = inside

    def resolve(self, value: ir.Value) -> ir.Value:
        """What a tensor is that a body is handed and hands on as it is, or that an Identity makes."""
        while True:
            value = strip(value, "Identity")
            if value not in self._outer:
                return value
            value = self._outer[value]

    def known(self, value: ir.Value | None) -> Constant | None:
        """As `constants.known`, also for what a body is handed."""
        return known(value, self.resolve)

    def after(self, value: ir.Value) -> ir.Value | None:
        """What a body makes of a tensor that is carried from step to step; None: it is not carried."""
        return self._carried.get(strip(value, *_RANK_ONLY))

    def initial(self, value: ir.Value) -> ir.Value | None:
        """What a tensor that is carried starts from, outside; None: it is not carried."""
        return self._initial.get(strip(value, *_RANK_ONLY))

    def whole(self, value: ir.Value) -> ir.Value | None:
        """What a Scan goes over, of which `value` is one step; None: it is no such step."""
        return self._steps.get(value)

    def inside(self, value: ir.Value) -> ir.Value | None:
        """What a body makes of which `value` is the last, or collects all; None: no body makes it."""
        return self._collected.get(value)

    def origin(self, value: ir.Value) -> ir.Value:
        """Where the numbers of a tensor come from, however they are arranged and collected."""
        while True:
            value = strip(value, *_ARRANGED)
            inside = self._collected.get(value)
            if inside is None:
                return value
            value = inside


def strip(value: ir.Value, *operators: str) -> ir.Value:
    """Go back over nodes of these kinds, by their first input."""
    while (node := value.producer()) is not None and node.domain == "" and node.op_type in operators:
        below = node.inputs[0]
        if below is None:
            return value
        value = below
    return value


def same(one: ir.Value, other: ir.Value) -> bool:
    """Whether two tensors have the same numbers, whatever their rank."""
    return strip(one, *_RANK_ONLY) is strip(other, *_RANK_ONLY)


def _walk(graph: ir.Graph, node: ir.Node | None) -> Iterator[Scope]:
    yield Scope(graph, node)
    for each in graph:
        for attribute in each.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                yield from _walk(attribute.as_graph(), each)
            elif attribute.type == ir.AttributeType.GRAPHS:
                for body in attribute.as_graphs():
                    yield from _walk(body, each)
