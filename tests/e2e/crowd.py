"""Sessions that nobody watches: they come and go, step, send chunks, reset and fail, as fast as they are answered."""

import threading
from collections import Counter
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from tests.support.artifacts import POISON
from tests.support.wire import Stream

_STREAMS = 3

Rows = npt.NDArray[np.float64]


class Crowd:
    """So many sessions of one model, on a few streams, for the length of a block.

    Attributes:
        done: how often each kind of thing was done.
    """

    def __init__(self, address: str, model: str, features: int, sessions: int):
        self.done: Counter[str] = Counter()
        self._stop = threading.Event()
        self._errors: list[BaseException] = []
        shares = [len(part) for part in np.array_split(np.arange(sessions), min(_STREAMS, sessions))]
        self._members = [_Member(address, model, features, share, seed) for seed, share in enumerate(shares)]
        self._threads = [threading.Thread(target=self._run, args=[member]) for member in self._members]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        for member in self._members:
            member.stream.disconnect()
        if self._errors and error is None:
            raise self._errors[0]

    def _run(self, member: "_Member") -> None:
        try:
            while not self._stop.is_set():
                self.done[member.act()] += 1
        except BaseException as error:
            self._errors.append(error)


class _Member:
    """One stream of the crowd, which has one message in flight."""

    def __init__(self, address: str, model: str, features: int, sessions: int, seed: int):
        self.stream = Stream(address, seconds=600)
        self._model, self._features = model, features
        self._rng = np.random.default_rng(seed)
        self._made = 0
        self._handles: list[int] = []
        self._come(sessions)

    def act(self) -> str:
        kinds = ["step", "chunk", "reset", "turnover", "refused", "failed"]
        kind = str(self._rng.choice(kinds, p=[0.5, 0.2, 0.1, 0.1, 0.05, 0.05]))
        some = self._some(1.0 if kind == "step" else 0.1)
        if kind == "reset":
            self.stream.reset(*some)
            self._answered("reset_done", len(some))
        elif kind == "turnover":
            self.stream.close(*some)
            self._answered("closed", len(some))
            self._handles = [handle for handle in self._handles if handle not in some]
            self._come(len(some))
        else:
            chunks = {handle: self._rows(60 if kind == "chunk" else 1) for handle in some}
            if kind in ("refused", "failed"):
                chunks[some[0]][-1] = np.nan if kind == "refused" else POISON
            self._step(chunks)
        return kind

    def _some(self, share: float) -> list[int]:
        most = max(1, int(share * len(self._handles)))
        chosen: list[int] = self._rng.permutation(self._handles)[: self._rng.integers(1, most + 1)].tolist()
        return chosen

    def _rows(self, most: int) -> Rows:
        scale: float = 10.0 ** self._rng.uniform(-2, 2)
        return scale * self._rng.standard_normal((int(self._rng.integers(1, most + 1)), self._features))

    def _come(self, sessions: int) -> None:
        for _ in range(sessions):
            self.stream.open(self._made, model=self._model, gates=bool(self._rng.integers(2)))
            self._handles.append(self._made)
            self._made += 1
        for _ in range(sessions):
            self.stream.expect("opened")

    def _step(self, chunks: dict[int, Rows]) -> None:
        self.stream.steps(chunks)
        left = sum(map(len, chunks.values()))
        while left:
            message = self.stream.read()
            part = message.error if message.HasField("error") else message.results
            left -= sum(part.length) or len(part.handle)
        assert left == 0

    def _answered(self, kind: str, count: int) -> None:
        while count:
            count -= len(self.stream.expect(kind).handle)


def failed_in_a_tick(error: pb.Error) -> bool:
    """Whether steps were lost to what another session sent, or stood behind such, and can be sent again."""
    return error.reason in (pb.REASON_STEP_FAILED, pb.REASON_PRECEDING_FAILED, pb.REASON_POSITION_MISMATCH)
