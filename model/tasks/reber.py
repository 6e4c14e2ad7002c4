"""The continual embedded Reber grammar: the symbols, what may follow them, and whether a prediction is legal.

An endless stream of embedded Reber strings, one after another, with nothing that marks where one ends: the
task that the forget gate was made for (Gers, Schmidhuber and Cummins, Learning to Forget, Neural Computation
12(10), 2000, section 4). A string is::

    B, T or P, a Reber string, the same T or P again, E

and a Reber string a walk through this automaton, either way at a fork being equally likely::

    0 -B-> 1     1 -T-> 2     1 -P-> 3     2 -S-> 2     2 -X-> 4     3 -T-> 3
    3 -V-> 5     4 -X-> 3     4 -S-> 6     5 -P-> 4     5 -V-> 6     6 -E-> end

The second T or P depends on a symbol that is arbitrarily far back, and whoever never forgets the strings
before is lost in them. A network predicts well when at every step each legal successor ranks above each
illegal one. NumPy only: a client that checks a served model needs no torch.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gatestream.model.config import NetworkConfig
from gatestream.model.tasks.task import Evaluation, Session, Window, fresh_rows

SYMBOLS = "BTPSXVE"
"""The symbol of each token id."""

_REBER = {
    0: (("B", 1),),
    1: (("T", 2), ("P", 3)),
    2: (("S", 2), ("X", 4)),
    3: (("T", 3), ("V", 5)),
    4: (("X", 3), ("S", 6)),
    5: (("P", 4), ("V", 6)),
    6: (("E", 7),),
}
_LOOPS = "2345"  # states from which the first way leads back to where one was, the second towards the end


def _automaton() -> dict[str, tuple[tuple[str, str], ...]]:
    """The embedded grammar: state to (symbol, next state) of each way out; one `_REBER` per branch."""
    states: dict[str, tuple[tuple[str, str], ...]] = {
        "start": (("B", "branch"),),
        "branch": (("T", "T0"), ("P", "P0")),
    }
    for branch in "TP":
        for state, ways in _REBER.items():
            states[f"{branch}{state}"] = tuple((symbol, f"{branch}{after}") for symbol, after in ways)
        states[f"{branch}7"] = ((branch, "end"),)
    states["end"] = (("E", "start"),)
    return states


def _tables() -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]:
    automaton = _automaton()
    names = list(automaton)
    symbol = np.array([[SYMBOLS.index(way[0]) for way in (ways[0], ways[-1])] for ways in automaton.values()])
    after = np.array([[names.index(way[1]) for way in (ways[0], ways[-1])] for ways in automaton.values()])
    legal = np.zeros((len(names), len(SYMBOLS)), dtype=bool)
    np.put_along_axis(legal, symbol, values=True, axis=1)
    legal.flags.writeable = False
    return symbol, after, legal, np.array([name[-1] in _LOOPS for name in names])


# Of each state: the symbol of either way out and the state it leads to (both [states, 2]; where there is one
# way, it stands twice), the symbols that may come next ([states, symbols]), and whether it is one of `_LOOPS`.
_SYMBOL, _AFTER, _LEGAL, _LOOP = _tables()


class Streams:
    """Endless streams, side by side, each a walk of its own.

    Args:
        count: number of streams.
        seed: of the walks.
        linger: probability of the way that stays in a loop, for all streams or for each; 0.5 is the grammar
            of the literature, more makes long strings more frequent.
    """

    def __init__(self, count: int, seed: int | Sequence[int], linger: float | NDArray[np.float64] = 0.5) -> None:
        self.count = count
        self._linger = linger
        self._generator = np.random.default_rng(seed)
        self._symbol = np.empty(count, dtype=np.int64)
        self._state = np.empty(count, dtype=np.int64)
        self.restart(np.ones(count, dtype=bool))

    def restart(self, rows: NDArray[np.bool_]) -> None:
        """Begin the chosen streams anew: bool [count]."""
        self._symbol[rows] = _SYMBOL[0, 0]
        self._state[rows] = _AFTER[0, 0]

    def take(self, steps: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        """Go on by `steps` symbols.

        Returns:
            The symbols and the symbol that follows each of them, both int64 [count, steps], and which could
            legally have followed, bool [count, steps, 7].
        """
        draws = self._generator.random((steps, self.count))
        symbols = np.empty((steps + 1, self.count), dtype=np.int64)
        states = np.empty((steps, self.count), dtype=np.int64)
        symbols[0] = self._symbol
        for step in range(steps):
            states[step] = self._state
            first = draws[step] < np.where(_LOOP[self._state], self._linger, 0.5)
            way = 1 - first.astype(np.int64)
            symbols[step + 1] = _SYMBOL[self._state, way]
            self._state = _AFTER[self._state, way]
        self._symbol = symbols[-1].copy()
        return np.ascontiguousarray(symbols[:-1].T), np.ascontiguousarray(symbols[1:].T), _LEGAL[states.T]

    def state(self) -> dict[str, Any]:
        """Where the streams stand, as JSON can hold it."""
        return {
            "symbol": self._symbol.tolist(),
            "automaton": self._state.tolist(),
            "generator": self._generator.bit_generator.state,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from where `state` was taken."""
        self._symbol = np.array(state["symbol"], dtype=np.int64)
        self._state = np.array(state["automaton"], dtype=np.int64)
        self._generator.bit_generator.state = state["generator"]


def stream(seed: int) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    """One endless stream, symbol by symbol: (token id, its legal successors as bool [7])."""
    streams = Streams(1, seed)
    while True:
        symbols, _, legal = streams.take(1000)
        yield from zip(symbols[0].tolist(), legal[0], strict=True)


def margin(scores: NDArray[np.floating], legal: NDArray[np.bool_]) -> NDArray[np.floating]:
    """How far the worst legal successor ranks above the best illegal one; negative: a mistake.

    Args:
        scores: logits or probabilities of the next symbol, [..., 7].
        legal: which symbols may come next, bool [..., 7].

    Returns:
        [...]; NaN where a score is NaN.
    """
    worst_legal = np.where(legal, scores, np.inf).min(axis=-1)
    best_illegal = np.where(legal, -np.inf, scores).max(axis=-1)
    gap: NDArray[np.floating] = worst_legal - best_illegal
    return gap


def illegal(scores: NDArray[np.floating], legal: NDArray[np.bool_]) -> int:
    """Count the illegal predictions: steps where some illegal symbol ranks as high as some legal one.

    Args:
        scores: as for `margin`. A NaN among them makes its step illegal.
        legal: as for `margin`.
    """
    return int(np.count_nonzero(~(margin(scores, legal) > 0)))


class Reber:
    """The grammar as a task: predict the next symbol of many streams.

    The target is the symbol that did come next, not the set of those that could have: the network is told
    nothing that a listener to the stream would not hear. Every second stream to train on lingers in the
    grammar's loops: a million symbols hold loops so long (S fifteen times, PX ten times) that the plain
    grammar would hardly show them in training. It is judged on plain streams that it never saw.

    Args:
        streams: streams to train on, side by side.
        steps: symbols in a window.
        seed: of the streams, for training and for judging.
        judged: fresh streams to judge on, and symbols of each.
    """

    score_label = "worst step: best illegal - worst legal logit (nats)"
    # Nats. A least margin that is merely positive would promise little for the streams not seen here.
    solved_margin = 3.0

    def __init__(self, streams: int, steps: int, seed: int, judged: tuple[int, int] = (256, 8000)) -> None:
        self.identity: dict[str, Any] = {"task": "reber", "streams": streams, "steps": steps}
        self._steps = steps
        self._streams = Streams(streams, (seed, 1), linger=np.resize([0.5, 0.8], streams))
        self._sessions = np.random.default_rng((seed, 2))
        self._judge_seed = (seed, 3)
        self._judged = judged

    def config(self, name: str, hidden: int, layers: int) -> NetworkConfig:
        """One-hot symbols in, a logit for each symbol out."""
        return NetworkConfig(
            name=name,
            task="reber",
            encoder="one_hot",
            inputs=len(SYMBOLS),
            hidden=hidden,
            layers=layers,
            outputs=len(SYMBOLS),
            vocabulary=tuple(SYMBOLS),
        )

    def window(self) -> Window:
        """Go on by one window; where a session begins, so does a stream."""
        fresh = fresh_rows(self._streams.count, self._sessions)
        self._streams.restart(fresh)
        symbols, following, _ = self._streams.take(self._steps)
        return Window(symbols, following, fresh)

    def evaluate(self, sessions: Callable[[int], Session]) -> Evaluation:
        """Count the illegal predictions on fresh streams, and find the least margin."""
        count, symbols = self._judged
        streams, session = Streams(count, self._judge_seed), sessions(count)
        mistakes, least = 0, np.inf
        for _ in range(0, symbols, 500):
            inputs, _, legal = streams.take(500)
            scores = session(inputs)
            mistakes += illegal(scores, legal)
            least = min(least, float(margin(scores, legal).min()))
        total = count * symbols
        return Evaluation(
            score=-least,
            summary=f"{mistakes} illegal in {total:,} fresh symbols, least margin {least:.2f} nats",
            solved=least > self.solved_margin,
        )

    def state(self) -> dict[str, Any]:
        """Where the streams stand."""
        return {"streams": self._streams.state(), "sessions": self._sessions.bit_generator.state}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from where `state` was taken."""
        self._streams.restore(state["streams"])
        self._sessions.bit_generator.state = state["sessions"]
