"""A tensor that a module's `forward` takes or gives: its type, and which of its axes are what; how it is written."""

import re
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from gatestream.export.errors import SourceError

DTYPES: Final = {
    name: getattr(torch, name)
    for name in ("float32", "int64", "float16", "float64", "int32", "int16", "int8", "uint8", "bool")
}
"""Those that a spec has, by name."""

_NOTATION: Final = re.compile(r"([^\W\d][\w.]*)(?::(\w+)(?:<(\d+))?)?\[([^\]]*)\]")
_LOUD: Final = 4096
"""Whole numbers without a limit are samples of sound, or the like: so far from 0 they are tried."""


@dataclass(frozen=True, slots=True)
class Port:
    """A tensor that `forward` takes or gives.

    Attributes:
        name: in the artifact.
        dtype: of its numbers.
        shape: of one step of one session; of a state, of one session.
        batch_axis: which axis of the module's tensor is the sessions'.
        time_axis: and which is time; None: it has none.
        limit: whole numbers from 0 to below this are taken; 0: any.
        initial: what a state starts from, [*shape]; None: zeros.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    batch_axis: int = 0
    time_axis: int | None = 1
    limit: int = 0
    initial: Tensor | None = None

    def laid_out(self, tensor: Tensor) -> Tensor:
        """[batch, time, *shape], or without a time axis [batch, *shape], as the module has it."""
        if self.time_axis is None:
            return tensor if self.batch_axis == 0 else tensor.movedim(0, self.batch_axis)
        axes = (self.batch_axis, self.time_axis)
        return tensor if axes == (0, 1) else tensor.movedim((0, 1), axes)

    def normal(self, tensor: Tensor) -> Tensor:
        """The other way round."""
        if self.time_axis is None:
            return tensor if self.batch_axis == 0 else tensor.movedim(self.batch_axis, 0)
        axes = (self.batch_axis, self.time_axis)
        return tensor if axes == (0, 1) else tensor.movedim(axes, (0, 1))

    def start(self, batch: int) -> Tensor:
        """A state of sessions that have seen nothing, [batch, *shape]."""
        if self.initial is None:
            return torch.zeros((batch, *self.shape), dtype=self.dtype)
        return self.initial.expand(batch, *self.shape).clone()

    def sample(self, lead: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Some numbers that it may have, [*lead, *shape]."""
        shape = (*lead, *self.shape)
        if self.dtype.is_floating_point:
            return torch.randn(shape, generator=generator).to(self.dtype)
        if self.limit or self.dtype == torch.bool:
            return torch.randint(self.limit or 2, shape, generator=generator).to(self.dtype)
        known = torch.iinfo(self.dtype)
        low, high = max(known.min, -_LOUD), min(known.max, _LOUD)
        return torch.randint(low, high + 1, shape, generator=generator).to(self.dtype)

    def __str__(self) -> str:
        dims = [str(size) for size in self.shape]
        named = [(self.batch_axis, "batch")] + ([] if self.time_axis is None else [(self.time_axis, "time")])
        for axis, name in sorted(named):
            dims.insert(axis, name)
        return f"{self.name}:{str(self.dtype).removeprefix('torch.')}[{','.join(dims)}]"


def parsed(text: str, *, time: bool) -> Port:
    """The tensor that a notation says: "x:float32[40]", "h[2,batch,64]", "token:int64<256[]".

    Args:
        text: the notation.
        time: each step has its own: [batch, time, *shape] where no axis is named; else [batch, *shape].

    Raises:
        SourceError: it is not written so.
    """
    found = _NOTATION.fullmatch(text.replace(" ", ""))
    if found is None:
        raise SourceError(f"'{text}' is not written as NAME:TYPE[SHAPE], such as x:float32[40] or token:int64<256[]")
    name, dtype, limit, dims = found.groups()
    dtype = dtype or "float32"
    if dtype not in DTYPES:
        pairs = "; pass pairs of numbers, and make them complex by torch.view_as_complex" * dtype.startswith("complex")
        raise SourceError(f"'{text}': no type '{dtype}'; one of {', '.join(DTYPES)}{pairs}")
    axes = [each for each in dims.split(",") if each]
    if "batch" not in axes and "time" not in axes:
        axes = ["batch", *(["time"] if time else []), *axes]
    names, sizes = [each for each in axes if not each.isdecimal()], [int(each) for each in axes if each.isdecimal()]
    if not set(names) <= ({"batch", "time"} if time else {"batch"}) or names.count("batch") != 1 or 0 in sizes:
        known = "batch and time" if time else "batch"
        raise SourceError(f"'{text}': its axes are numbers above 0 and {known}, each once; only inputs have time")
    return Port(
        name,
        DTYPES[dtype],
        tuple(sizes),
        axes.index("batch"),
        axes.index("time") if "time" in axes else None,
        int(limit or 0),
    )
