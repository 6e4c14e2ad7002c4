"""Checkpoints of all kept sessions of a server, written behind their steps, many in one transaction."""

import asyncio
import secrets
from collections.abc import Callable, Sequence, Set
from contextlib import suppress
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import structlog

from gatestream.server.arrays import Ints
from gatestream.server.durability.checkpoints import Key, Store, Writes, Written
from gatestream.server.errors import CheckpointUnfit, NotFound, StoreUnavailable

_INTERVAL_SECONDS: Final = 0.05
# A round takes this part of the time at most, unless the longest interval is reached.
_PART: Final = 0.05
_LONGEST_SECONDS: Final = 2.0
_BEAT_SECONDS: Final = 1.0
# States that are copied while the loop waits, and that are written in one transaction.
_PIECE_BYTES: Final = 2**20
_PIECE_ROWS: Final = 256
_WRITE_BYTES: Final = 32 * 2**20
_LONGEST_PAUSE: Final = 5.0

_log = structlog.get_logger(__name__)


class Rows(NamedTuple):
    """Copies of sessions' states, one element of each array for each session.

    Attributes:
        sessions: which.
        births: theirs, by which it is seen that a number is another session's by now.
        keys: theirs.
        epochs, sequences, positions, acknowledged, states: as in `Writes`.
    """

    sessions: Ints
    births: Ints
    keys: Sequence[Key]
    epochs: Ints
    sequences: Ints
    positions: Ints
    acknowledged: Ints
    states: npt.NDArray[np.uint8]


class Kept(Protocol):
    """The kept sessions of one model, as `core.kept` has them."""

    state_bytes: int

    def dirty(self) -> Ints:
        """The sessions whose state is not stored."""

    def copied(self, sessions: Ints) -> Rows:
        """Copies of the states of those sessions that are still there. No run is under way."""

    def between_runs(self, do: Callable[[], None]) -> None:
        """Do something as soon as no run is under way."""

    def written(self, rows: Rows, result: Written) -> None:
        """Note what has become of copies that the store was given."""

    def asked_for(self, keys: Set[Key]) -> None:
        """Hand over those of the sessions that are called so."""

    def has(self, key: Key, epoch: int) -> bool:
        """Whether a session is here at this epoch, or being claimed; at an earlier one it is dropped."""

    def let_go(self) -> tuple[Sequence[Key], Ints]:
        """Forget the sessions that are to be handed over and can be; what they are called, and their epochs."""


class Checkpointer:
    """Writes what has changed of kept sessions to the store.

    Args:
        store: of the checkpoints.

    Attributes:
        store: as given.
        owner: what this process is called in the store, for its life.
    """

    def __init__(self, store: Store):
        self.store = store
        self.owner = secrets.token_hex(16)
        self._models: list[Kept] = []
        self._closing: dict[Key, int] = {}
        self._closes: list[asyncio.Future[None]] = []
        self._wake = asyncio.Event()

    def add(self, kept: Kept) -> None:
        """Write the checkpoints of a model's sessions too."""
        self._models.append(kept)

    def remove(self, kept: Kept) -> None:
        """Of a model that is served no more."""
        self._models.remove(kept)

    async def beat(self) -> None:
        """Say that this process lives, and hear which of its sessions others ask for, until cancelled."""
        while True:
            try:
                await self.beat_once()
            except StoreUnavailable as error:
                _log.warning("the store does not answer", reason=str(error))
            await asyncio.sleep(_BEAT_SECONDS)

    async def beat_once(self) -> None:
        """Say that this process lives; to be done before the first claim.

        Raises:
            StoreUnavailable: it cannot be said.
        """
        wanted = set(await self.store.beat(self.owner))
        if not wanted:
            return
        for kept in self._models:
            kept.asked_for(wanted)
        self._wake.set()
        for key in wanted:
            await self._release_void(key)

    async def _release_void(self, key: Key) -> None:
        """Let go of a session that the store says is ours and that nobody has here, or at an earlier epoch only.

        The store claimed it for us, and could not say so.
        """
        try:
            stored = await self.store.read(key)
        except (NotFound, CheckpointUnfit):
            return
        if stored.owner == self.owner and not any(kept.has(key, stored.epoch) for kept in self._models):
            await self.store.release(self.owner, [key], np.array([stored.epoch]))

    async def run(self) -> None:
        """Write checkpoints, until cancelled."""
        interval, pause = _INTERVAL_SECONDS, 0.0
        loop = asyncio.get_running_loop()
        while True:
            if not self._wake.is_set():
                await self._until_due(interval + pause)
            self._wake.clear()
            began = loop.time()
            try:
                await self.round()
            except StoreUnavailable as error:
                if not pause:
                    _log.warning("checkpoints cannot be written; steps go on", reason=str(error))
                pause = min(max(2 * pause, _INTERVAL_SECONDS), _LONGEST_PAUSE)
            else:
                if pause:
                    _log.info("checkpoints are written again")
                pause = 0.0
            interval = min(max(_INTERVAL_SECONDS, (loop.time() - began) / _PART), _LONGEST_SECONDS)

    async def _until_due(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), seconds)

    async def round(self) -> None:
        """Write what has changed once, and let go of what is to be handed over.

        Raises:
            StoreUnavailable: the store does not take it.
        """
        await self._close_sessions()
        for kept in list(self._models):
            sessions = kept.dirty()
            most = max(1, _WRITE_BYTES // kept.state_bytes)
            for begin in range(0, len(sessions), most):
                await self._write(kept, sessions[begin : begin + most])
            keys, epochs = kept.let_go()
            if keys:
                await self.store.release(self.owner, keys, epochs)

    async def _write(self, kept: Kept, sessions: Ints) -> None:
        pieces: list[Rows] = []
        most = max(1, min(_PIECE_ROWS, _PIECE_BYTES // kept.state_bytes))
        for begin in range(0, len(sessions), most):
            pieces.append(await self._copied(kept, sessions[begin : begin + most]))
            await asyncio.sleep(0)
        whole = Rows(*(_joined(column) for column in zip(*pieces, strict=True)))
        if not len(whole.sessions):
            return
        _, _, keys, epochs, sequences, positions, acknowledged, states = whole
        result = await self.store.write(Writes(self.owner, keys, epochs, sequences, positions, acknowledged, states))
        kept.written(whole, result)

    @staticmethod
    async def _copied(kept: Kept, sessions: Ints) -> Rows:
        done: asyncio.Future[Rows] = asyncio.get_running_loop().create_future()

        def copy() -> None:
            if not done.done():
                try:
                    done.set_result(kept.copied(sessions))
                except Exception as error:
                    done.set_exception(error)

        kept.between_runs(copy)
        return await done

    # ---- Sessions that end --------------------------------------------------------------------

    def close(self, keys: Sequence[Key], epochs: Ints) -> asyncio.Future[None]:
        """End sessions in the store, many together; done when they have ended there, or it does not answer.

        Until it does, they are kept in mind.
        """
        self._closing.update(zip(keys, epochs.tolist(), strict=True))
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._closes.append(done)
        self._wake.set()
        return done

    async def _close_sessions(self) -> None:
        closing, self._closing = self._closing, {}
        closes, self._closes = self._closes, []
        try:
            if closing:
                await self.store.close(list(closing), np.fromiter(closing.values(), np.int64, len(closing)))
        except StoreUnavailable:
            self._closing = closing | self._closing
            raise
        finally:
            for done in closes:
                if not done.done():
                    done.set_result(None)


def _joined(parts: Any) -> Any:
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if isinstance(parts[0], np.ndarray) else [each for part in parts for each in part]
