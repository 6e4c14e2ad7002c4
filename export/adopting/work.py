"""A file on its way to an artifact: what was found of it so far."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import onnx_ir as ir

from gatestream.export.adopting.describe import Origin
from gatestream.export.adopting.options import Options
from gatestream.export.adopting.signature import Dim, dims_of
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
        starts: inputs that were nothing but what states start from, and are zeros for a new session.
        unshown: states by the output that --state gave them, of which data flow says nothing.
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
    starts: list[ir.Value] = field(default_factory=list)
    unshown: dict[str, str] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, path: Path, model: ir.Model, options: Options) -> "Work":
        """A file that was read, and of which nothing is known yet."""
        given = {value.name or "": value for value in model.graph.inputs}
        dims = {value.name or "": dims_of(value) for value in (*model.graph.inputs, *model.graph.outputs)}
        return cls(model, Origin.of(path, model), options, dims, given)

    @property
    def rounds_by_range(self) -> bool:
        """Whether an operator rounds all rows and steps of a run by one range."""
        return any(node.op_type.startswith("DynamicQuantize") for node in self.model.graph.all_nodes())

    @property
    def tolerance(self) -> float:
        """Of two right runs while axes are looked for, relative to the largest number of a tensor."""
        if self.rounds_by_range:
            return _CLOSE_QUANTISED
        tensors = (*self.model.graph.inputs, *self.model.graph.initializers.values())
        return _CLOSE_HALF if any(value.dtype == ir.DataType.FLOAT16 for value in tensors) else _CLOSE
