"""State that goes round a loop over time in `forward`: what a submodule is given at each step, from a fixed start on.

A cell of the user's own keeps its state nowhere, and so does a loop that normalises what torch's cell returned. But
what is given to the submodule for a step is all that the step takes of the steps before. So the state before a step is
put in its place, and the state after it is what the submodule is given for the step that follows: `forward` is run for
two steps, of which the second is only begun.
"""

import inspect
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree  # what torch takes arguments apart with

from gatestream.export.sources.ports import Port
from gatestream.export.sources.recurrent import KINDS, States
from gatestream.export.sources.signature import key

Given = dict[str, Any]
"""What a submodule is called with, by parameter."""

Calls = Mapping[str, Sequence[Given]]
"""Of one run of a module: by submodule, what it was called with, outermost first."""


@dataclass(frozen=True, slots=True)
class Loop:
    """A submodule that is called for each step with the states after the step before.

    Attributes:
        name: of the submodule.
        module: the submodule.
        spec: by parameter, how its argument is put together.
        places: by parameter, for each tensor in it, which of `states` it is; None: another tensor.
        states: what is carried.
    """

    name: str
    module: nn.Module
    spec: Mapping[str, pytree.TreeSpec]
    places: Mapping[str, tuple[int | None, ...]]
    states: tuple[Port, ...]


@contextmanager
def recorded(module: nn.Module) -> Iterator[dict[str, list[Given]]]:
    """Within this, what a module's submodules are called with is noted."""
    calls: dict[str, list[Given]] = {}

    def note(name: str, submodule: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        given = pytree.tree_map_only(Tensor, torch.clone, _by_parameter(submodule, args, named))
        calls.setdefault(name, []).append(given)

    handles = [
        each.register_forward_pre_hook(partial(note, name), with_kwargs=True)
        for name, each in module.named_modules()
        if name
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def find(module: nn.Module, runs: Sequence[tuple[Calls, int]]) -> list[Loop]:
    """The outermost submodules that are called for each step with states.

    Args:
        module: that has them.
        runs: calls with [some rows and steps], [a row more] and [more steps], of other inputs each; and their steps.
    """
    found: list[Loop] = []
    for name in runs[0][0]:
        if any(name.startswith(f"{outer.name}.") for outer in found):
            continue
        calls = [made.get(name, []) for made, _ in runs]
        if all(len(each) == time > 1 for each, (_, time) in zip(calls, runs, strict=True)):
            loop = _loop(name, module.get_submodule(name), calls)
            if loop.states:
                found.append(loop)
    return found


@contextmanager
def carried(loops: Sequence[Loop], before: Mapping[str, States]) -> Iterator[dict[str, States]]:
    """Within this, a run goes on from states.

    Args:
        loops: in the module that is run.
        before: by the loop's name, its states, [batch, *shape] each.

    Yields:
        The states after the first of two steps; complete when they are over. Of a run of one step nothing.
    """
    after: dict[str, States] = {}
    calls: Counter[str] = Counter()

    def exchange(
        loop: Loop, submodule: nn.Module, args: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        given = _by_parameter(submodule, args, named)
        calls[loop.name] += 1
        if calls[loop.name] == 1:
            states = [port.laid_out(state) for port, state in zip(loop.states, before[loop.name], strict=True)]
            return _called_with(submodule, len(args), {**given, **_with_states(loop, given, states)})
        if calls[loop.name] == 2:
            after[loop.name] = tuple(
                port.normal(state) for port, state in zip(loop.states, _states_of(loop, given), strict=True)
            )
        return None

    handles = [loop.module.register_forward_pre_hook(partial(exchange, loop), with_kwargs=True) for loop in loops]
    try:
        yield after
    finally:
        for handle in handles:
            handle.remove()


def _by_parameter(submodule: nn.Module, args: tuple[Any, ...], named: Mapping[str, Any]) -> Given:
    return {**dict(zip(_positional(submodule, len(args)), args, strict=True)), **named}


def _positional(submodule: nn.Module, count: int) -> list[str]:
    """Names for positional arguments; those of *args are numbered."""
    parameters = inspect.signature(submodule.forward).parameters.values()
    names = [each.name for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    return [*names, *map(str, range(len(names), count))][:count]


def _called_with(submodule: nn.Module, positional: int, given: Given) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A call with so many positional arguments; one that was left out is a named one."""
    names = _positional(submodule, positional)
    return tuple(given[name] for name in names), {name: given[name] for name in given if name not in names}


def _with_states(loop: Loop, given: Given, states: Sequence[Tensor]) -> Given:
    changed = {}
    for name, spec in loop.spec.items():
        leaves = pytree.tree_leaves(given.get(name))
        placed = [leaves[k] if place is None else states[place] for k, place in enumerate(loop.places[name])]
        changed[name] = pytree.tree_unflatten(placed, spec)
    return changed


def _states_of(loop: Loop, given: Given) -> list[Tensor]:
    """In the order of the loop's states, which is that of its arguments and of what is in them."""
    return [
        leaf
        for name in loop.spec
        for leaf, place in zip(pytree.tree_leaves(given[name]), loop.places[name], strict=True)
        if place is not None
    ]


def _loop(name: str, submodule: nn.Module, calls: Sequence[Sequence[Given]]) -> Loop:
    spec: dict[str, pytree.TreeSpec] = {}
    places: dict[str, tuple[int | None, ...]] = {}
    states: list[Port] = []
    for parameter, value in calls[0][1].items():
        starts = [pytree.tree_leaves(made[0].get(parameter)) for made in calls]
        seconds = [pytree.tree_leaves(made[1].get(parameter)) for made in calls]
        left_out = all(each in ([], [None]) for each in starts)
        of_argument: list[int | None] = []
        for k, (path, leaf) in enumerate(pytree.tree_flatten_with_path(value)[0]):
            lines = [None if left_out else _at(each, k) for each in starts], [_at(each, k) for each in seconds]
            port = _state(f"{name}.{_called(submodule, parameter, [str(key(each)) for each in path])}", *lines)
            if port is None or not isinstance(leaf, Tensor):
                of_argument.append(None)
            else:
                of_argument.append(len(states))
                states.append(port)
        if any(place is not None for place in of_argument) and not (left_out and None in of_argument):
            spec[parameter], places[parameter] = pytree.tree_structure(value), tuple(of_argument)
    return Loop(name, submodule, spec, places, tuple(states))


def _called(submodule: nn.Module, parameter: str, path: Sequence[str]) -> str:
    """The parameter and where in it the tensor is; those of torch's own cells are h and c."""
    if parameter == "hx" and isinstance(submodule, tuple(KINDS)):
        return "c" if path == ["1"] else "h"
    return ".".join([parameter, *path])


def _at(leaves: Sequence[Any], k: int) -> Any:
    return leaves[k] if k < len(leaves) else None


def _state(name: str, starts: Sequence[Any], seconds: Sequence[Any]) -> Port | None:
    """What a tensor of an argument carries; None: it carries nothing, or does not start from the same in all sessions.

    Args:
        name: of the state.
        starts: for the first step of each run, None where it was left out: those are zeros.
        seconds: for the second step of each.
    """
    if not all(isinstance(each, Tensor) for each in seconds) or seconds[0].shape == seconds[1].shape:
        return None
    axes = [axis for axis, (a, b) in enumerate(zip(seconds[0].shape, seconds[1].shape, strict=False)) if a != b]
    if len(axes) != 1 or seconds[0].shape != seconds[2].shape or torch.equal(seconds[0], seconds[2]):
        return None
    axis, shape = axes[0], [size for k, size in enumerate(seconds[0].shape) if k != axes[0]]
    if all(each is None for each in starts):
        return Port(name, seconds[0].dtype, tuple(shape), axis, None)
    if any(not isinstance(a, Tensor) or a.shape != b.shape for a, b in zip(starts, seconds, strict=True)):
        return None
    rows = torch.cat([each.movedim(axis, 0) for each in starts])
    if not torch.equal(rows, rows[:1].expand_as(rows)):
        return None
    return Port(name, seconds[0].dtype, tuple(shape), axis, None, initial=rows[0].clone() if rows[0].any() else None)
