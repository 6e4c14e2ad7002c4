"""What moving the numbers of an input does to the outputs of its shape, whichever way the graph's switches are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any, Final

import numpy as np

from gatestream.export.adopting.preparing import compared_with
from gatestream.export.adopting.running import Array, Runner
from gatestream.export.adopting.signature import End

_FAR: Final = 40.0
"""By how much one number of a state is moved: a forget gate keeps a part of it, and a tanh lets nothing through."""

_KEPT: Final = 2.0
"""What passes through a cell's tanh moves by no more than this."""

_NEAR: Final = 8.0
"""By how much it is moved besides: a GRU's update gate hears of its own state, and 40 may be enough to shut it."""

_MOST_PROBES: Final = 32
_ALL_PROBES: Final = 512
"""Numbers of a state that are moved, one at a time; and those of all states together that move something, but one of
each at least."""

_MOST_SETTINGS: Final = 8
"""Ways to set the switches of a graph that are tried."""


@dataclass(frozen=True, slots=True)
class Effect:
    """What moving the numbers of an input, one at a time, did to an output of its shape.

    Attributes:
        moves: anything of it changed.
        keeps: a number that was moved, either way, has moved in the same place there, and the others by much less.
        copies: it is there to the last bit, or gone, and nothing else changed.
        same: the output is the input.
    """

    moves: bool
    keeps: bool
    copies: bool
    same: bool

    def __and__(self, other: "Effect") -> "Effect":
        """What holds whichever way a switch is: what is only let by there is neither kept nor copied."""
        return Effect(
            self.moves or other.moves,
            self.keeps and other.keeps,
            self.copies and other.copies,
            self.same and other.same,
        )


class Effects:
    """Moves one input at a time.

    Args:
        runner: of the graph.
        inputs: all of the graph's.
        feed: what all of them are otherwise: one step of one session.
        states: how many inputs are asked about, which share the runs that may be made.
        rng: that the numbers to move are drawn by.
    """

    def __init__(
        self, runner: Runner, inputs: Sequence[End], feed: Mapping[str, Array], states: int, rng: np.random.Generator
    ) -> None:
        self._runner, self._inputs, self._feed, self._rng = runner, inputs, feed, rng
        self._probes = max(1, min(_MOST_PROBES, _ALL_PROBES // max(states, 1)))
        self._runs: dict[bytes, dict[str, Array]] = {}
        self.anew: dict[str, list[dict[str, int]]] = {}
        """By input, the ways to set the switches in which nothing of it is left."""

    def of(self, start: End, candidates: list[End]) -> dict[str, Effect]:
        """By output; where the graph has switches, of the ways that they can be."""
        switches = {end.name: _ways(end) for end in self._inputs if end is not start}
        found: dict[str, Effect] = {}
        for setting in _settings({name: ways for name, ways in switches.items() if ways}):
            set_so = {name: np.full_like(self._feed[name], way) for name, way in setting.items()}
            effects = self._in({**self._feed, **set_so}, start, candidates)
            if setting and not any(effect.moves for effect in effects.values()):
                self.anew.setdefault(start.name, []).append(setting)
                continue  # it starts anew, which shows nothing of where it goes
            found = {name: found[name] & effect for name, effect in effects.items()} if found else effects
        return found or {c.name: Effect(False, False, False, False) for c in candidates}

    def _in(self, feed: Mapping[str, Array], start: End, candidates: list[End]) -> dict[str, Effect]:
        values, found = feed[start.name], self._before(feed)
        before = _stacked(found, candidates)
        kind = start.dtype.kind
        moves = keeps = copies = other = np.zeros(len(candidates), np.bool_)
        heard = 0
        for place in self._rng.choice(values.size, size=min(_MOST_PROBES, values.size), replace=False).tolist():
            if heard == self._probes:
                break
            for far in (_FAR, _NEAR) if kind == "f" else (1,):
                ways = [
                    _Moves.of(before, *self._moved(feed, start, place, by, candidates), place)
                    for by in ((far, -far) if kind == "f" else (1,))
                ]
                moves = moves | np.any([way.any for way in ways], axis=0)
                copied = np.array([way.copied for way in ways])
                copies = copies | copied.any(axis=0)
                other = other | (np.array([way.any for way in ways]) & ~copied).any(axis=0)
                if kind == "f":  # a Relu behind the state keeps it one way only
                    keeps = keeps | np.all([way.kept for way in ways], axis=0)
            heard += any(way.any.any() for way in ways)
        return {
            c.name: Effect(bool(a), bool(b), bool(d), np.array_equal(found[c.name], values))
            for c, a, b, d in zip(candidates, moves, keeps, copies & ~other, strict=True)
        }

    def _before(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs where nothing is moved; kept, for there are as few as ways to set the switches."""
        key = b"".join(values.tobytes() for values in feed.values())
        if key not in self._runs:
            self._runs[key] = self._runner.run(feed)
        return self._runs[key]

    def _moved(
        self, feed: Mapping[str, Array], start: End, place: int, by: float, candidates: list[End]
    ) -> tuple[Array, Any]:
        """One number of an input moved: all candidates, and what the number is then."""
        moved = feed[start.name].copy().ravel()
        moved[place] = not moved[place] if start.dtype.kind == "b" else moved[place] + by
        run = self._runner.run({**feed, start.name: moved.reshape(feed[start.name].shape)})
        return _stacked(run, candidates), moved[place]


@dataclass(frozen=True, slots=True)
class _Moves:
    """What one moved number did to each output: anything; kept its place; is there to the bit, and nothing else is."""

    any: Array
    kept: Array
    copied: Array

    @classmethod
    def of(cls, before: Array, after: Array, new: Any, place: int) -> "_Moves":
        """Of outputs of one shape, [outputs, numbers]."""
        apart = np.abs(after.astype(np.float64) - before.astype(np.float64))
        rows, largest = np.arange(len(apart)), apart.argmax(axis=1)
        most = apart[rows, largest]
        apart[rows, largest] = 0
        elsewhere = apart.max(axis=1)
        return cls(
            any=most > 0,
            kept=(largest == place) & (most > np.maximum(_KEPT, 2 * elsewhere)),
            copied=(elsewhere == 0) & (after[rows, largest] == new),
        )


def _stacked(found: Mapping[str, Array], ends: list[End]) -> Array:
    """Each as a row, [ends, numbers]."""
    return np.stack([found[end.name].ravel() for end in ends])


def _ways(end: End) -> tuple[int, ...]:
    """The values that a switch is tried at; of what is no switch, none."""
    if end.dtype.kind == "b":
        return 0, 1
    if end.dtype.kind not in "iu" or prod(end.base) != 1:
        return ()
    info = np.iinfo(end.dtype)
    values = (*compared_with(end.value), *(() if end.limit else (0, 1, 2)))
    most = end.limit - 1 if end.limit else info.max
    return tuple(dict.fromkeys(value for value in values if info.min <= value <= most))[:_MOST_SETTINGS]


def _settings(switches: Mapping[str, tuple[int, ...]]) -> list[dict[str, int]]:
    """All ways that they can be; where those are many, each at all of its own."""
    if prod(map(len, switches.values())) <= _MOST_SETTINGS:
        return [dict(zip(switches, way, strict=True)) for way in product(*switches.values())]
    longest = max(map(len, switches.values()))
    return [{name: ways[k % len(ways)] for name, ways in switches.items()} for k in range(longest)]
