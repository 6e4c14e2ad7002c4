"""The weights that an artifact's file holds, by the names that the checkpoint has for them, and their fingerprint.

The names in the file are the contract's (docs/export.md), so this needs no look at the graph: `gatestream export` and
`inspect` prove by data flow that each stands where its name says.
"""

import hashlib
from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.roles import BY_SYMBOL, ONNX_ORDER, Array, unpack

STEP: Final = np.float32(1 / 63)
"""Between two numbers that a hidden state is rounded to where weights are int8."""

_TRANSPOSED: Final = ".T"
_SCALE: Final = ".scale"
_PACKED: Final = ".lstm."
_PARTS: Final = ("cells.", "encoder.", "head.")


class WeightsError(ValueError):
    """A file's weights do not have the shapes that belong to their names."""


def fingerprint(weights: Mapping[str, Array]) -> str:
    """SHA-256, hexadecimal, over the names, shapes and little-endian bytes of weights, in order of name."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        array = np.ascontiguousarray(weights[name], dtype="<f4")
        digest.update(f"{name} {list(array.shape)}\n".encode())
        digest.update(array.data if array.size else b"")
    return digest.hexdigest()


def intact_fingerprint(initializers: Mapping[str, NDArray[np.generic]]) -> str:
    """SHA-256, hexadecimal, over all that stands in a file of contract 2: `ModelSpec.stored_fingerprint`.

    Names, types, shapes and little-endian bytes, in order of name.
    """
    digest = hashlib.sha256()
    for name in sorted(initializers):
        array = np.ascontiguousarray(initializers[name])
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        digest.update(f"{name} {array.dtype.name} {list(array.shape)}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def stored_fingerprint(initializers: Mapping[str, NDArray[np.generic]], spec: pb.ModelSpec) -> str:
    """The fingerprint of the weights in a file.

    Args:
        initializers: all that stand in it, by name.
        spec: of the file. Where it says that the cells are LSTMs, the weights are those initializers that have a
            weight's name; for any other model, all floating-point ones as they stand.

    Raises:
        WeightsError: a weight has not the shape that goes with its name.
    """
    if spec.cell != pb.CELL_KIND_LSTM:
        floats = {name: array for name, array in initializers.items() if np.issubdtype(array.dtype, np.floating)}
        return fingerprint({name: array.astype(np.float32, copy=False) for name, array in floats.items()})
    found: dict[str, Array] = {}
    for name, array in initializers.items():
        if name.startswith(_PARTS) and not name.endswith(_SCALE):
            try:
                found |= _weight(name, array, initializers.get(name.removesuffix(_TRANSPOSED) + _SCALE))
            except (ValueError, IndexError) as error:
                raise WeightsError(f"'{name}' is {array.dtype} {list(array.shape)}: {error}") from error
    return fingerprint(found)


def dequantised(whole: NDArray[np.generic], scale: NDArray[np.generic]) -> Array:
    """What whole numbers [hidden, inputs] and scales [hidden] stand for, float32 [hidden, inputs]."""
    found: Array = whole.astype(np.float32) * unit(scale.astype(np.float32, copy=False))[:, None]
    return found


def unit(scale: Array) -> Array:
    """What an int8 weight of 1 stands for."""
    found: Array = scale / STEP
    return found


def _weight(name: str, array: NDArray[np.generic], scale: NDArray[np.generic] | None) -> dict[str, Array]:
    if _PACKED in name:
        prefix, parameter = name.split(_PACKED)
        return _unpacked(prefix, parameter, array[0].astype(np.float32, copy=False))
    if name.endswith(_TRANSPOSED):
        name, array = name.removesuffix(_TRANSPOSED), array.T
    return {name: array.astype(np.float32, copy=False) if scale is None else dequantised(array, scale)}


def _unpacked(prefix: str, parameter: str, packed: Array) -> dict[str, Array]:
    if parameter == "B":
        # The operator has a bias for each of the two products.
        input_biases, recurrent_biases = np.split(packed, 2)
        packed = input_biases + recurrent_biases
    return {
        f"{prefix}.{BY_SYMBOL[symbol].module}.{parameter if parameter in 'WR' else 'b'}": part
        for symbol, part in unpack(packed, ONNX_ORDER).items()
    }
