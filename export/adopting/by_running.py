"""Which output has what becomes of which input, found by moving one input and seeing what moves.

For states that no operator shows: cells that were unrolled, caches of convolutions, h and c of one shape. An input and
an output of one shape may be a spectrum and what is left of it as well as a state and its successor, and both move
alike. So what is found here is taken only where nothing else can be meant: a cache hands on what it was given, to the
last bit; any other state has to be of the one shape of which there are states at all.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any, Final

import numpy as np

from gatestream.export.adopting.preparing import compared_with
from gatestream.export.adopting.running import Array, RunError, Runner
from gatestream.export.adopting.signature import End, written
from gatestream.export.adopting.states import Pair
from gatestream.export.errors import AmbiguousError
from gatestream.export.proof.streamed import sample
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb

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
class _Effect:
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

    def __and__(self, other: "_Effect") -> "_Effect":
        """What holds whichever way a switch is: what is only let by there is neither kept nor copied."""
        return _Effect(
            self.moves or other.moves,
            self.keeps and other.keeps,
            self.copies and other.copies,
            self.same and other.same,
        )


@dataclass(frozen=True, slots=True)
class _Match:
    end: End
    how: str
    sure: bool
    same: bool


def pairs_by_running(
    runner: Runner,
    inputs: Sequence[End],
    outputs: Sequence[End],
    left_out: Collection[str],
    *,
    others: bool,
    fed: bool,
) -> list[Pair]:
    """Pair what is left.

    Args:
        runner: of the graph.
        inputs: all of the graph's.
        outputs: all of the graph's.
        left_out: names of inputs and outputs that are known to be something.
        others: some of those are states.
        fed: some of those are inputs of each step, which a model has at least one of.

    Returns:
        In the order of the inputs. Empty: no input has an output of its shape and type.

    Raises:
        AmbiguousError: there are several ways to pair them, or to tell them from what is no state.
    """
    return _Pairing(runner, inputs, outputs, left_out).pairs(others=others, fed=fed)


def outputs_shown(
    runner: Runner, feed: Mapping[str, Array], inputs: Sequence[End], starts: list[End], ends: list[End]
) -> dict[str, set[str]]:
    """Of states of one shape, the outputs of that shape that running shows to be what becomes of each.

    Args:
        runner: of the graph.
        feed: every input of one step of one session.
        inputs: all of the graph's.
        starts: the states.
        ends: the outputs that it may be.

    Returns:
        By state, the output, and others that are the same numbers; only those that no other pairing explains.
    """
    pairing = _Pairing(runner, inputs, ends, ())
    pairing.feed(feed)
    return pairing.shown(starts, ends)


class _Pairing:
    def __init__(
        self, runner: Runner, inputs: Sequence[End], outputs: Sequence[End], left_out: Collection[str]
    ) -> None:
        self._runner = runner
        self._inputs = list(inputs)
        self._outputs = list(outputs)
        self._left_out = left_out
        self._rng = np.random.default_rng(0)
        self._anew: dict[str, list[dict[str, int]]] = {}
        self._runs: dict[bytes, dict[str, Array]] = {}
        self._probes = _MOST_PROBES
        self._feed: dict[str, Array] = {}
        self._found: dict[str, Array] = {}

    def pairs(self, *, others: bool, fed: bool) -> list[Pair]:
        free = [end for end in self._inputs if end.name not in self._left_out]
        ends = [end for end in self._outputs if end.name not in self._left_out]
        starts = [a for a in free if any(_alike(a, b) for b in ends)]
        if not starts or (len(free) == 1 and not fed):
            return []
        self._first_run(starts)
        grown = self._with_time()
        self._share(len(starts))
        starts = [end for end in starts if end.name not in grown]
        groups: dict[tuple[str, tuple[int, ...]], list[End]] = {}
        for start in starts:
            groups.setdefault((start.dtype.str, start.base), []).append(start)
        matches: dict[str, _Match] = {}
        unsure = []
        for (dtype, shape), group in groups.items():
            candidates = [
                e for e in ends if e.name not in grown and e.dtype.str == dtype and self._found[e.name].shape == shape
            ]
            if not candidates:
                continue
            found = self._paired(group, candidates)
            matches |= found
            unsure += [found] if not all(match.sure for match in found.values()) else []
        left = {end.name for end in self._outputs} - set(self._left_out) - {m.end.name for m in matches.values()}
        if unsure and (len(unsure) + others > 1 or (len(matches) == len(free) and not fed) or not left):
            named = {name: match for group_found in unsure for name, match in group_found.items()}
            flags = " ".join(f"--state {name}={match.end.name}" for name, match in named.items())
            raise AmbiguousError(
                f"inputs and outputs of one shape may be states, or a step's input and what is made of it: {flags} if "
                f"they are; --time NAME:none, or :AXIS, for one that is an input of each step"
            )
        return [
            Pair(
                end.value,
                matches[end.name].end.value,
                f"by running it: {matches[end.name].how}{self._said_anew(end)}",
                pb.STATE_ROLE_CONSTANT if matches[end.name].same else pb.STATE_ROLE_UNSPECIFIED,
            )
            for end in self._inputs
            if end.name in matches
        ]

    def _said_anew(self, end: End) -> str:
        ways = [" and ".join(f"'{name}' {way}" for name, way in each.items()) for each in self._anew.get(end.name, ())]
        return f"; nothing of it is left where {', or '.join(ways)}" if ways else ""

    def feed(self, feed: Mapping[str, Array]) -> None:
        """What all runs start from."""
        self._feed = dict(feed)
        self._found = self._runner.run(feed)

    def shown(self, group: list[End], ends: list[End]) -> dict[str, set[str]]:
        """As `outputs_shown`."""
        candidates = self._unlike(ends)
        self._share(len(group))
        effects = {start.name: self._effects(start, candidates) for start in group}
        found = {name: match.end for name, match in _kept(group, candidates, effects).items()}
        left = [start for start in group if start.name not in found]
        free = [end for end in candidates if end not in found.values()]
        found |= _only_matching(left, free, effects) or {}
        return {
            name: {other.name for other in ends if np.array_equal(self._found[other.name], self._found[end.name])}
            for name, end in found.items()
        }

    def _share(self, states: int) -> None:
        self._probes = max(1, min(_MOST_PROBES, _ALL_PROBES // max(states, 1)))

    def _first_run(self, starts: Sequence[End]) -> None:
        for end in self._inputs:
            end.base = tuple(dim if isinstance(dim, int) else 1 for dim in end.dims)
            self._feed[end.name] = sample(end.dtype, end.limit, end.base, self._rng)
        for end in starts:
            if end.dtype.kind in "iu" and not end.limit:  # a counter, or a place in a ring: not any number will do
                self._feed[end.name] = np.zeros(end.base, end.dtype)
        try:
            self._found = self._runner.run(self._feed)
        except RunError as error:
            shapes = ", ".join(f"'{end.name}' {written(end.base)}" for end in self._inputs)
            raise AmbiguousError(
                f"one step of one session does not run, {shapes}: {error}; where a step is a window of samples say how "
                "many with --window INPUT:SAMPLES"
            ) from error

    def _with_time(self) -> set[str]:
        """Inputs and outputs with a time axis, which are no states: they can be made longer, and some others stay."""
        axes: dict[str, list[tuple[End, int]]] = {}
        for end in self._inputs:
            for axis, dim in enumerate(end.dims):
                if not isinstance(dim, int):
                    axes.setdefault(dim or f"{end.name} {axis}", []).append((end, axis))
        grown: set[str] = set()
        for group in axes.values():
            longer = {end.name: np.concatenate([self._feed[end.name]] * 3, axis) for end, axis in group}
            try:
                run = self._runner.run({**self._feed, **longer})
            except RunError:
                continue
            changed = {name for name, values in run.items() if values.shape != self._found[name].shape}
            if changed and changed != run.keys():
                grown |= longer.keys() | changed
        return grown

    def _paired(self, group: list[End], candidates: list[End]) -> dict[str, _Match]:
        """Inputs and outputs of one shape and type."""
        candidates = self._unlike(candidates)
        effects = {start.name: self._effects(start, candidates) for start in group}
        found = _kept(group, candidates, effects)
        left = [start for start in group if start.name not in found]
        free = [c for c in candidates if c.name not in {match.end.name for match in found.values()}]
        if not left:
            return found
        matching = {left[0].name: free[0]} if len(left) == len(free) == 1 else _only_matching(left, free, effects)
        if matching is not None:
            how = "moves with it, and no other pairing is left"
            return found | {name: _Match(end, f"'{end.name}' {how}", False, False) for name, end in matching.items()}
        first = left[0]
        names = ", ".join(f"'{end.name}'" for end in free) or "none"
        others = "".join(f" or of '{start.name}'" for start in left[1:])
        flags = ", ".join(f"--state {start.name}=OUTPUT" for start in left)
        raise AmbiguousError(
            f"input '{first.name}' {written(first.dims)}: by running it, what becomes of it{others} may be in any of "
            f"the outputs {names}; say which with {flags}, or, where it is an input of each step, "
            f"--time {first.name}:none (or :AXIS)"
        )

    def _unlike(self, candidates: list[End]) -> list[End]:
        """Of outputs that are the same numbers, as h and what a step gives may be, the first."""
        found: list[End] = []
        for end in candidates:
            values = self._found[end.name]
            if not any(np.array_equal(values, self._found[other.name]) for other in found) or not values.any():
                found.append(end)
        return found

    def _effects(self, start: End, candidates: list[End]) -> dict[str, _Effect]:
        """By output; where the graph has switches, of the ways that they can be."""
        switches = {end.name: _ways(end) for end in self._inputs if end is not start}
        found: dict[str, _Effect] = {}
        for setting in _settings({name: ways for name, ways in switches.items() if ways}):
            set_so = {name: np.full_like(self._feed[name], way) for name, way in setting.items()}
            effects = self._effects_in(self._feed | set_so, start, candidates)
            if setting and not any(effect.moves for effect in effects.values()):
                self._anew.setdefault(start.name, []).append(setting)
                continue  # it starts anew, which shows nothing of where it goes
            found = {name: found[name] & effect for name, effect in effects.items()} if found else effects
        return found or {c.name: _Effect(False, False, False, False) for c in candidates}

    def _effects_in(self, feed: Mapping[str, Array], start: End, candidates: list[End]) -> dict[str, _Effect]:
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
            c.name: _Effect(bool(a), bool(b), bool(d), np.array_equal(found[c.name], values))
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


def _kept(group: list[End], candidates: list[End], effects: dict[str, dict[str, _Effect]]) -> dict[str, _Match]:
    """The starts of which one output alone keeps what they are moved to, and keeps it of no other."""
    found: dict[str, _Match] = {}
    for what in ("copies", "keeps"):
        with_it = {s.name: [c for c in candidates if getattr(effects[s.name][c.name], what)] for s in group}
        for start in group:
            ends = with_it[start.name]
            if start.name in found or len(ends) != 1:
                continue
            if [s.name for s in group if ends[0] in with_it[s.name]] == [start.name]:
                effect = effects[start.name][ends[0].name]
                how = f"'{ends[0].name}' {'is what it is' if effect.same else 'keeps a number that it is moved to'}"
                found[start.name] = _Match(ends[0], how, what == "copies", effect.same)
    return found


def _only_matching(starts: list[End], ends: list[End], effects: dict[str, dict[str, _Effect]]) -> dict[str, End] | None:
    """The one way to give each start an end of its own that moves with it; None: there is none, or there are several.

    Where there is only one, some start has one end left, or some end one start, until all are taken.
    """
    found: dict[str, End] = {}
    edges = np.array([[effects[a.name][b.name].moves for b in ends] for a in starts], np.bool_).reshape(
        len(starts), len(ends)
    )
    if edges.any(axis=0).sum() != len(starts):
        return None
    while len(found) < len(starts):
        rows, columns = edges.sum(axis=1), edges.sum(axis=0)
        if 1 in rows:
            row = int(np.flatnonzero(rows == 1)[0])
            column = int(edges[row].argmax())
        elif 1 in columns:
            column = int(np.flatnonzero(columns == 1)[0])
            row = int(edges[:, column].argmax())
        else:
            return None
        found[starts[row].name] = ends[column]
        edges[row] = edges[:, column] = False
    return found


def _alike(a: End, b: End) -> bool:
    """Of one type, and as far as the file says of one shape."""
    if a.dtype != b.dtype or (b.dims and len(a.dims) != len(b.dims)):
        return False
    return all(not (isinstance(m, int) and isinstance(n, int)) or m == n for m, n in zip(a.dims, b.dims, strict=False))
