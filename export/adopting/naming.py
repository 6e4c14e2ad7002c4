"""Short names for the cells of a file."""

import re
from typing import Final

import onnx_ir as ir

from gatestream.export.adopting.slots import is_recurrent
from gatestream.export.graph.names import Names

_INLINED: Final = re.compile(r"(?:then|else)_branch|_Inline_|^(?:If|Loop|Scan)_\d+")
"""A part of a name that says in which branch or function a node stood."""


def shorten(model: ir.Model) -> None:
    """Name recurrent operators that stood in branches or functions by what is left of their names.

    "If_0_then_branch__Inline_0__/decoder/If_1_then_branch__Inline_0__/decoder/rnn/LSTM" becomes "decoder.rnn".

    Args:
        model: changed; other nodes keep their names.
    """
    names = Names(model)
    for node in model.graph.all_nodes():
        parts = (node.name or "").split("/")
        inlined = [k for k, part in enumerate(parts) if _INLINED.search(part)]
        if not is_recurrent(node) or not inlined:
            continue
        tail = [part for part in parts[inlined[-1] + 1 :] if part]
        if len(tail) > 1 and tail[-1].partition("_")[0] == node.op_type:
            tail.pop()
        if tail:
            node.name = names.fresh(".".join(tail))
