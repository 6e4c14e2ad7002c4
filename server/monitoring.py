"""What those who watch a server read over HTTP: its metrics, and two pages of health."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus

from gatestream.server.http import Answer, HttpServer, Page
from gatestream.server.telemetry import Totals


@asynccontextmanager
async def watched(
    address: str | None,
    totals: Callable[[], Awaitable[Totals]],
    unready: Callable[[], str],
    failures: Callable[[], Sequence[str]] = tuple,
) -> AsyncIterator[None]:
    """Serve `pages` for the length of a block, if there is an address to do so.

    Raises:
        ConfigError: it cannot be listened on.
    """
    if address is None:
        yield
        return
    server = HttpServer(address, pages(totals, unready, failures))
    await server.start()
    try:
        yield
    finally:
        await server.stop()


def pages(
    totals: Callable[[], Awaitable[Totals]],
    unready: Callable[[], str],
    failures: Callable[[], Sequence[str]] = tuple,
) -> dict[str, Page]:
    """What those who watch a server read, by path.

    Args:
        totals: what to say now.
        unready: why the server takes no new sessions now; empty: it does.
        failures: what it does not serve though it was to, a line for each.
    """
    # Prometheus' library takes its time and memory only where somebody asks for it.
    from gatestream.server.metrics import CONTENT_TYPE, text

    scrapes = _Scrapes(totals, text, CONTENT_TYPE)

    async def alive() -> Answer:
        return Answer(HTTPStatus.OK, b"alive\n")

    async def ready() -> Answer:
        if why := unready():
            return Answer(HTTPStatus.SERVICE_UNAVAILABLE, f"{why}\n".encode())
        lines = ["ready", *(f"not served: {each}" for each in failures())]
        return Answer(HTTPStatus.OK, "".join(f"{line}\n" for line in lines).encode())

    return {"/metrics": scrapes.page, "/healthz": alive, "/readyz": ready}


class _Scrapes:
    """The metrics as a page. Those who ask while it is being made get the same: one at a time takes the loop's time.

    Args:
        totals: what to say now.
        text: says it, in pieces.
        content_type: of that.
    """

    def __init__(
        self,
        totals: Callable[[], Awaitable[Totals]],
        text: Callable[[Totals], Iterator[bytes]],
        content_type: str,
    ):
        self._totals = totals
        self._text = text
        self._content_type = content_type
        self._making: asyncio.Task[bytes] | None = None

    async def page(self) -> Answer:
        """As it is now."""
        if self._making is None:
            self._making = asyncio.create_task(self._make())
        # Whoever asked first may go before it is made.
        return Answer(HTTPStatus.OK, await asyncio.shield(self._making), self._content_type)

    async def _make(self) -> bytes:
        try:
            made = []
            for piece in self._text(await self._totals()):
                made.append(piece)
                await asyncio.sleep(0)
            return b"".join(made)
        finally:
            self._making = None
