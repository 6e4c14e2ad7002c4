"""The network in NumPy, written from its equations and from nothing else here.

It imports neither the model nor the rest of the export, so that a mistake would have to be made twice to go
unseen. In float64 what it says is the value; in float32 it shows what float32 loses of it.

With sigma the logistic function and * elementwise::

    i = sigma(W_i x + R_i h + b_i)
    f = sigma(W_f x + R_f h + b_f)
    g = tanh (W_g x + R_g h + b_g)
    o = sigma(W_o x + R_o h + b_o)
    c' = f * c + i * g
    h' = o * tanh(c')
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb

Floats = NDArray[np.floating]


class Oracle:
    """A network of given weights.

    Args:
        weights: by the checkpoint's names: `cells.0.input_gate.W`, `.R` and `.b`, likewise `forget_gate`,
            `cell_candidate`, `output_gate`, for every layer; `head.weight` and `head.bias`; and what the
            encoder has.
        spec: for the number of layers, and what the input and the output mean.
        dtype: to compute in: float64 for the value, float32 for what becomes of it there.

    Raises:
        KeyError: a weight is missing.
    """

    def __init__(
        self,
        weights: Mapping[str, NDArray[np.float32]],
        spec: pb.ModelSpec,
        dtype: type[np.float64] | type[np.float32] = np.float64,
    ) -> None:
        self._dtype = dtype
        self._weights: dict[str, Floats] = {name: array.astype(dtype) for name, array in weights.items()}
        self._layers = [{gate: self._gate(f"cells.{layer}.{gate}") for gate in _GATES} for layer in range(spec.layers)]
        self._head = self._weights["head.weight"], self._weights["head.bias"]
        self._input, self._output = spec.inputs[0], spec.outputs[0]

    def _gate(self, prefix: str) -> tuple[Floats, Floats, Floats]:
        return self._weights[f"{prefix}.W"], self._weights[f"{prefix}.R"], self._weights[f"{prefix}.b"]

    def run(self, x: NDArray[np.generic], h: NDArray[np.generic], c: NDArray[np.generic]) -> dict[str, Floats]:
        """Take the steps of `x` one after another.

        Args:
            x: [batch, time] token ids, or [batch, time, features].
            h: hidden states to start from, [batch, layers, hidden].
            c: cell states to start from, [batch, layers, hidden].

        Returns:
            In `dtype`: y [batch, time, outputs]; h and c after each step, and the activations i, f, g and o, each
            [batch, time, layers, hidden].
        """
        hidden: Floats = h.astype(self._dtype)
        state: Floats = c.astype(self._dtype)
        steps = []
        for t in range(x.shape[1]):
            below = self.encode(x[:, t])
            hidden, state = hidden.copy(), state.copy()
            gates = np.empty((4, *hidden.shape), self._dtype)
            for layer in range(len(self._layers)):
                i, f, g, o = self.gates(layer, below, hidden[:, layer])
                state[:, layer] = f * state[:, layer] + i * g
                hidden[:, layer] = o * np.tanh(state[:, layer])
                gates[:, :, layer] = i, f, g, o
                below = hidden[:, layer]
            steps.append((self.decode(below), hidden, state, *gates))
        return {
            name: np.stack(column, axis=1) for name, column in zip("yhcifgo", zip(*steps, strict=True), strict=True)
        }

    def gates(self, layer: int, x: Floats, h: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """One step's i, f, g and o of a layer: [batch, inputs] and [batch, hidden] to [batch, hidden] each."""
        cell = self._layers[layer]
        i = _sigma(_affine(cell["input_gate"], x, h))
        f = _sigma(_affine(cell["forget_gate"], x, h))
        g = np.tanh(_affine(cell["cell_candidate"], x, h))
        o = _sigma(_affine(cell["output_gate"], x, h))
        return i, f, g, o

    def encode(self, x: NDArray[np.generic]) -> Floats:
        """One step's input to what the first cell takes: [batch] or [batch, features] to [batch, encoded]."""
        weight = next((w for name, w in self._weights.items() if _is_encoder(name, "weight")), None)
        if self._input.dtype == pb.DATA_TYPE_INT64:
            tokens = self._layers[0]["input_gate"][0].shape[1]
            rows: Floats = np.eye(tokens, dtype=self._dtype) if weight is None else weight
            return rows[x.astype(np.int64)]
        below: Floats = x.astype(self._dtype)
        if self._input.mean:
            below = (below - self._numbers(self._input.mean)) / self._numbers(self._input.scale)
        if weight is not None:
            bias = next(b for name, b in self._weights.items() if _is_encoder(name, "bias"))
            below = below @ weight.T + bias
        return below

    def decode(self, h: Floats) -> Floats:
        """The last layer's hidden state to the output: [batch, hidden] to [batch, outputs], in raw units."""
        weight, bias = self._head
        y: Floats = h @ weight.T + bias
        if self._output.mean:
            y = y * self._numbers(self._output.scale) + self._numbers(self._output.mean)
        return y

    def _numbers(self, values: Sequence[float]) -> Floats:
        return np.array(values, self._dtype)


_GATES = ("input_gate", "forget_gate", "cell_candidate", "output_gate")


def _is_encoder(name: str, parameter: str) -> bool:
    return name.startswith("encoder.") and name.endswith(f".{parameter}")


def _affine(gate: tuple[Floats, Floats, Floats], x: Floats, h: Floats) -> Floats:
    W, R, b = gate
    return x @ W.T + h @ R.T + b


def _sigma(z: Floats) -> Floats:
    half: Floats = np.tanh(z / 2)  # 1 / (1 + exp(-z)) without the overflow
    return (1 + half) / 2
