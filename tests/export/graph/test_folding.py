"""What depends on constants alone is computed, unless that makes the file larger."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from onnx import TensorProto, helper

from gatestream.export.graph.folding import fold
from gatestream.export.graph.initializers import constant
from tests.export.adopting.graphs import Array, model, tensor

node = helper.make_node


def with_weights(made: list[onnx.NodeProto], constants: dict[str, Array]) -> ir.Model:
    """x [batch, time, 3] times what these nodes make, `w` [3, 200]."""
    return ir.from_proto(
        model(
            [*made, node("MatMul", ["x", "w"], ["y"])],
            [tensor("x", ["batch", "time", 3])],
            [tensor("y", [None] * 3)],
            constants,
            opset=20,
        )
    )


def computed(changed: ir.Model) -> Array:
    session = onnxruntime.InferenceSession(ir.to_proto(changed).SerializeToString())
    x = np.random.default_rng(1).standard_normal((3, 5, 3)).astype(np.float32)
    found: Array = session.run(["y"], {"x": x})[0]
    return found


def folded(before: ir.Model) -> list[str]:
    """The operators afterwards; the numbers are the same."""
    expected = computed(before)
    fold(before)
    # A constant matrix is multiplied by another kernel, which adds up in another order.
    np.testing.assert_allclose(computed(before), expected, rtol=0, atol=1e-5)
    return [each.op_type for each in before.graph]


LARGE = np.random.default_rng(3).standard_normal((6000, 3)).astype(np.float32)


def test_weights_that_are_put_together() -> None:
    nodes = [
        node("Slice", ["all", "a", "b"], ["first"]),
        node("Slice", ["all", "b", "c"], ["second"]),
        node("Concat", ["second", "first"], ["both"], axis=0),
        node("Transpose", ["both"], ["w"], perm=[1, 0]),
    ]
    ends = {name: np.array([k]) for name, k in {"a": 0, "b": 2500, "c": 6000}.items()}
    before = with_weights(nodes, {"all": LARGE, **ends})
    assert folded(before) == ["MatMul"]
    [(name, value)] = before.graph.initializers.items()
    assert name == "w"
    np.testing.assert_array_equal(constant(value), np.concatenate([LARGE[2500:], LARGE[:2500]]).T)


def test_weights_in_fewer_bits_stay_so() -> None:
    nodes = [node("Cast", ["half"], ["wide"], to=TensorProto.FLOAT), node("Transpose", ["wide"], ["w"], perm=[1, 0])]
    before = with_weights(nodes, {"half": LARGE.astype(np.float16)})
    assert folded(before) == ["Cast", "Transpose", "MatMul"]
    fold(before, everything=True)
    assert [each.op_type for each in before.graph] == ["MatMul"]


def test_what_fills_a_tensor_stays() -> None:
    before = with_weights(
        [node("Expand", ["row", "shape"], ["w"])],
        {"row": LARGE[:1, :1], "shape": np.array([3, 5000])},
    )
    assert folded(before) == ["Expand", "MatMul"]
