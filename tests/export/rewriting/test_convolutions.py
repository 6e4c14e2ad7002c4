"""Convolutions of few positions are products, and the numbers are those of torch's convolution."""

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from gatestream.export.rewriting.convolutions import multiply_out
from tests.export.adopting.graphs import Array, model, tensor

node = helper.make_node
OUTPUTS = 5
ONE = ["convolutions of few positions as one product for all rows: 1"]


def kernel(channels: int, taps: int, group: int = 1) -> Array:
    rng = np.random.default_rng(channels * taps)
    found: Array = rng.standard_normal((OUTPUTS, channels // group, taps)).astype(np.float32)
    return found


def convolving(shape: list[int | str], weight: Array, bias: bool = True, **attributes: Any) -> ir.Model:
    """x of this shape, the sessions' axis first, through one convolution to y."""
    constants = {"weight": weight} | ({"bias": np.arange(OUTPUTS, dtype=np.float32)} if bias else {})
    return ir.from_proto(
        model(
            [node("Conv", ["x", *constants], ["y"], "conv", **attributes)],
            [tensor("x", shape)],
            [tensor("y", ["batch", OUTPUTS, None])],
            constants,
            opset=20,
        )
    )


def run(changed: ir.Model, x: Array) -> Array:
    proto = ir.to_proto(changed)
    onnx.checker.check_model(proto, full_check=True)
    found: Array = onnxruntime.InferenceSession(proto.SerializeToString()).run(["y"], {"x": x})[0]
    return found


@settings(max_examples=60, deadline=None)
@given(
    positions=st.integers(1, 8),
    channels=st.integers(1, 4),
    taps=st.integers(16, 20),
    stride=st.integers(1, 8),
    dilation=st.integers(1, 3),
    begin=st.integers(0, 5),
    surplus=st.integers(0, 7),
    end=st.integers(0, 5),
    bias=st.booleans(),
    rows=st.integers(1, 3),
)
def test_a_product_has_the_numbers_of_torch(
    positions: int,
    channels: int,
    taps: int,
    stride: int,
    dilation: int,
    begin: int,
    surplus: int,
    end: int,
    bias: bool,
    rows: int,
) -> None:
    """Whatever of the last samples nothing reads, and whatever of what is read is zeros."""
    length = (positions - 1) * stride + (taps - 1) * dilation + 1 + surplus % stride - begin - end
    weight = kernel(channels, taps)
    where: dict[str, Any] = {"strides": [stride], "dilations": [dilation], "pads": [begin, end]}
    made = convolving(["batch", channels, length], weight, bias, **where)

    assert multiply_out(made) == ONE
    assert not [each for each in made.graph if each.op_type == "Conv"]
    assert "weight" not in made.graph.initializers or not made.graph.initializers["weight"].uses()

    x = np.random.default_rng(1).standard_normal((rows, channels, length)).astype(np.float32)
    padded = torch.nn.functional.pad(torch.from_numpy(x), (begin, end)).double()
    terms = torch.arange(OUTPUTS).double() if bias else None
    expected = torch.nn.functional.conv1d(padded, torch.from_numpy(weight).double(), terms, stride, 0, dilation)
    assert np.allclose(run(made, x), expected.numpy(), rtol=1e-5, atol=1e-4)


LONG = ["batch", 4, 64]


@pytest.mark.parametrize(
    ("shape", "weight", "attributes"),
    [
        pytest.param(LONG, kernel(4, 8), {}, id="many positions"),
        pytest.param(["batch", 4, "time"], kernel(4, 8), {}, id="along time"),
        pytest.param(["batch", 4, 16], kernel(4, 16, group=2), {"group": 2}, id="groups"),
        pytest.param(["batch", 1, 8], kernel(1, 8), {}, id="few taps"),
        pytest.param(["batch", 4, 16], kernel(4, 16), {"auto_pad": "SAME_UPPER", "strides": [8]}, id="pads itself"),
        pytest.param(["batch", 4, 16], kernel(4, 16).astype(np.float16), {}, id="another type"),
        pytest.param(["batch", 4, 4, 4], kernel(4, 16).reshape(OUTPUTS, 4, 4, 4), {}, id="two axes"),
    ],
)
def test_other_convolutions_are_left(shape: list[int | str], weight: Array, attributes: dict[str, Any]) -> None:
    made = convolving(shape, weight, bias=False, **attributes)
    assert multiply_out(made) == []
    assert [each.op_type for each in made.graph] == ["Conv"]


def test_a_kernel_that_is_computed_is_left() -> None:
    """There is nothing to put in another order."""
    made = convolving(["batch", 4, 16], kernel(4, 16))
    conv = made.graph[0]
    loudest = ir.node("ReduceMax", [made.graph.inputs[0]])
    louder = ir.node("Mul", [made.graph.initializers["weight"], loudest.outputs[0]])
    made.graph.insert_before(conv, [loudest, louder])
    conv.replace_input_with(1, louder.outputs[0])
    assert multiply_out(made) == []


def test_sessions_and_steps_along_the_axis_are_no_positions() -> None:
    """An axis that is as long as there are sessions has one size in one run only."""
    made = convolving([4, 4, "batch"], kernel(4, 16))
    assert multiply_out(made) == []


def test_pads_that_an_exporter_leaves_to_be_computed_are_known() -> None:
    """Torch's script exporter makes them of a ConstantOfShape, and so no size behind them is known."""
    constants = {
        "weight": kernel(4, 16),
        "missing": np.array([4], np.int64),
        "given": np.array([0, 8], np.int64),
    }
    nodes = [
        node("ConstantOfShape", ["missing"], ["zeros"], value=helper.make_tensor("", onnx.TensorProto.INT64, [1], [0])),
        node("Concat", ["zeros", "given"], ["pads"], axis=0),
        node("Pad", ["x", "pads"], ["padded"]),
        node("Conv", ["padded", "weight"], ["y"], strides=[8]),
    ]
    made = ir.from_proto(
        model(nodes, [tensor("x", ["batch", 4, 24])], [tensor("y", ["batch", OUTPUTS, None])], constants, opset=20)
    )
    assert multiply_out(made) == ONE
    assert {each.op_type for each in made.graph} == {"Pad", "Transpose", "Reshape", "Gather", "Gemm"}
