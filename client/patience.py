"""How long a caller waits, and when it gives up. The two clients differ in how they sleep, not in this."""

import random
from collections.abc import Callable, Iterator

from gatestream.client.errors import DeadlineExceededError, DrainingError, GatestreamError, Retried
from gatestream.client.protocol.queue import SessionQueue
from gatestream.client.protocol.requests import Chunk, Control
from gatestream.client.protocol.stream import Multiplexer

_LEAST_PAUSE = 0.005


def pause(refusal: Retried | DrainingError, refusals: int) -> float:
    """Seconds to wait before asking again: what the server says, longer each time, spread at random.

    No longer than some times of what it says: it may leave something to who is about to come back.
    """
    after = 0.0 if isinstance(refusal, DrainingError) else refusal.retry_after
    most = 4.0 if after > _LEAST_PAUSE else 16.0
    return max(after, _LEAST_PAUSE) * min(2.0 ** (refusals - 1), most) * random.uniform(1.0, 1.5)


def waits(
    multiplexer: Multiplexer,
    session_queue: SessionQueue,
    work: Chunk | Control,
    timeout: float,
    deadline: float,
    clock: Callable[[], float],
) -> Iterator[float]:
    """Yield until when to wait, at most, for the `wake` of work that was asked for and is not done.

    Args:
        multiplexer: that was asked.
        session_queue: whose work it is.
        work: what was asked.
        timeout: seconds after which to give up.
        deadline: when these are over.
        clock: seconds.
    """
    while not work.done:
        left = deadline - clock()
        if work.refusal is not None:
            seconds = pause(work.refusal, work.refusals)
            if seconds > left:
                multiplexer.withdraw(session_queue, work, work.refusal)
                return
            yield clock() + seconds
            multiplexer.again(session_queue)
        elif left > 0:
            yield deadline
        else:
            multiplexer.withdraw(session_queue, work, overdue(timeout, multiplexer.parted(clock())))


def left_of(
    multiplexer: Multiplexer, session_queue: SessionQueue, deadline: float, timeout: float, clock: Callable[[], float]
) -> Iterator[float]:
    """Attempts to make a call about a session that is paused: each once the session is on a stream.

    Yields:
        Seconds to sleep; 0: make an attempt now.

    Raises:
        DeadlineExceededError: none has succeeded in time.
        SessionError: it is closed.
    """
    attempts = 0
    while True:
        if session_queue.closed:
            raise session_queue.why_closed(session_queue.members)
        left = deadline - clock()
        if left <= 0:
            raise overdue(timeout, multiplexer.parted(clock()))
        if session_queue.away:
            yield min(left, _LEAST_PAUSE)
        else:
            if attempts > 1:
                # The stream may not know yet what the call has found out.
                yield min(left, _LEAST_PAUSE * min(2.0**attempts, 64.0))
            yield 0.0
            attempts += 1


def overdue(seconds: float, parted: tuple[GatestreamError, float] | None) -> DeadlineExceededError:
    """What a caller gets who has waited for so long.

    Args:
        seconds: the timeout.
        parted: why there is no connection, and for how many seconds there was none; None: there is one.
    """
    if parted is not None:
        why, since = str(parted[0]).split("; ")[0], parted[1]
        return DeadlineExceededError(
            f"no answer within {seconds:g} s: there has been no connection for {since:.1f} s ({why}); the session goes "
            "on when there is one, and steps that had left are taken then: see `position`"
        )
    return DeadlineExceededError(
        f"no answer within {seconds:g} s; steps that had left may still be taken, and the next call goes on "
        "from there: see `position`"
    )
