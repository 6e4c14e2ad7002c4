"""Packed sequences, while a module is traced: rows of one length, which are as good unpacked."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import rnn

from gatestream.export.errors import SourceError


@dataclass(frozen=True, slots=True)
class Unpacked:
    """Stands for a PackedSequence of rows that are all of one length.

    Attributes:
        tensor: as it was to be packed.
        batch_first: whether its first axis is the sessions'.
    """

    tensor: Tensor
    batch_first: bool

    def __getattr__(self, name: str) -> Any:
        raise SourceError(
            f"forward uses '{name}' of a packed sequence: it can be exported where it packs, runs a recurrent layer and "
            "unpacks; call layers on padded tensors"
        )


def _pack(input: Tensor, lengths: Any, batch_first: bool = False, enforce_sorted: bool = True) -> Unpacked:
    return Unpacked(input, batch_first)


def _unpack(
    sequence: Unpacked, batch_first: bool = False, padding_value: float = 0.0, total_length: int | None = None
) -> tuple[Tensor, Tensor]:
    tensor = sequence.tensor if sequence.batch_first == batch_first else sequence.tensor.transpose(0, 1)
    batch, time = (0, 1) if batch_first else (1, 0)
    return tensor, torch.full((tensor.shape[batch],), tensor.shape[time], dtype=torch.int64)


def _pack_list(sequences: list[Tensor], enforce_sorted: bool = True) -> Unpacked:
    raise SourceError("forward packs a list of sequences: pack one padded tensor with pack_padded_sequence")


@contextmanager
def unpacked() -> Iterator[None]:
    """Within this, packing gives an `Unpacked`, wherever the functions were imported to."""
    stand_ins: list[tuple[Callable[..., Any], Callable[..., Any]]] = [
        (rnn.pack_padded_sequence, _pack),
        (rnn.pad_packed_sequence, _unpack),
        (rnn.pack_sequence, _pack_list),
    ]
    replaced: list[tuple[dict[str, Any], str, Any]] = []
    try:
        for module in list(sys.modules.values()):
            names = getattr(module, "__dict__", None)
            if not isinstance(names, dict):
                continue
            for name, value in list(names.items()):
                for real, stand_in in stand_ins:
                    if value is real:
                        replaced.append((names, name, real))
                        names[name] = stand_in
        yield
    finally:
        for names, name, real in replaced:
            names[name] = real
