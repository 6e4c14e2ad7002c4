"""Which output has what becomes of which input, found by moving one input and seeing what moves.

For states that no operator shows: cells that were unrolled, caches of convolutions, h and c of one shape. An input and
an output of one shape may be a spectrum and what is left of it as well as a state and its successor, and both move
alike. So what is found here is taken only where nothing else can be meant: a cache hands on what it was given, to the
last bit; any other state has to be of the one shape of which there are states at all.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

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

_PROBES: Final = 32
"""Numbers of a state that are moved, one at a time."""


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


class _Pairing:
    def __init__(
        self, runner: Runner, inputs: Sequence[End], outputs: Sequence[End], left_out: Collection[str]
    ) -> None:
        self._runner = runner
        self._inputs = list(inputs)
        self._outputs = list(outputs)
        self._left_out = left_out
        self._rng = np.random.default_rng(0)
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
                f"by running it: {matches[end.name].how}",
                pb.STATE_ROLE_CONSTANT if matches[end.name].same else pb.STATE_ROLE_UNSPECIFIED,
            )
            for end in self._inputs
            if end.name in matches
        ]

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
        left = [start for start in group if start.name not in found]
        free = [c for c in candidates if c.name not in {match.end.name for match in found.values()}]
        if not left:
            return found
        matchings = list(_matchings(left, free, effects))
        if len(left) == len(free) == 1:
            matchings = [{left[0].name: free[0]}]
        if len(matchings) == 1:
            how = "moves with it, and no other pairing is left"
            return found | {
                name: _Match(end, f"'{end.name}' {how}", False, False) for name, end in matchings[0].items()
            }
        first = left[0]
        names = ", ".join(f"'{end.name}'" for end in free) or "none"
        others = "".join(f", or of '{start.name}'," for start in left[1:])
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
        """By output; where the graph has switches, of both ways that they can be."""
        switches = [end for end in self._inputs if end.dtype.kind == "b" and end is not start]
        if not switches:
            return self._effects_in(self._feed, start, candidates)
        off, on = (
            self._effects_in(self._feed | {s.name: np.full(s.base, way) for s in switches}, start, candidates)
            for way in (False, True)
        )
        return {name: off[name] & on[name] for name in off}

    def _effects_in(self, feed: Mapping[str, Array], start: End, candidates: list[End]) -> dict[str, _Effect]:
        values, before = feed[start.name], self._runner.run(feed)
        kind = start.dtype.kind
        found = {c.name: _Effect(False, False, False, np.array_equal(before[c.name], values)) for c in candidates}
        other = dict.fromkeys(found, False)
        for place in self._rng.choice(values.size, size=min(_PROBES, values.size), replace=False):
            for far in (_FAR, _NEAR) if kind == "f" else (1,):
                ways = [self._moved(feed, start, int(place), by) for by in ((far, -far) if kind == "f" else (1,))]
                for c in candidates:
                    moves = [_Move.of(before[c.name], run[c.name], int(place), new) for new, run in ways]
                    effect = found[c.name]
                    other[c.name] |= any(move.any and not move.copied for move in moves)
                    found[c.name] = replace(
                        effect,
                        moves=effect.moves or any(move.any for move in moves),
                        # A Relu behind the state keeps it one way only.
                        keeps=effect.keeps or (kind == "f" and all(move.kept for move in moves)),
                        copies=effect.copies or any(move.copied for move in moves),
                    )
        return {name: replace(effect, copies=effect.copies and not other[name]) for name, effect in found.items()}

    def _moved(self, feed: Mapping[str, Array], start: End, place: int, by: float) -> tuple[Any, dict[str, Array]]:
        """One number of an input moved: what it is then, and all outputs."""
        moved = feed[start.name].copy().ravel()
        moved[place] = not moved[place] if start.dtype.kind == "b" else moved[place] + by
        shaped = moved.reshape(feed[start.name].shape)
        return moved[place], self._runner.run({**feed, start.name: shaped})


@dataclass(frozen=True, slots=True)
class _Move:
    """What one moved number did to an output: anything; kept its place; is there to the last bit, and nothing else."""

    any: bool
    kept: bool
    copied: bool

    @classmethod
    def of(cls, before: Array, after: Array, place: int, new: Any) -> "_Move":
        apart = np.abs(after.ravel().astype(np.float64) - before.ravel().astype(np.float64))
        largest = int(apart.argmax())
        elsewhere = float(np.delete(apart, largest).max(initial=0))
        return cls(
            any=bool(apart.any()),
            kept=largest == place and bool(apart[largest] > max(_KEPT, 2 * elsewhere)),
            copied=elsewhere == 0 and bool(after.ravel()[largest] == new),
        )


def _matchings(
    starts: list[End], ends: list[End], effects: dict[str, dict[str, _Effect]], taken: tuple[str, ...] = ()
) -> Iterator[dict[str, End]]:
    """Ways to give each start an end of its own that moves with it; two at most, which is enough to know."""
    if not starts:
        yield {}
        return
    first, *others = starts
    count = 0
    for end in ends:
        if end.name in taken or not effects[first.name][end.name].moves:
            continue
        for rest in _matchings(others, ends, effects, (*taken, end.name)):
            yield {first.name: end, **rest}
            count += 1
            if count == 2:
                return


def _alike(a: End, b: End) -> bool:
    """Of one type, and as far as the file says of one shape."""
    if a.dtype != b.dtype or (b.dims and len(a.dims) != len(b.dims)):
        return False
    return all(not (isinstance(m, int) and isinstance(n, int)) or m == n for m, n in zip(a.dims, b.dims, strict=False))
