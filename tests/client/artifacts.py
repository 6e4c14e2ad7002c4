"""A model over tokens, for tests of the client."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper, numpy_helper

from gatestream.protos import spec as spec_module
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from tests.support.artifacts import OPSET, save

TOKENS = ["B", "T", "X", "<end>"]


def counter(path: Path) -> Path:
    """A model whose answer is how often each token has come so far in the session."""
    n = len(TOKENS)
    constants: dict[str, npt.NDArray[Any]] = {
        "depth": np.array(n, np.int64),
        "off_on": np.array([0, 1], np.float32),
        "zero": np.array(0, np.int64),
        "one": np.array(1, np.int64),
        "one_d": np.array([1], np.int64),
        "minus_one": np.array([-1], np.int64),
    }
    node, value = helper.make_node, helper.make_tensor_value_info
    nodes = [
        node("Shape", ["x"], ["time"], start=1, end=2),
        node("Squeeze", ["time"], ["time_scalar"]),
        node("Range", ["zero", "time_scalar", "one"], ["steps"]),
        node("Cast", ["length"], ["length64"], to=TensorProto.INT64),
        node("Unsqueeze", ["length64", "one_d"], ["length_column"]),
        node("Less", ["steps", "length_column"], ["real"]),
        node("Cast", ["real"], ["real_float"], to=TensorProto.FLOAT),
        node("Unsqueeze", ["real_float", "minus_one"], ["mask"]),
        node("OneHot", ["x", "depth", "off_on"], ["hot"]),
        node("Mul", ["hot", "mask"], ["counted"]),
        node("CumSum", ["counted", "one"], ["sums"]),
        node("Unsqueeze", ["s", "one_d"], ["s_row"]),
        node("Add", ["sums", "s_row"], ["y"]),
        node("ReduceSum", ["counted", "one_d"], ["total"], keepdims=0),
        node("Add", ["s", "total"], ["s_next"]),
    ]
    graph = helper.make_graph(
        nodes,
        "counter",
        [
            value("x", TensorProto.INT64, ["batch", "time"]),
            value("length", TensorProto.INT32, ["batch"]),
            value("s", TensorProto.FLOAT, ["batch", n]),
        ],
        [
            value("y", TensorProto.FLOAT, ["batch", "time", n]),
            value("s_next", TensorProto.FLOAT, ["batch", n]),
        ],
        [numpy_helper.from_array(array, key) for key, array in constants.items()],
    )
    spec = pb.ModelSpec(
        contract=spec_module.CONTRACT,
        name="counter",
        version="1",
        layers=1,
        hidden=n,
        inputs=[pb.TensorSpec(name="x", dtype=pb.DATA_TYPE_INT64, vocabulary=TOKENS)],
        length_input="length",
        outputs=[pb.TensorSpec(name="y", dtype=pb.DATA_TYPE_FLOAT32, shape=[n], vocabulary=TOKENS)],
        states=[pb.StateSpec(input="s", output="s_next", dtype=pb.DATA_TYPE_FLOAT32, shape=[n])],
        opset=OPSET,
    )
    return save(path, graph, spec)
