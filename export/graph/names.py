"""Names that a graph has not used yet."""

import onnx_ir as ir


class Names:
    """Of all tensors and nodes of a model."""

    def __init__(self, model: ir.Model) -> None:
        self._taken: set[str | None] = {value.name for value in model.graph.outputs}
        for graph in (model.graph, *model.graph.subgraphs()):
            self._taken |= {value.name for value in graph.inputs} | set(graph.initializers)
            for node in graph:
                self._taken |= {node.name, *(value.name for value in node.outputs)}

    def fresh(self, name: str) -> str:
        """This name, or with a number behind it where it is taken."""
        found, count = name, 1
        while found in self._taken:
            count += 1
            found = f"{name}_{count}"
        self._taken.add(found)
        return found
