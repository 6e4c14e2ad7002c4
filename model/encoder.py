"""From one step's input to what the first cell takes, and from the head's numbers to the user's units."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gatestream.model.config import NetworkConfig


class OneHot(nn.Module):
    """Token ids to one-hot vectors: int64 [...] to float32 [..., tokens].

    A look-up in the identity matrix: one operation wherever it runs, and an id outside 0..tokens-1 is an
    error rather than a row of zeros.
    """

    rows: Tensor

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.register_buffer("rows", torch.eye(tokens), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """A 1 at each id."""
        return nn.functional.embedding(x, self.rows)


class _Affine(nn.Module):
    mean: Tensor
    scale: Tensor

    def __init__(self, mean: Sequence[float], scale: Sequence[float]) -> None:
        super().__init__()
        # Not persistent: the configuration holds them, and one thing has one place.
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32), persistent=False)
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32), persistent=False)


class Normalise(_Affine):
    """Raw units to about zero mean and unit spread: float32 [..., features] to the same shape."""

    def forward(self, x: Tensor) -> Tensor:
        """`(x - mean) / scale`."""
        return (x - self.mean) / self.scale


class Denormalise(_Affine):
    """The head's numbers to raw units: float32 [..., features] to the same shape."""

    def forward(self, y: Tensor) -> Tensor:
        """`y * scale + mean`."""
        return y * self.scale + self.mean


def build_encoder(config: NetworkConfig) -> nn.Module:
    """A module from `x` of any leading shape to float32 [..., config.encoded]."""
    if config.encoder == "one_hot":
        return OneHot(config.inputs)
    if config.encoder == "embedding":
        return nn.Embedding(config.inputs, config.embedding)
    normalise = Normalise(config.input_mean, config.input_scale) if config.input_mean else nn.Identity()
    if config.encoder == "none":
        return normalise
    return nn.Sequential(normalise, nn.Linear(config.inputs, config.embedding))
