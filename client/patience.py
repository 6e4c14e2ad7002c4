"""How long a caller waits, and when it gives up. The two clients differ in how they sleep, not in this."""

import random
from collections.abc import Callable, Iterator

from gatestream.client.errors import DeadlineExceededError, Retried
from gatestream.client.protocol.queue import SessionQueue
from gatestream.client.protocol.requests import Chunk, Control
from gatestream.client.protocol.stream import Multiplexer

_LEAST_PAUSE = 0.005


def pause(refusal: Retried, refusals: int) -> float:
    """Seconds to wait before asking again: what the server says, longer each time, spread at random."""
    return max(refusal.retry_after, _LEAST_PAUSE) * min(2.0 ** (refusals - 1), 16.0) * random.uniform(1.0, 1.5)


def waits(
    multiplexer: Multiplexer,
    session_queue: SessionQueue,
    work: Chunk | Control,
    timeout: float,
    clock: Callable[[], float],
) -> Iterator[float]:
    """Ask for the work, and yield until when to wait for its `wake` at most, until it is done.

    Args:
        multiplexer: to ask in.
        session_queue: whose work it is.
        work: what is asked.
        timeout: seconds after which to give up.
        clock: seconds.
    """
    deadline = clock() + timeout
    multiplexer.add(session_queue, work)
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
            multiplexer.withdraw(session_queue, work, overdue(timeout))


def overdue(seconds: float) -> DeadlineExceededError:
    """What a caller gets who has waited for so long."""
    return DeadlineExceededError(
        f"no answer within {seconds:g} s; steps that had left may still be taken, and the next call goes on "
        "from there: see `position`"
    )
