"""A file on its way to an artifact, and what is known of it."""

from dataclasses import dataclass, field
from typing import Final

import onnx_ir as ir

from gatestream.export.adopting.describe import Origin
from gatestream.export.adopting.options import Options
from gatestream.export.adopting.signature import Dim
from gatestream.export.adopting.states import Pair

_CLOSE: Final = 1e-3
_CLOSE_HALF: Final = 2e-2
_CLOSE_QUANTISED: Final = 5e-2
"""Of two right runs while axes are looked for, relative to the largest number; the proof is stricter."""


@dataclass(slots=True)
class Work:
    """A file on its way.

    Attributes:
        model: as it is at this moment.
        origin: the file as it came.
        options: what was said of it.
        dims: of the file's inputs and outputs.
        given: the file's inputs, by name.
        pairs: the states found so far.
        hidden: names of those that the file does not show.
        context: by input, samples and their axis in the file.
        ignored: inputs that nothing reads.
        lengths: inputs that say how many steps of each row are real.
        said: what was rewritten.
    """

    model: ir.Model
    origin: Origin
    options: Options
    dims: dict[str, tuple[Dim, ...]]
    given: dict[str, ir.Value]
    pairs: list[Pair] = field(default_factory=list)
    hidden: set[str] = field(default_factory=set)
    context: dict[str, tuple[int, int]] = field(default_factory=dict)
    ignored: list[ir.Value] = field(default_factory=list)
    lengths: list[ir.Value] = field(default_factory=list)
    said: list[str] = field(default_factory=list)


def tolerance(model: ir.Model) -> float:
    """Of two right runs of a model, relative to a tensor's largest number, while things are found out about it."""
    if rounds_by_range(model):
        return _CLOSE_QUANTISED
    halves = any(value.dtype == ir.DataType.FLOAT16 for value in model.graph.inputs) or any(
        value.dtype == ir.DataType.FLOAT16 for value in model.graph.initializers.values()
    )
    return _CLOSE_HALF if halves else _CLOSE


def rounds_by_range(model: ir.Model) -> bool:
    """Whether an operator rounds all rows and steps of a run by one range."""
    return any(node.op_type.startswith("DynamicQuantize") for node in model.graph.all_nodes())
