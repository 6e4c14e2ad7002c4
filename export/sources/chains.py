"""Which calls of a recurrent layer go on from each other, and so which states are to be carried."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gatestream.export.errors import NotStreamableError
from gatestream.export.sources.ports import Port
from gatestream.export.sources.recurrent import Call, Recurrent, States, called, layers, numbered

Chain = list[Call]
"""Calls of which each starts from what the one before it returned."""


class BrokenChainError(NotStreamableError):
    """A layer goes on from what was computed of the state that it returned."""


def uncarried(
    module: nn.Module, runs: Sequence[tuple[dict[nn.Module, list[Call]], int, int]], *, explicit: bool
) -> list[Recurrent]:
    """The recurrent layers whose states have to be carried from outside.

    Args:
        module: that has them.
        runs: calls of the module with other inputs and states: the calls of layers in it, and its rows and steps.
        explicit: `forward` takes states, and so a layer may be given one of them.

    Raises:
        BrokenChainError: a layer's state is changed between two steps.
        NotStreamableError: a layer is bidirectional, runs another number of times in other steps, or starts from what
            is no fixed state.
    """
    found = []
    for name, layer in layers(module).items():
        calls = [(made.get(layer, []), time) for made, _, time in runs]
        if not any(each for each, _ in calls):
            continue
        chains = [_chains(each) for each, _ in calls]
        axis = 0 if isinstance(layer, nn.RNNCellBase) else 1
        if explicit and _starts([each[0].given for each, _ in calls if each], axis) is None:
            continue
        looped = _check(called(name, layer), [(each, time) for each, (_, time) in zip(chains, calls, strict=True)])
        for place, same in enumerate(zip(*chains, strict=True)):
            starts = _starts([chain[0].given for chain in same], axis)
            if starts is None:
                if explicit:
                    continue
                raise NotStreamableError(
                    f"{called(name, layer)} starts from a state that is computed from the input, or at random: only a "
                    "fixed start can be that of a session; make the state an argument and a result of forward"
                )
            returned = same[0][0].returned
            names = _names(numbered(name, place) if name else "", ("h", "c")[: len(returned)], place)
            ports = tuple(map(_port, names, returned, starts, [axis] * 2))
            found.append(Recurrent(numbered(name, place), layer, ports, place, len(chains[0]), looped))
    return found


def _chains(calls: Sequence[Call]) -> list[Chain]:
    chains: list[Chain] = []
    for call in calls:
        for chain in reversed(chains):
            if call.given is not None and all(map(torch.equal, chain[-1].returned, call.given)):
                chain.append(call)
                break
        else:
            chains.append([call])
    return chains


def _check(what: str, runs: Sequence[tuple[list[Chain], int]]) -> bool:
    """Whether a layer's chains go through the steps of `forward`, one call or more for each; else each is one call.

    Args:
        what: to call the layer in an error.
        runs: its chains, and how many steps there were.
    """
    counts = {len(chains) for chains, _ in runs}
    lengths = {len(chain) / time for chains, time in runs for chain in chains}
    if len(counts) == 1 and all(len(chain) == 1 for chains, _ in runs for chain in chains):
        return False
    if len(counts) == len(lengths) == 1 and (lengths == {1.0} or (counts == {1} and lengths.pop().is_integer())):
        return True
    calls, time = sum(map(len, runs[0][0])), runs[0][1]
    if calls % time == 0 and any(len(chains) > 1 for chains, _ in runs):
        raise BrokenChainError(
            f"{what} goes on from another state than the one it returned: what is carried is computed outside of it; "
            "make it an argument and a result of forward"
        )
    raise NotStreamableError(
        f"{what} runs {calls} times in {time} steps: its states cannot be told apart; make them arguments and results "
        "of forward"
    )


def _names(name: str, symbols: Sequence[str], place: int) -> list[str]:
    return [f"{name}.{symbol}" if name else numbered(symbol, place) for symbol in symbols]


def _port(name: str, state: Tensor, start: Tensor | None, axis: int) -> Port:
    shape = tuple(size for k, size in enumerate(state.shape) if k != axis)
    return Port(name, state.dtype, shape, axis, None, initial=start)


def _starts(firsts: Sequence[States | None], axis: int) -> tuple[Tensor | None, ...] | None:
    """What a layer's states start from, None for zeros; None: it is not the same in all rows and calls."""
    given = [states for states in firsts if states is not None]
    if not given:
        return None, None
    if len(given) < len(firsts):
        return None
    found: list[Tensor | None] = []
    for states in zip(*given, strict=True):
        rows = torch.cat([state.movedim(axis, 0) for state in states])
        if not torch.equal(rows, rows[:1].expand_as(rows)):
            return None
        found.append(rows[0].clone() if rows[0].any() else None)
    return tuple(found)
