"""Waiting for what comes without going to sleep, for as long as that pays."""

import selectors
import time
from collections.abc import Callable

from gatestream.server.config import ServerConfig
from gatestream.server.cpus import cpus_available


class BusySelector(selectors.DefaultSelector):
    """A selector that looks again and again for a while before it sleeps.

    To wake a core that sleeps, and the thread on it, takes tens of microseconds, as long as many a step; and what a
    live stream brings next is often nearer than that. No more time is spent on looking than on work, so that a server
    that has little to do uses little.

    Args:
        most: seconds that it looks at a time.
        clock: seconds, monotonic.

    Attributes:
        at_once: whether to sleep at once. Who looks holds the interpreter nearly all of the time.
    """

    def __init__(self, most: float, clock: Callable[[], float] = time.perf_counter):
        super().__init__()
        self.at_once = False
        self._most = most
        self._clock = clock
        self._allowance = 0.0
        self._woke = clock()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """As selectors.BaseSelector."""
        look = super().select
        if timeout is not None and timeout <= 0:
            return look(timeout)
        now = self._clock()
        until = now + min(self._allowance + now - self._woke, self._most)
        ready: list[tuple[selectors.SelectorKey, int]] = []
        while not ready and not self.at_once and now < until:
            ready = look(0)
            now = self._clock()
        self._allowance = max(0.0, until - now)
        if not ready:
            ready = look(timeout)
            now = self._clock()
        self._woke = now
        return ready


def why_not(config: ServerConfig) -> str | None:
    """Why no worker may look; None: it may."""
    if config.busy_poll_us == 0:
        return "busy_poll_us is 0"
    if (cpus := cpus_available()) < 2 * config.workers:
        return f"it would take the CPU that gRPC's own thread needs: {config.workers} workers have {cpus} CPUs"
    return None


def busy_poll(config: ServerConfig) -> float:
    """Seconds that each worker may look."""
    return 0.0 if why_not(config) else config.busy_poll_us * 1e-6
