"""One `Stream` of the blocking client: a thread that reads, and callers that sleep until they are answered."""

import contextlib
import copy
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import grpc

from gatestream.client.channel import Settings, from_stream, stream_method
from gatestream.client.columns import Layout
from gatestream.client.errors import DeadlineExceededError, GatestreamError, ProtocolError
from gatestream.client.patience import waits
from gatestream.client.protocol.queue import SessionQueue
from gatestream.client.protocol.requests import Chunk, Control, Kind
from gatestream.client.protocol.stream import Multiplexer
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb

R = TypeVar("R")
_SECONDS_TO_PART = 2.0


class Link:
    """Safe to use from many threads."""

    def __init__(self, channel: grpc.Channel, settings: Settings, limits: pb.Limits) -> None:
        self._address = settings.address
        self._multiplexer = Multiplexer(limits, retry=settings.retry)
        self._lock = threading.Lock()
        # gRPC's own thread takes from it; None ends the client's half.
        self._send_queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        # Callers to be woken, once the lock is free again: what they do next may need it.
        self._woken: list[queue.SimpleQueue[None]] = []
        stream: Any = channel.stream_stream(stream_method())
        self._call = stream(iter(self._send_queue.get, None), metadata=settings.metadata)
        self._reader = threading.Thread(target=self._read, name=f"gatestream {settings.address}", daemon=True)
        self._reader.start()

    @property
    def usable(self) -> bool:
        """Whether new sessions can be opened here."""
        return self._multiplexer.usable

    @property
    def lost(self) -> bool:
        """Whether the stream is gone."""
        return self._multiplexer.lost

    def open(self, layout: Layout, opens: Sequence[pb.Open], timeout: float) -> SessionQueue:
        """Open sessions that step together.

        Raises:
            GatestreamError: none is open then.
        """
        session_queue, work = self._locked(partial(self._multiplexer.open, layout, opens))
        self.ask(session_queue, work, timeout)
        return session_queue

    def ask(self, session_queue: SessionQueue, work: Chunk | Control, timeout: float) -> None:
        """Have the work done.

        Raises:
            GatestreamError: it was not.
        """
        bell: queue.SimpleQueue[None] = queue.SimpleQueue()
        work.wake = partial(self._woken.append, bell)
        turns = partial(next, waits(self._multiplexer, session_queue, work, timeout, time.monotonic), None)
        try:
            while not work.done and (until := self._locked(turns)) is not None:
                with contextlib.suppress(queue.Empty):
                    bell.get(timeout=min(max(until - time.monotonic(), 0), threading.TIMEOUT_MAX))
        except BaseException:
            # Ctrl-C: nobody waits for the answer any more.
            self._leave(session_queue, work)
            raise
        if work.error is not None:
            raise work.error

    def close_later(self, session_queue: SessionQueue) -> None:
        """Have the sessions closed, without waiting for it."""
        self._locked(
            partial(self._multiplexer.add, session_queue, Control(kind=Kind.CLOSE, members=session_queue.members))
        )

    @contextlib.contextmanager
    def pause(self, session_queue: SessionQueue, timeout: float) -> Iterator[None]:
        """Hold the queue still, once all that was asked of it before is answered."""
        self.ask(session_queue, Control(kind=Kind.PAUSE, members=session_queue.members), timeout)
        try:
            yield
        finally:
            self._locked(partial(self._multiplexer.resume, session_queue))

    def close(self) -> None:
        """End the stream. The server closes its sessions when it has answered what is on its way."""
        self._send_queue.put(None)
        self._reader.join(_SECONDS_TO_PART)
        self._call.cancel()
        self._reader.join()

    def _leave(self, session_queue: SessionQueue, work: Chunk | Control) -> None:
        error = DeadlineExceededError("the caller waits no longer")
        self._locked(partial(self._multiplexer.withdraw, session_queue, work, error))

    def _locked(self, act: Callable[[], R]) -> R:
        """Do something with the multiplexer, send what may leave then, and wake whoever has an answer."""
        with self._lock:
            result = act()
            for message in self._multiplexer.take():
                self._send_queue.put(message)
            if self._multiplexer.over:
                self._send_queue.put(None)
            woken = self._woken[:]
            self._woken.clear()
        for bell in woken:
            bell.put(None)
        return result

    def _read(self) -> None:
        reason: Callable[[], GatestreamError] = from_stream(None, self._address)
        try:
            for message in self._call:
                self._locked(partial(self._multiplexer.receive, message))
        except grpc.RpcError as error:
            reason = from_stream(error, self._address)
        except GatestreamError as error:
            reason = partial(copy.copy, error)
            self._call.cancel()
        except Exception as error:
            reason = partial(ProtocolError, f"this client failed: {error!r}")
            self._call.cancel()
            raise
        finally:
            self._locked(partial(self._multiplexer.end, reason))
            self._send_queue.put(None)
