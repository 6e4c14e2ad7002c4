"""What depends on constants alone, computed once."""

from typing import Final

import onnx_ir as ir
import onnx_ir.passes.common as common
from onnxscript.optimizer import fold_constants

from gatestream.export.graph.initializers import constant

_LARGEST: Final = 2**28
"""Numbers in a tensor that is computed."""

_FILLERS: Final = frozenset({"ConstantOfShape", "Expand", "EyeLike", "OneHot", "Pad", "Range", "Resize", "Tile"})
"""They make many numbers of few."""

_WIDENERS: Final = frozenset({"Cast", "CastLike", "DequantizeLinear"})
"""They make numbers of more bits."""

_SMALL: Final = 8192
"""Numbers that are widened, or filled in, beforehand."""


def fold(model: ir.Model, *, everything: bool = False) -> None:
    """Compute all that depends on constants alone.

    Args:
        model: changed.
        everything: also what makes the file larger, such as a Cast of a weight in fewer bits; else that is left, and
            onnxruntime does it when it loads the file.
    """
    fold_constants(
        model,
        input_size_limit=_LARGEST,
        output_size_limit=_LARGEST,
        should_fold=(lambda _: None) if everything else _may_fold,
    )
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.RemoveUnusedNodesPass()(model)


def _may_fold(node: ir.Node) -> bool | None:
    """Whether a node of constants is computed; None: as onnxscript has it, which leaves ConstantOfShape."""
    if node.op_type in _FILLERS:
        sizes = constant(node.inputs[0]) if node.op_type == "ConstantOfShape" else None
        return sizes is not None and bool(sizes.prod() <= _SMALL)
    if node.op_type in _WIDENERS:
        arrays = (constant(value) for value in node.inputs)
        return False if any(array is not None and array.size > _SMALL for array in arrays) else None
    return None
