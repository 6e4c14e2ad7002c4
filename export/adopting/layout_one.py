"""Recurrent operators of layout 1, which onnxruntime refuses, as operators of layout 0 between transpositions."""

import onnx_ir as ir

from gatestream.export.graph.flow import integer

_STATE = (1, 0, 2)  # [batch, directions, hidden] and [directions, batch, hidden], either way
_STEPS = (1, 0, 2)  # X: [batch, time, inputs] to [time, batch, inputs]
_OUTPUTS = (2, 0, 1, 3)  # Y: [time, directions, batch, hidden] to [batch, time, directions, hidden]


def rewrite(model: ir.Model) -> None:
    """Give every LSTM, GRU and RNN layout 0."""
    for node in list(model.graph.all_nodes()):
        if node.domain == "" and node.op_type in ("LSTM", "GRU", "RNN") and integer(node, "layout", 0) == 1:
            _rewrite(node)


def _rewrite(node: ir.Node) -> None:
    graph = node.graph
    assert graph is not None  # a node of all_nodes() is in one
    inputs: list[tuple[int, tuple[int, ...]]] = [(0, _STEPS), (5, _STATE), (6, _STATE)]
    for k, perm in inputs:
        value = node.inputs[k] if k < len(node.inputs) else None
        if value is not None:
            before = ir.node("Transpose", [value], {"perm": list(perm)}, name=f"{node.name}_input_{k}")
            before.outputs[0].name, before.outputs[0].type = f"{value.name}_layout_0", value.type
            graph.insert_before(node, before)
            node.replace_input_with(k, before.outputs[0])
    for value, perm in zip(node.outputs, (_OUTPUTS, _STATE, _STATE), strict=False):
        after = ir.node("Transpose", [value], {"perm": list(perm)}, name=f"{node.name}_output_{value.index()}")
        outside = after.outputs[0]
        outside.type, outside.shape = value.type, value.shape
        ir.convenience.replace_all_uses_with(value, outside, replace_graph_outputs=True)
        after.replace_input_with(0, value)
        outside.name, value.name, value.shape = value.name, f"{value.name}_layout_0", None
        graph.insert_after(node, after)
    node.attributes.pop("layout")
