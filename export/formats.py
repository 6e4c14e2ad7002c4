"""Weights in fewer bits: what a network's weights become.

float16: the matrices, of the cells, the head and the encoder, are rounded to float16; biases stay float32.

int8: the matrices of the cells are rounded to whole numbers from -127 to 127, each unit of each gate with a scale of
its own. What they multiply is rounded as it comes: the hidden state, which lies between -1 and 1, in steps of `STEP`;
the first layer's input, of which nothing is known, row by row in steps of `STEP` times the row's largest number. A
row's numbers never depend on another row's.

That is 8 bits by 7, since processors without VNNI add two products in 16 bits, and two of 8 bits by 8 do not fit in
there: their sums would be wrong without a word. On trained models the eighth bit was worth as much to the weights as to
what they multiply, or twice as much.
"""

from collections.abc import Mapping
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from gatestream.export.errors import PrecisionError
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.roles import Array
from gatestream.protos.weights import STEP, dequantised, unit

Precision = Literal["float32", "float16", "int8"]

FORMATS: Final[Mapping[Precision, pb.WeightFormat]] = {
    "float32": pb.WEIGHT_FORMAT_FLOAT32,
    "float16": pb.WEIGHT_FORMAT_FLOAT16,
    "int8": pb.WEIGHT_FORMAT_INT8,
}

LARGEST: Final = 127
"""Of a weight as a whole number."""

ZERO: Final = np.uint8(64)
"""The whole number that stands for 0 where a state or an input is rounded: onnxruntime is 5 to 40 times slower with
signed ones on the left of a product."""

LEAST: Final = np.float32(1e-30)
"""A row whose largest number is smaller is rounded as if it were this, so that a row of zeros is one."""


def precision_of(spec: pb.ModelSpec) -> Precision:
    """How a file says that its weights are stored.

    Raises:
        PrecisionError: in a way that this version does not know.
    """
    if spec.weights == pb.WEIGHT_FORMAT_UNSPECIFIED:
        return "float32"
    for precision, known in FORMATS.items():
        if spec.weights == known:
            return precision
    raise PrecisionError(f"the spec says weights {spec.weights}, which this version does not know")


def is_reduced(name: str, array: NDArray[np.generic], precision: Precision) -> bool:
    """Whether a weight, by the checkpoint's name, is stored in fewer bits: matrices are, biases are not."""
    where = {"float32": (), "float16": ("cells.", "encoder.", "head."), "int8": ("cells.",)}[precision]
    return array.ndim == 2 and name.startswith(where)


def halved(name: str, array: Array) -> NDArray[np.float16]:
    """Round to float16.

    Raises:
        PrecisionError: a number is too large for float16.
    """
    with np.errstate(over="ignore"):
        found = array.astype(np.float16)
    wrong = np.argwhere(~np.isfinite(found))
    if len(wrong):
        at = tuple(map(int, wrong[0]))
        raise PrecisionError(
            f"'{name}'{list(at)} is {array[at]:g}, float16 ends at {np.finfo(np.float16).max:g}: "
            "keep this model's weights in float32"
        )
    return found


def quantised(name: str, matrix: Array) -> tuple[NDArray[np.int8], Array]:
    """Round to whole numbers, each unit by its own largest weight.

    Args:
        name: for an error.
        matrix: [hidden, inputs].

    Returns:
        The whole numbers [hidden, inputs], and the scales [hidden], in which `STEP` is a factor already: the product
        of a weight and of a hidden state as whole numbers, times the scale, is the product of what they stand for.

    Raises:
        PrecisionError: a number is not finite, or all of a unit's are too small to have a scale.
    """
    largest = np.abs(matrix).max(axis=1)
    # A unit without weights has any scale.
    scale = np.where(largest == 0, np.float32(1), largest / np.float32(LARGEST) * STEP).astype(np.float32)
    wrong = np.flatnonzero(~np.isfinite(scale) | (scale < np.finfo(np.float32).tiny))
    if len(wrong):
        raise PrecisionError(
            f"'{name}', unit {wrong[0]}: its largest weight is {largest[wrong[0]]:g}, which leaves no scale for int8: "
            "keep this model's weights in float32"
        )
    whole = np.rint(matrix / unit(scale)[:, None])
    return np.clip(whole, -LARGEST, LARGEST).astype(np.int8), scale


def rounded(weights: Mapping[str, Array], precision: Precision) -> dict[str, Array]:
    """What a file's weights stand for, as float32, by the checkpoint's names.

    Raises:
        PrecisionError: a weight cannot be stored so.
    """
    found = dict(weights)
    for name, array in weights.items():
        if is_reduced(name, array, precision):
            if precision == "float16":
                found[name] = halved(name, array).astype(np.float32)
            else:
                found[name] = dequantised(*quantised(name, array))
    return found
