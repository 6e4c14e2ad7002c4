"""Which output has what becomes of which input, found by moving one input and seeing what moves.

For states that no operator shows: cells that were unrolled, caches of convolutions, h and c of one shape. An input and
an output of one shape may be a spectrum and what is left of it as well as a state and its successor, and both move
alike. So what is found here is taken only where nothing else can be meant: a cache hands on what it was given, to the
last bit; any other state has to be of the one shape of which there are states at all.
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from gatestream.export.adopting.effects import Effects
from gatestream.export.adopting.matching import Match, kept, only_matching
from gatestream.export.adopting.running import Array, RunError, Runner
from gatestream.export.adopting.signature import End, written
from gatestream.export.adopting.states import Pair
from gatestream.export.errors import AmbiguousError
from gatestream.export.proof.streamed import sample
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb


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
        effects = Effects(self._runner, self._inputs, self._feed, len(starts), self._rng)
        starts = [end for end in starts if end.name not in grown]
        groups: dict[tuple[str, tuple[int, ...]], list[End]] = {}
        for start in starts:
            groups.setdefault((start.dtype.str, start.base), []).append(start)
        matches: dict[str, Match] = {}
        unsure = []
        for (dtype, shape), group in groups.items():
            candidates = [
                e for e in ends if e.name not in grown and e.dtype.str == dtype and self._found[e.name].shape == shape
            ]
            if not candidates:
                continue
            found = self._paired(group, candidates, effects)
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
                f"by running it: {matches[end.name].how}{_said_anew(effects.anew.get(end.name, ()))}",
                pb.STATE_ROLE_CONSTANT if matches[end.name].same else pb.STATE_ROLE_UNSPECIFIED,
            )
            for end in self._inputs
            if end.name in matches
        ]

    def feed(self, feed: Mapping[str, Array]) -> None:
        """What all runs start from."""
        self._feed = dict(feed)
        self._found = self._runner.run(feed)

    def shown(self, group: list[End], ends: list[End]) -> dict[str, set[str]]:
        """As `outputs_shown`."""
        candidates = self._unlike(ends)
        moving = Effects(self._runner, self._inputs, self._feed, len(group), self._rng)
        effects = {start.name: moving.of(start, candidates) for start in group}
        found = {name: match.end for name, match in kept(group, candidates, effects).items()}
        left = [start for start in group if start.name not in found]
        free = [end for end in candidates if end not in found.values()]
        found |= only_matching(left, free, effects) or {}
        return {
            name: {other.name for other in ends if np.array_equal(self._found[other.name], self._found[end.name])}
            for name, end in found.items()
        }

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

    def _paired(self, group: list[End], candidates: list[End], moving: Effects) -> dict[str, Match]:
        """Inputs and outputs of one shape and type."""
        candidates = self._unlike(candidates)
        effects = {start.name: moving.of(start, candidates) for start in group}
        found = kept(group, candidates, effects)
        left = [start for start in group if start.name not in found]
        free = [c for c in candidates if c.name not in {match.end.name for match in found.values()}]
        if not left:
            return found
        matching = {left[0].name: free[0]} if len(left) == len(free) == 1 else only_matching(left, free, effects)
        if matching is not None:
            how = "moves with it, and no other pairing is left"
            return found | {name: Match(end, f"'{end.name}' {how}", False, False) for name, end in matching.items()}
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


def _said_anew(settings: Sequence[Mapping[str, int]]) -> str:
    ways = [" and ".join(f"'{name}' {way}" for name, way in each.items()) for each in settings]
    return f"; nothing of it is left where {', or '.join(ways)}" if ways else ""


def _alike(a: End, b: End) -> bool:
    """Of one type, and as far as the file says of one shape."""
    if a.dtype != b.dtype or (b.dims and len(a.dims) != len(b.dims)):
        return False
    return all(not (isinstance(m, int) and isinstance(n, int)) or m == n for m, n in zip(a.dims, b.dims, strict=False))
