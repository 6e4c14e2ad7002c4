"""What the torch exporter leaves to be done, one pass each, with what it needs and what it promises."""

from typing import ClassVar

import onnx_ir as ir
import onnx_ir.passes.common as common
from onnx_ir.passes import InPlacePass, PassResult, PostconditionError, PreconditionError, Sequential
from onnxscript.optimizer import fold_constants

from gatestream.export.graph.flow import integer, made_by, operands
from gatestream.export.graph.initializers import TRANSPOSED, constant, store

_NO_LIMIT = 2**62  # bytes: the folder's own limits leave large weights to be transposed at run time


class NameWeights(InPlacePass):
    """Name parameters as the checkpoint does, and constants that are no parameters after what they hold."""

    prefix = "network."
    constants: ClassVar[dict[str, str]] = {
        "encoder.rows": "one_hot",
        "encoder.mean": "input_mean",
        "encoder.0.mean": "input_mean",
        "encoder.scale": "input_scale",
        "encoder.0.scale": "input_scale",
        "denormalise.mean": "output_mean",
        "denormalise.scale": "output_scale",
    }

    def requires(self, model: ir.Model) -> None:
        """No initializer has a name yet that one will get."""
        if taken := set(self.constants.values()) & set(model.graph.initializers):
            raise PreconditionError(f"initializers {sorted(taken)} are there already")

    def call(self, model: ir.Model) -> PassResult:
        """Rename."""
        for name, value in list(model.graph.initializers.items()):
            bare = name.removeprefix(self.prefix)
            value.name = self.constants.get(bare, bare)
        return PassResult(model, modified=True)

    def ensures(self, model: ir.Model) -> None:
        """No initializer is named after the tracing module."""
        if left := [name for name in model.graph.initializers if name.startswith(self.prefix)]:
            raise PostconditionError(f"still named after the tracing module: {left}")


class ChainProducts(InPlacePass):
    """`Gemm(x, W, b) + Gemm(h, R)` to `Gemm(h, R, Gemm(x, W, b))`: a gate is two operations, not three."""

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite wherever the sum is the products' only use."""
        modified = False
        for node in list(model.graph.all_nodes()):
            if not (made_by(node.outputs[0], "Add") and len(node.inputs) == 2):
                continue
            first, second = (made_by(value, "Gemm") for value in node.inputs)
            if first is None or second is None or len(operands(second)) != 2:
                continue
            if any(len(product.outputs[0].uses()) != 1 for product in (first, second)):
                continue
            h, R = operands(second)
            chained = ir.node(
                "Gemm", [h, R, first.outputs[0]], {"transB": integer(second, "transB", 0)}, name=node.name
            )
            graph = node.graph
            assert graph is not None  # a node of all_nodes() is in one
            graph.insert_before(node, chained)
            result, replaced = chained.outputs[0], node.outputs[0]
            result.name, result.shape, result.type = replaced.name, replaced.shape, replaced.type
            ir.convenience.replace_all_uses_with(replaced, result, replace_graph_outputs=True)
            graph.remove([node, second], safe=True)
            modified = True
        return PassResult(model, modified)


class StoreTransposed(InPlacePass):
    """A transposed weight becomes an initializer of its own, its name marked with `TRANSPOSED`."""

    def call(self, model: ir.Model) -> PassResult:
        """Transpose now what would be transposed at every run."""
        modified = False
        for node in list(model.graph.all_nodes()):
            weight = operands(node)[0] if made_by(node.outputs[0], "Transpose") else None
            array = constant(weight)
            if weight is None or array is None:
                continue
            assert node.graph is not None  # a node of all_nodes() is in one
            name = f"{weight.name}{TRANSPOSED}"
            stored = model.graph.initializers.get(name)
            if stored is None:
                stored = store(model.graph, name, array.T)
            ir.convenience.replace_all_uses_with(node.outputs[0], stored)
            node.graph.remove(node, safe=True)
            modified = True
        return PassResult(model, modified)


class Fold(InPlacePass):
    """Compute what does not depend on an input now, whatever its size."""

    def call(self, model: ir.Model) -> PassResult:
        """Fold."""
        result = fold_constants(model, input_size_limit=_NO_LIMIT, output_size_limit=_NO_LIMIT)
        return PassResult(model, bool(result.modified))


class FoldConstants(Fold):
    """The same, all of it."""

    def ensures(self, model: ir.Model) -> None:
        """Every operation depends on an input of its graph."""
        for node in model.graph.all_nodes():
            computes = node.op_type != "Constant" and "body" not in node.attributes
            if computes and all(constant(value) is not None for value in operands(node)):
                raise PostconditionError(f"{node.op_type} '{node.name}' still computes a constant")


class StripPrefix(InPlacePass):
    """Name parameters as the module's own state dict does.

    Args:
        prefix: of their names, from the module that was traced around it.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def call(self, model: ir.Model) -> PassResult:
        """Rename."""
        modified = False
        for name, value in list(model.graph.initializers.items()):
            if name.startswith(self._prefix):
                value.name = name.removeprefix(self._prefix)
                modified = True
        return PassResult(model, modified)


def simplify(prefix: str) -> Sequential:
    """From what torch's exporter makes of any module to a graph of plain operators and plain initializers.

    Args:
        prefix: of the parameters' names, from the module that was traced around the user's.
    """
    return Sequential(
        common.InlinePass(),
        StripPrefix(prefix),
        Fold(),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
        common.RemoveUnusedOpsetsPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.LiftSubgraphInitializersToMainGraphPass(),
        common.OutputFixPass(),
        common.NameFixPass(),
    )


def tidy() -> Sequential:
    """All of it, in order: from what `trace` returns to a graph in which `structure` finds the gates.

    The initializers are not deduplicated: two gates whose biases are equal still have one each.
    """
    return Sequential(
        common.InlinePass(),
        NameWeights(),
        ChainProducts(),
        StoreTransposed(),
        FoldConstants(),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
        common.RemoveUnusedOpsetsPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.LiftSubgraphInitializersToMainGraphPass(),
        common.IdentityEliminationPass(),
        common.ClearMetadataAndDocStringPass(),  # the exporter notes stack traces there
        common.OutputFixPass(),
        common.NameFixPass(),
    )
