"""Changing a graph that was not made here."""

import onnx_ir as ir


def replace(old: ir.Value, new: ir.Value) -> None:
    """Put `new` wherever `old` is used. As an output of its graph it gets the name, shape and type of `old`."""
    if old.is_graph_output():
        graph, node = old.graph, old.producer()
        assert graph is not None
        if new.is_graph_output() or new.is_graph_input() or new.is_initializer() or new.graph is not graph:
            copy = ir.node("Identity", [new])
            if node is not None:
                graph.insert_before(node, copy)
            else:
                graph.append(copy)
            new = copy.outputs[0]
        new.name, new.shape, new.type = old.name, old.shape, old.type
        old.name = None
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)


def keep(model: ir.Model, value: ir.Value, name: str) -> ir.Value:
    """Give what a session sets once a successor, itself: another output of the graph."""
    node = ir.node("Identity", [value], name=f"keep_{name}")
    output = node.outputs[0]
    output.name, output.type, output.shape = name, value.type, value.shape
    model.graph.append(node)
    model.graph.outputs.append(output)
    return output
