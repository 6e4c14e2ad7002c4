"""What the tables of test_mutations do not spoil."""

import re
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from gatestream.export.artifact import load
from gatestream.export.errors import ContractError
from gatestream.export.proof.contract import check_contract, check_model
from tests.export.conftest import Exported


def fixed_batch(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4


def other_dtype(model: onnx.ModelProto) -> None:
    model.graph.input[1].type.tensor_type.elem_type = TensorProto.INT64


def another_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("temperature", TensorProto.FLOAT, []))


def overridable_weight(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("head.bias", TensorProto.FLOAT, [5]))


def foreign_operator(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    next(node for node in model.graph.node if node.op_type == "MatMul").domain = "com.example"


def newer_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 22


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (fixed_batch, "input 'x' is INT64 [4, 'time'], expected INT64 ['batch', 'time']"),
        (other_dtype, "input 'length' is INT64 ['batch'], expected INT32 ['batch']"),
        (another_input, "inputs ['x', 'length', 'h', 'c', 'temperature'], expected ['x', 'length', 'h', 'c']"),
        (overridable_weight, "inputs ['x', 'length', 'h', 'c', 'head.bias'], expected ['x', 'length', 'h', 'c']"),
        (foreign_operator, "operator com.example.MatMul is not one of ONNX's own"),
        (newer_opset, "opset 22, expected 20 or 21"),
    ],
)
def test_refused(exported: Exported, tmp_path: Path, change: Callable[[onnx.ModelProto], None], message: str) -> None:
    model = onnx.load(exported("tokens", "fused")[0])
    change(model)
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(ContractError, match=re.escape(message)):
        check_contract(load(tmp_path / "model.onnx"))


def test_the_checker_speaks_in_one_line(exported: Exported, tmp_path: Path) -> None:
    model = onnx.load(exported("tokens", "fused")[0])
    model.graph.node[0].op_type = "Nonsense"
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(ContractError, match=r"^onnx.checker: .*Nonsense") as caught:
        check_model(load(tmp_path / "model.onnx"))
    assert "\n" not in str(caught.value)
