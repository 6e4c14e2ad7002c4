"""The network in NumPy, written from its equations and from nothing else here.

It imports neither the model nor the rest of the export, so that a mistake would have to be made twice to go
unseen. It computes in float64: what it says is the value, and what a float32 model says is compared with it.

With sigma the logistic function and * elementwise::

    i = sigma(W_i x + R_i h + b_i)
    f = sigma(W_f x + R_f h + b_f)
    g = tanh (W_g x + R_g h + b_g)
    o = sigma(W_o x + R_o h + b_o)
    c' = f * c + i * g
    h' = o * tanh(c')
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb

Doubles = NDArray[np.float64]


class Oracle:
    """A network of given weights.

    Args:
        weights: by the checkpoint's names: `cells.0.input_gate.W`, `.R` and `.b`, likewise `forget_gate`,
            `cell_candidate`, `output_gate`, for every layer; `head.weight` and `head.bias`; and what the
            encoder has.
        spec: for the number of layers, and what the input and the output mean.

    Raises:
        KeyError: a weight is missing.
    """

    def __init__(self, weights: Mapping[str, NDArray[np.float32]], spec: pb.ModelSpec) -> None:
        self._weights = {name: array.astype(np.float64) for name, array in weights.items()}
        self._layers = [{gate: self._gate(f"cells.{layer}.{gate}") for gate in _GATES} for layer in range(spec.layers)]
        self._head = self._weights["head.weight"], self._weights["head.bias"]
        self._input, self._output = spec.inputs[0], spec.outputs[0]

    def _gate(self, prefix: str) -> tuple[Doubles, Doubles, Doubles]:
        return self._weights[f"{prefix}.W"], self._weights[f"{prefix}.R"], self._weights[f"{prefix}.b"]

    def run(self, x: NDArray[np.generic], h: NDArray[np.generic], c: NDArray[np.generic]) -> dict[str, Doubles]:
        """Take the steps of `x` one after another.

        Args:
            x: [batch, time] token ids, or [batch, time, features].
            h: hidden states to start from, [batch, layers, hidden].
            c: cell states to start from, [batch, layers, hidden].

        Returns:
            float64: y [batch, time, outputs]; h and c after each step, and the activations i, f, g and o, each
            [batch, time, layers, hidden].
        """
        hidden, state = h.astype(np.float64), c.astype(np.float64)
        steps = []
        for t in range(x.shape[1]):
            below = self._encode(x[:, t])
            hidden, state = hidden.copy(), state.copy()
            gates = np.empty((4, *hidden.shape))
            for layer, cell in enumerate(self._layers):
                i = _sigma(_affine(cell["input_gate"], below, hidden[:, layer]))
                f = _sigma(_affine(cell["forget_gate"], below, hidden[:, layer]))
                g = np.tanh(_affine(cell["cell_candidate"], below, hidden[:, layer]))
                o = _sigma(_affine(cell["output_gate"], below, hidden[:, layer]))
                state[:, layer] = f * state[:, layer] + i * g
                hidden[:, layer] = o * np.tanh(state[:, layer])
                gates[:, :, layer] = i, f, g, o
                below = hidden[:, layer]
            steps.append((self._decode(below), hidden, state, *gates))
        return {
            name: np.stack(column, axis=1) for name, column in zip("yhcifgo", zip(*steps, strict=True), strict=True)
        }

    def _encode(self, x: NDArray[np.generic]) -> Doubles:
        weight = next((w for name, w in self._weights.items() if _is_encoder(name, "weight")), None)
        if self._input.dtype == pb.DATA_TYPE_INT64:
            tokens = self._layers[0]["input_gate"][0].shape[1]
            rows = np.eye(tokens) if weight is None else weight
            return rows[x.astype(np.int64)]
        below = x.astype(np.float64)
        if self._input.mean:
            below = (below - np.array(self._input.mean)) / np.array(self._input.scale)
        if weight is not None:
            bias = next(b for name, b in self._weights.items() if _is_encoder(name, "bias"))
            below = below @ weight.T + bias
        return below

    def _decode(self, h: Doubles) -> Doubles:
        weight, bias = self._head
        y: Doubles = h @ weight.T + bias
        if self._output.mean:
            y = y * np.array(self._output.scale) + np.array(self._output.mean)
        return y


_GATES = ("input_gate", "forget_gate", "cell_candidate", "output_gate")


def _is_encoder(name: str, parameter: str) -> bool:
    return name.startswith("encoder.") and name.endswith(f".{parameter}")


def _affine(gate: tuple[Doubles, Doubles, Doubles], x: Doubles, h: Doubles) -> Doubles:
    W, R, b = gate
    return x @ W.T + h @ R.T + b


def _sigma(z: Doubles) -> Doubles:
    half: Doubles = np.tanh(z / 2)  # 1 / (1 + exp(-z)) without the overflow
    return (1 + half) / 2
