"""A reading of the operators LSTM, GRU and RNN in NumPy and float64, from their definitions and from nothing else."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "Tanh": np.tanh,
    "Relu": lambda x: np.maximum(x, 0),
    "HardSigmoid": lambda x: np.clip(0.2 * x + 0.5, 0, 1),
    "Softsign": lambda x: x / (1 + np.abs(x)),
    "Softplus": lambda x: np.log1p(np.exp(x)),
    "Elu": lambda x: np.where(x >= 0, x, np.exp(x) - 1),
}
DEFAULTS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}


def run(
    operator: str,
    x: Array,
    weights: Mapping[str, Array],
    h: Array,
    c: Array | None = None,
    *,
    lengths: Sequence[int] | None = None,
    activations: Sequence[str] = (),
    clip: float | None = None,
    peepholes: Array | None = None,
    input_forget: int = 0,
    linear_before_reset: int = 0,
) -> Array:
    """Go forward through time.

    Args:
        operator: LSTM, GRU or RNN.
        x: [time, batch, inputs].
        weights: W, R and B of one direction, as the operator has them.
        h: hidden states to start from, [batch, hidden].
        c: cell states to start from.
        lengths: real steps of each row; behind them the output is 0.
        activations: f, g and h of the operator's definition.
        clip: largest number, either way, that f and g are given; onnxruntime does not clip what an LSTM's h is given.
        peepholes: of input, output and forget gate, [3 * hidden].
        input_forget: the forget gate is 1 less the input gate.
        linear_before_reset: of a GRU, the reset gate comes behind the product.

    Returns:
        y [time, batch, hidden].
    """
    hidden = h.shape[-1]
    W, R, B = (weights[name][0].astype(np.float64) for name in "WRB")
    b, r = B[: len(W)], B[len(W) :]
    functions = [ACTIVATIONS[name] for name in activations or DEFAULTS[operator]]

    def activate(k: int, value: Array) -> Array:
        return functions[k](value if clip is None else np.clip(value, -clip, clip))

    def part(array: Array, k: int) -> Array:
        return array[k * hidden : (k + 1) * hidden]

    h = h.astype(np.float64)
    c = np.zeros_like(h) if c is None else c.astype(np.float64)
    P = np.zeros(3 * hidden) if peepholes is None else peepholes.astype(np.float64)
    ys = []
    for t, x_t in enumerate(x.astype(np.float64)):
        wx = [x_t @ part(W, k).T + part(b, k) for k in range(len(W) // hidden)]
        rh = [h @ part(R, k).T + part(r, k) for k in range(len(W) // hidden)]
        if operator == "RNN":
            new = activate(0, wx[0] + rh[0])
        elif operator == "GRU":
            z, reset = activate(0, wx[0] + rh[0]), activate(0, wx[1] + rh[1])
            last = reset * rh[2] if linear_before_reset else (reset * h) @ part(R, 2).T + part(r, 2)
            new = (1 - z) * activate(1, wx[2] + last) + z * h
        else:
            i = activate(0, wx[0] + rh[0] + part(P, 0) * c)
            f = 1 - i if input_forget else activate(0, wx[2] + rh[2] + part(P, 2) * c)
            c_new = f * c + i * activate(1, wx[3] + rh[3])
            o = activate(0, wx[1] + rh[1] + part(P, 1) * c_new)
            new = o * functions[2](c_new)
        real = np.ones(len(h), bool) if lengths is None else np.asarray(lengths) > t
        h = np.where(real[:, None], new, h)
        if operator == "LSTM":
            c = np.where(real[:, None], c_new, c)
        ys.append(np.where(real[:, None], new, 0))
    return np.stack(ys)
