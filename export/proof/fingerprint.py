"""Are the weights in the file those that were exported?"""

from collections.abc import Iterator, Mapping
from itertools import permutations

from gatestream.export.errors import FingerprintError
from gatestream.export.finder.structure import Structure
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.roles import BY_SYMBOL, ONNX_ORDER, Array
from gatestream.protos.weights import fingerprint


def check_fingerprint(weights: Mapping[str, Array], spec: pb.ModelSpec, structure: Structure) -> str:
    """The weights hash to what the spec records.

    Raises:
        FingerprintError: they do not; the message says which gates were exchanged or which matrices
            transposed where that is all that was done to them.
    """
    found = fingerprint(weights)
    if found != spec.weights_fingerprint:
        undone = (
            what for what, changed in _mishaps(weights, structure) if fingerprint(changed) == spec.weights_fingerprint
        )
        raise FingerprintError(
            f"the weights hash to {found[:16]}, the spec says {spec.weights_fingerprint[:16] or 'nothing'}: "
            f"{next(undone, 'weights or spec were changed after the export')}"
        )
    return f"{found[:16]}, {len(weights)} tensors, {sum(array.size for array in weights.values())} numbers"


def _mishaps(weights: Mapping[str, Array], structure: Structure) -> Iterator[tuple[str, Mapping[str, Array]]]:
    """What is often done to weights by mistake, and the weights with it undone."""
    transposed = {name: array.T if name.endswith(".R") else array for name, array in weights.items()}
    yield "every R is transposed", transposed
    modules = [BY_SYMBOL[symbol].module for symbol in ONNX_ORDER]
    for order in permutations(ONNX_ORDER):
        exchanged = dict(weights)
        for layer in range(len(structure.cells)):
            for found, symbol in zip(modules, order, strict=True):
                for parameter in "WRb":
                    name = f"cells.{layer}.{BY_SYMBOL[symbol].module}.{parameter}"
                    exchanged[name] = weights[f"cells.{layer}.{found}.{parameter}"]
        if structure.fused:
            yield f"the gates are packed in the order {''.join(order)}, the operator takes {ONNX_ORDER}", exchanged
        else:
            pairs = [f"{a} has those of {b}" for a, b in zip(ONNX_ORDER, order, strict=True) if a != b]
            yield f"gates have each other's weights: {', '.join(pairs)}", exchanged
