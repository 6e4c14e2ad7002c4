"""Graphs written by hand, a line for a node."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.support.strangers.stranger import Array

Shape = Sequence[int | str]


class Graph:
    """A graph that grows; weights are noise of a fixed seed.

    Args:
        name: of the graph.
        producer: who is said to have written the file.
        opset: of ONNX's own operators.
        prefix: of the names that are made up: those of a body must not be those of the graph around it.
    """

    def __init__(self, name: str, producer: str = "", opset: int = 17, prefix: str = ""):
        self.name, self._producer, self._opset, self._prefix = name, producer, opset, prefix
        self._rng = np.random.default_rng(len(name))
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, Array] = {}

    def input(self, name: str, shape: Shape, dtype: int = TensorProto.FLOAT) -> str:
        self._inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def output(self, name: str, shape: Shape, dtype: int = TensorProto.FLOAT) -> str:
        self._outputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def weight(self, *shape: int, dtype: Any = np.float32, name: str = "") -> str:
        """Noise that neither dies out nor explodes."""
        scale = 0.7 / max(shape[-1], 1) ** 0.5
        return self.constant(
            self._rng.normal(0, scale, shape).astype(dtype), name or f"{self._prefix}w{len(self._initializers)}"
        )

    def constant(self, value: Any, name: str = "") -> str:
        """An initializer; whole numbers are int64."""
        name = name or f"{self._prefix}c{len(self._initializers)}"
        array = np.asarray(value)
        self._initializers[name] = array.astype(np.float32) if array.dtype == np.float64 else array
        return name

    def node(self, kind: str, *inputs: str, out: str | Sequence[str] = "", **attributes: Any) -> str:
        """Add a node; the name of its first output, which is `out` where that is given."""
        outputs = [out] if isinstance(out, str) else list(out)
        if outputs == [""]:
            outputs = [f"{self._prefix}{kind.lower()}_{len(self._nodes)}"]
        name = f"{self._prefix}{kind}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), outputs, name, **attributes))
        return next(filter(None, outputs))

    def lstm(self, x: str, features: int, hidden: int, *starts: str, out: Sequence[str], **attributes: Any) -> None:
        """The operator; `out` are Y [time, 1, batch, hidden], Y_h and Y_c."""
        self._recurrent("LSTM", 4, x, features, hidden, starts, out, attributes)

    def gru(self, x: str, features: int, hidden: int, *starts: str, out: Sequence[str], **attributes: Any) -> None:
        """As `lstm`, without Y_c."""
        self._recurrent("GRU", 3, x, features, hidden, starts, out, attributes)

    def rnn(self, x: str, features: int, hidden: int, *starts: str, out: Sequence[str], **attributes: Any) -> None:
        """As `gru`."""
        self._recurrent("RNN", 1, x, features, hidden, starts, out, attributes)

    def _recurrent(
        self,
        kind: str,
        gates: int,
        x: str,
        features: int,
        hidden: int,
        starts: Sequence[str],
        out: Sequence[str],
        attributes: dict[str, Any],
    ) -> None:
        directions = 2 if attributes.get("direction") == "bidirectional" else 1
        bias = attributes.pop("bias", True)
        weights = [self.weight(directions, gates * hidden, size) for size in (features, hidden)]
        weights.append(self.weight(directions, 2 * gates * hidden) if bias else "")
        inputs = [x, *weights, *(["", *starts] if starts else [])]
        while not inputs[-1]:
            inputs.pop()
        self.node(kind, *inputs, out=out, hidden_size=hidden, **attributes)

    def proto(self) -> onnx.GraphProto:
        weights = [numpy_helper.from_array(value, name) for name, value in self._initializers.items()]
        return helper.make_graph(self._nodes, self.name, self._inputs, self._outputs, weights)

    def save(self, folder: Path, file: str = "", **how: Any) -> Path:
        """Write the file; `how` is for `onnx.save`."""
        model = helper.make_model(
            self.proto(),
            opset_imports=[helper.make_opsetid("", self._opset)],
            ir_version=8,
            producer_name=self._producer,
        )
        path = folder / (file or f"{self.name}.onnx")
        onnx.save(model, path, **how)
        onnx.checker.check_model(path, full_check=True)
        return path
