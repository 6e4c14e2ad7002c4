"""Find the cells of a model, in whichever form it is."""

import onnx_ir as ir

from gatestream.export.errors import StructureError
from gatestream.export.finder import fused, scan
from gatestream.export.finder.structure import Structure

_RECURRENT = ("Scan", "Loop", "LSTM", "GRU", "RNN")


def find(model: ir.Model) -> Structure:
    """Find the cells of a model by data flow.

    Raises:
        StructureError: there is no cell, more than one recurrence, or one that is not an LSTM's; the message
            names the tensor and says what was expected of it.
    """
    recurrent = [node for node in model.graph if node.op_type in _RECURRENT]
    if {node.op_type for node in recurrent} == {"LSTM"}:
        return fused.find(model, recurrent)
    if [node.op_type for node in recurrent] == ["Scan"]:
        return scan.find(model, recurrent[0])
    found = ", ".join(f"{node.op_type} '{node.name}'" for node in recurrent) or "none"
    raise StructureError(f"recurrent operations: {found}; expected one Scan, or one LSTM for each layer")
