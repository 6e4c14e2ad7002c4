"""State that a module keeps and nobody carries: found as a difference in torch, and named.

The module itself, on whole sequences, is the reference. What float32 loses is taken into account: the module is run
again with other last bits in its weights, and only what differs by more than that is a difference.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final, TypeVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree  # what torch takes results apart with

from gatestream.export.errors import NotStreamableError
from gatestream.export.sources.recurrent import called
from gatestream.export.sources.streamed import Streamed

BATCH: Final = 3
CHUNKS: Final = (6, 1, 4, 9, 2, 1)
"""Unlike each other; a whole sequence is all of them."""

_TOLERANCE, _LOSSES, _PARTED = 1e-5, 16, 1e-2
_LEAST: Final = 8
"""Last bits that may always differ, where that is more than the tolerance."""

_TELLING: Final = 1e-4
"""Of a submodule's largest number: by so much it differs, where it is the first that does."""

Trace = dict[str, tuple[nn.Module, list[Tensor]]]
"""Submodules and what they gave in their first call, by name, in the order in which they were done."""

Result = TypeVar("Result")


def check(streamed: Streamed) -> None:
    """Prove that a module has no state but that which is carried.

    Raises:
        NotStreamableError: what it gives depends on the rows beside, on steps that come later, or on steps before the
            chunk that no state carries; the submodule is named.
    """
    module, time = streamed.module, sum(CHUNKS)
    inputs = streamed.signature.sample(BATCH, time, seed=17)
    constants = streamed.signature.sample_constants(BATCH, seed=17)
    whole = streamed.whole(inputs, constants)
    _, trace = _traced(module, partial(streamed.once, inputs, constants))
    allowed = _allowed(streamed, inputs, constants, whole)
    for row in range(BATCH):
        one, own = ([x[row : row + 1] for x in each] for each in (inputs, constants))
        alone = streamed.whole(one, own)
        if difference := _difference([y[row : row + 1] for y in whole], alone, allowed):
            _, found = _traced(module, partial(streamed.once, one, own))
            raise NotStreamableError(
                f"{_first(trace, found, BATCH, 1, row)} gives a row other numbers alone than among others "
                f"({difference}): sessions would be mixed; where time is the first axis, say so: --input "
                "NAME:TYPE[time,batch,...]"
            )
    if not streamed.stepwise:
        for until in (1, time // 2):
            given, found = _traced(module, partial(streamed.whole, [x[:, :until] for x in inputs], constants))
            if difference := _difference([y[:, :until] for y in whole], given, allowed):
                raise NotStreamableError(
                    f"{_first(trace, found, time, until, 0)} gives other numbers when the sequence ends after {until} "
                    f"steps ({difference}): it looks at later steps, and cannot take one at a time"
                )
    states, start = streamed.start(constants, BATCH), 0
    for steps in CHUNKS:
        steps_of = slice(start, start + steps)
        (given, after), found = _traced(module, partial(streamed.run, [x[:, steps_of] for x in inputs], states))
        if difference := _difference([y[:, steps_of] for y in whole], given, [each[steps_of] for each in allowed]):
            if start == 0 and streamed.loops:
                raise NotStreamableError(
                    f"{called(streamed.loops[0].name, streamed.loops[0].module)} is given for each step what is "
                    f"computed of the state with the step's own inputs ({difference}); make the state an argument and "
                    "a result of forward"
                )
            name = _first(trace, found, time, 1 if streamed.stepwise else steps, start)
            raise NotStreamableError(
                f"{name} gives other numbers when a chunk begins at step {start} "
                f"({difference}): it needs earlier steps, which no state carries; make what it keeps of them an "
                "argument and a result of forward"
            )
        states, start = after, start + steps


def _difference(expected: Sequence[Tensor], given: Sequence[Tensor], allowed: Sequence[Tensor]) -> str:
    """Where they first differ by more than is allowed, in words; empty: nowhere.

    Args:
        expected: [batch, time, *shape] each.
        given: likewise.
        allowed: [at least time] each.
    """
    for k, (one, other, most) in enumerate(zip(expected, given, allowed, strict=True)):
        if one.shape != other.shape:
            return f"output {k} is {list(other.shape)} and not {list(one.shape)}"
        apart = _apart(one, other)
        if bool((wrong := apart > most[: len(apart)]).any()):
            step = int(wrong.nonzero()[0])
            return f"off by {apart[step]:.3g} where outputs reach {one.double().abs().max():.3g}"
    return ""


def _apart(one: Tensor, other: Tensor) -> Tensor:
    """How far two outputs [batch, time, *shape] are apart at each step, [time]."""
    apart = (one.double() - other.double()).abs()
    return apart.reshape(*apart.shape[:2], -1).amax((0, 2))


def _allowed(
    streamed: Streamed, inputs: Sequence[Tensor], constants: Sequence[Tensor], whole: Sequence[Tensor]
) -> list[Tensor]:
    """By how much each output may differ, step by step: [time] each; without bound once float32 itself has parted."""
    lost = [torch.zeros(y.shape[1], dtype=torch.float64) for y in whole]
    for seed in range(4):
        with _other_last_bits(streamed.module, seed):
            for most, y, other in zip(lost, whole, streamed.whole(inputs, constants), strict=True):
                torch.maximum(most, _apart(y, other).cummax(0).values, out=most)
    allowed = []
    for most, y in zip(lost, whole, strict=True):
        scale = max(1.0, float(y.double().abs().max()))
        parted = most > _PARTED * scale
        bits = torch.finfo(y.dtype).eps if y.dtype.is_floating_point else 0.0
        least = max(_TOLERANCE, _LEAST * bits) * scale
        allowed.append((_LOSSES * most).clamp(min=least).masked_fill(parted, torch.inf))
    return allowed


@contextmanager
def _other_last_bits(module: nn.Module, seed: int) -> Iterator[None]:
    """Within this, the weights are off by their last bit, or by nothing."""
    generator = torch.Generator().manual_seed(seed)
    weights = [each for each in module.parameters() if each.dtype.is_floating_point]
    kept = [each.detach().clone() for each in weights]
    with torch.no_grad():
        for each in weights:
            each.mul_(1 + torch.finfo(each.dtype).eps * torch.randint(-1, 2, each.shape, generator=generator))
        try:
            yield
        finally:
            for each, was in zip(weights, kept, strict=True):
                each.copy_(was)


def _traced(module: nn.Module, run: Callable[[], Result]) -> tuple[Result, Trace]:
    """What a run gives, and what the submodules gave in it."""
    trace: Trace = {}

    def hook(name: str, submodule: nn.Module, _: object, returned: object) -> None:
        trace.setdefault(name, (submodule, [each for each in pytree.tree_leaves(returned) if isinstance(each, Tensor)]))

    handles = [each.register_forward_hook(partial(hook, name)) for name, each in module.named_modules() if name]
    try:
        return run(), trace
    finally:
        for handle in handles:
            handle.remove()


def _first(whole: Trace, part: Trace, size: int, length: int, start: int) -> str:
    """The first submodule whose numbers differ, as an error calls it.

    Args:
        whole: what submodules gave for `size` rows or steps, in the order in which they were done.
        part: and for `length` of them, from `start` on.
        size: of the whole.
        length: of the part.
        start: of the part.
    """
    for name, (submodule, expected) in whole.items():
        given = part[name][1] if name in part else []
        for one, other in zip(expected, given, strict=False):
            if one.ndim != other.ndim or not one.dtype.is_floating_point:
                continue
            axes = [
                axis for axis, (a, b) in enumerate(zip(one.shape, other.shape, strict=True)) if (a, b) == (size, length)
            ]
            if len(axes) != 1:
                continue
            same = one.narrow(axes[0], start, length)
            if same.shape == other.shape and (same - other).abs().max() > _TELLING * one.abs().max():
                return called(name, submodule)
    return "forward itself"
