"""What a gate's activation is applied to, taken apart: `W x + R h + b`."""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from gatestream.export.errors import StructureError
from gatestream.export.formats import LEAST, ZERO
from gatestream.export.graph.flow import integer, label, made_by, operands
from gatestream.export.graph.initializers import constant, integers, stored
from gatestream.protos.roles import Array
from gatestream.protos.weights import STEP, dequantised


@dataclass(frozen=True, slots=True)
class Product:
    """One `weight @ operand` in a sum.

    Attributes:
        weight: the initializer.
        operand: what it multiplies; where it is of int8, what is rounded first.
        transposed: the initializer is stored [inputs, hidden].
        scale: of an int8 weight, the initializer with its scales.
        ranged: of an int8 weight: each row of the operand is rounded by its own range, not between -1 and 1.
    """

    weight: ir.Value
    operand: ir.Value
    transposed: bool
    scale: ir.Value | None = None
    ranged: bool = False

    @property
    def array(self) -> Array:
        """What it stands for, float32 [hidden, inputs].

        Raises:
            StructureError: it is of another type.
        """
        array = constant(self.weight)
        assert array is not None  # `affine` took nothing else for a weight
        scale = constant(self.scale)
        array = array.T if self.transposed else array
        if scale is not None:
            return dequantised(array, scale)
        if array.dtype not in (np.float32, np.float16):
            raise StructureError(f"'{self.weight.name}' is {array.dtype}, expected float32")
        return array.astype(np.float32, copy=False)


def affine(value: ir.Value) -> tuple[list[Product], list[ir.Value]]:
    """Take a sum of products and biases apart, whatever it is nested like.

    Returns:
        The products with a plain initializer, and the initializers that are added.

    Raises:
        StructureError: something else is added, or a weight is no plain initializer.
    """
    if constant(value) is not None:
        return [], [value]
    if node := made_by(value, "Add"):
        left, right = (affine(operand) for operand in operands(node))
        return left[0] + right[0], left[1] + right[1]
    if node := made_by(value, "Gemm", "MatMul"):
        a, b, *c = operands(node)
        scaled = any(node.attributes[name].as_float() != 1 for name in ("alpha", "beta") if name in node.attributes)
        if integer(node, "transA", 0) or scaled:
            raise StructureError(f"{label(value)} transposes its operand or scales its terms")
        weight = stored(b)
        if weight is None:
            raise StructureError(
                f"{label(value)} multiplies by {label(b)}, which is computed at run time; expected a plain initializer"
            )
        rest = [affine(term) for term in c]
        product = Product(weight, a, transposed=not integer(node, "transB", 0))
        return (
            [product] + [term for products, _ in rest for term in products],
            [term for _, biases in rest for term in biases],
        )
    if made_by(value, "Mul"):
        return [_rounded_product(value)], []
    raise StructureError(f"{label(value)} stands in a sum where a product with weights or a bias should be")


def _rounded_product(value: ir.Value) -> Product:
    """`float(rounded(operand) @ weight) * scale`, and where each row has a range of its own, times that."""
    left, right = _inputs(value, "Mul", 2)
    top = None if constant(right) is not None else right
    if top is not None:
        left, right = _inputs(left, "Mul", 2)
    (whole,) = _inputs(left, "Cast", 1)
    rounded, weight, zero = _inputs(whole, "MatMulInteger", 3)
    scaled, step, also_zero = _inputs(rounded, "QuantizeLinear", 3)
    _expect(step, STEP)
    for number in (zero, also_zero):
        _expect(number, ZERO)
    array, scale = constant(weight), constant(right)
    if array is None or array.dtype != np.int8 or array.ndim != 2:
        raise StructureError(f"{label(whole)} multiplies by {label(weight)}; expected a plain int8 matrix")
    if scale is None or scale.dtype != np.float32 or scale.shape != array.shape[1:]:
        raise StructureError(f"{label(value)} scales by {label(right)}; expected float32 [{array.shape[1]}]")
    if top is None:
        return Product(weight, scaled, transposed=True, scale=right)
    operand, divisor = _inputs(scaled, "Div", 2)
    _check_range(operand, divisor)
    if divisor is not top:
        raise StructureError(f"{label(value)} multiplies by {label(top)}, its operand was divided by {label(divisor)}")
    return Product(weight, operand, transposed=True, scale=right, ranged=True)


def _check_range(operand: ir.Value, top: ir.Value) -> None:
    """`top` is each row's largest number, or `LEAST` where that is more."""
    largest, least = _inputs(top, "Max", 2)
    _expect(least, LEAST)
    size, axis = _inputs(largest, "ReduceMax", 2)
    (measured,) = _inputs(size, "Abs", 1)
    node = made_by(largest, "ReduceMax")
    if measured is not operand or integers(axis) != (-1,) or (node and integer(node, "keepdims", 1) != 1):
        raise StructureError(f"{label(top)} is not the largest number of each row of {label(operand)}")


def _inputs(value: ir.Value, operator: str, count: int) -> tuple[ir.Value, ...]:
    node = made_by(value, operator)
    if node is None or len(operands(node)) != count:
        raise StructureError(
            f"{label(value)} stands in an int8 product; expected {operator} of {count}, as in "
            "float(MatMulInteger(QuantizeLinear(operand), weight)) * scale"
        )
    return operands(node)


def _expect(value: ir.Value, number: np.generic) -> None:
    found = constant(value)
    if found is None or found.dtype != number.dtype or found.shape != () or found != number:
        raise StructureError(f"{label(value)} is {found}, expected {number.dtype} {number}")
