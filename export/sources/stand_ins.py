"""What stands in for torch's and Python's own while a module is traced, so that its sizes stay open.

Packed sequences: rows of one length are as good unpacked. `len(x)`, which can only be a number: `x.shape[0]`.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
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
            f"forward uses '{name}' of a packed sequence: it can be exported where it packs, runs a recurrent layer "
            "and unpacks; call other layers on padded tensors"
        )


# Called as torch's are, so with their names.
def _pack(input: Tensor, lengths: Any, batch_first: bool = False, enforce_sorted: bool = True) -> Unpacked:  # noqa: A002, ARG001
    return Unpacked(input, batch_first)


def _unpack(
    sequence: Unpacked,
    batch_first: bool = False,
    padding_value: float = 0.0,  # noqa: ARG001
    total_length: int | None = None,  # noqa: ARG001
) -> tuple[Tensor, Tensor]:
    tensor = sequence.tensor if sequence.batch_first == batch_first else sequence.tensor.transpose(0, 1)
    batch, time = (0, 1) if batch_first else (1, 0)
    return tensor, torch.full((tensor.shape[batch],), tensor.shape[time], dtype=torch.int64)


def _pack_list(sequences: list[Tensor], enforce_sorted: bool = True) -> Unpacked:  # noqa: ARG001
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


def _length(found: Any) -> Any:
    return found.shape[0] if isinstance(found, Tensor) else len(found)


@contextmanager
def open_lengths(module: nn.Module) -> Iterator[None]:
    """Within this, `len` of a tensor is left open, in the files that the module's classes are written in."""
    files = {cls.__module__ for each in module.modules() for cls in type(each).__mro__}
    places = [vars(sys.modules[name]) for name in files if name in sys.modules and not name.startswith("torch.")]
    places = [names for names in places if "len" not in names and names.get("__name__") != "builtins"]
    try:
        for names in places:
            names["len"] = _length
        yield
    finally:
        for names in places:
            del names["len"]
