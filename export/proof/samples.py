"""Inputs and states to verify with, drawn from what the spec says of them."""

import numpy as np
from numpy.typing import NDArray

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.roles import Array


def inputs(spec: pb.ModelSpec, batch: int, time: int, rng: np.random.Generator) -> NDArray[np.generic]:
    """Steps such as the model was made for: uniform token ids, or normal numbers in raw units.

    Args:
        spec: of the model.
        batch: rows.
        time: steps of each row.
        rng: where they are drawn from.

    Returns:
        int64 [batch, time], or float32 [batch, time, features].
    """
    tensor = spec.inputs[0]
    if tensor.dtype == pb.DATA_TYPE_INT64:
        return rng.integers(len(tensor.vocabulary), size=(batch, time))
    x = rng.standard_normal((batch, time, *tensor.shape))
    if tensor.mean:
        x = x * np.array(tensor.scale) + np.array(tensor.mean)
    return x.astype(np.float32)


def states(spec: pb.ModelSpec, batch: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """h, within the range of a hidden state, and c: each float32 [batch, layers, hidden]."""
    shape = (batch, spec.layers, spec.hidden)
    return rng.uniform(-1, 1, shape).astype(np.float32), rng.standard_normal(shape).astype(np.float32)


def zeros(spec: pb.ModelSpec, batch: int) -> tuple[Array, Array]:
    """The states of new sessions."""
    hidden, cell = (np.full((batch, *state.shape), state.initial, np.float32) for state in spec.states)
    return hidden, cell
