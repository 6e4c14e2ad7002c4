"""The signals that tell a server to stop."""

import asyncio
import signal
from collections.abc import Callable


def on_stop(came: Callable[[], None]) -> None:
    """Have each SIGTERM, SIGINT and SIGHUP call this, on the running event loop.

    A SIGHUP that was ignored when the process started stays so: `nohup` and a shell's `disown` mean just that.
    """
    loop = asyncio.get_running_loop()
    hangup = () if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (signal.SIGHUP,)
    for number in (signal.SIGTERM, signal.SIGINT, *hangup):
        loop.add_signal_handler(number, came)


class StopSignals:
    """The first and the second signal to stop.

    Args:
        alone: there is no supervisor. Where there is one, what it says may come before the very signal that it heard,
            which then is no second one.
    """

    def __init__(self, *, alone: bool) -> None:
        self._alone = alone
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        on_stop(self._came)

    def _came(self) -> None:
        (self.second if self._alone and self.first.is_set() else self.first).set()
