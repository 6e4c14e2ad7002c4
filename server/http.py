# ruff: noqa: A005 (nothing imports it by that name alone)
"""A small HTTP server for those who watch the server: a few pages, each read by GET or HEAD.

Everything is bounded: connections, the bytes of a request, the time of each. A connection is closed behind its answer.
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Mapping
from http import HTTPStatus
from typing import Any, Final, NamedTuple

import structlog

from gatestream.server.errors import ConfigError

_MOST_CONNECTIONS: Final = 32
# Of a request line and its headers.
_MOST_BYTES: Final = 8192
# Until a request has come; until a connection is closed.
_REQUEST_SECONDS: Final = 2.0
_SECONDS: Final = 10.0
# What has come and was not read would have the kernel drop the answer: it is read for so long, up to so much.
_LINGER_SECONDS: Final = 1.0
_LINGER_BYTES: Final = 2**20

PLAIN: Final = "text/plain; charset=utf-8"

_log = structlog.get_logger(__name__)


class Answer(NamedTuple):
    """What a page is."""

    status: HTTPStatus
    body: bytes
    content_type: str = PLAIN
    headers: tuple[str, ...] = ()


Page = Callable[[], Coroutine[Any, Any, Answer]]


class _BadRequestError(Exception):
    """What came is answered by a status."""

    def __init__(self, status: HTTPStatus, why: str, *headers: str):
        super().__init__(why)
        self.answer = Answer(status, f"{why}\n".encode(), headers=headers)


class HttpServer:
    """Serves pages.

    Args:
        listen: HOST:PORT; port 0 takes a free one.
        pages: by path.

    Attributes:
        address: HOST:PORT, when it has started.
    """

    def __init__(self, listen: str, pages: Mapping[str, Page]):
        self._listen = listen
        self._pages = pages
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.address = ""

    async def start(self) -> None:
        """Listen.

        Raises:
            ConfigError: the address cannot be listened on.
        """
        host, _, port = self._listen.rpartition(":")
        try:
            self._server = await asyncio.start_server(
                self._accept, host.strip("[]"), int(port), limit=_MOST_BYTES, backlog=_MOST_CONNECTIONS
            )
        except OSError as error:
            raise ConfigError(f"http_listen is {self._listen!r}, which cannot be listened on: {error}") from error
        self.address = f"{host}:{self._server.sockets[0].getsockname()[1]}"
        _log.info("metrics and health over HTTP", address=self.address)

    async def stop(self) -> None:
        """Close every connection."""
        if self._server is not None:
            self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= _MOST_CONNECTIONS:
            answer = Answer(HTTPStatus.SERVICE_UNAVAILABLE, b"too many connections; try again later\n")
            writer.write(_bytes(answer, body=True))
            writer.close()
            return
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_SECONDS):
                method, answer = await self._answer(reader)
                writer.write(_bytes(answer, body=method != "HEAD"))
                await writer.drain()
                writer.write_eof()
                await _linger(reader)
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError):
            """It has gone, or does not read its answer."""
        finally:
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[str, Answer]:
        method = ""
        try:
            method, path = await _request(reader)
            page = self._pages.get(path)
            if page is None:
                raise _BadRequestError(HTTPStatus.NOT_FOUND, f"not found; there is: {', '.join(self._pages)}")
            if method not in ("GET", "HEAD"):
                raise _BadRequestError(HTTPStatus.METHOD_NOT_ALLOWED, "expected GET or HEAD", "Allow: GET, HEAD")
            return method, await page()
        except _BadRequestError as error:
            return method, error.answer
        except OSError:
            raise
        except Exception:
            _log.exception("a page failed", method=method)
            return method, Answer(HTTPStatus.INTERNAL_SERVER_ERROR, b"the server failed at this; its log says how\n")


async def _request(reader: asyncio.StreamReader) -> tuple[str, str]:
    """The method and the path of a request, when all of its head has come.

    Raises:
        _BadRequestError: it is none, or too large.
    """
    try:
        async with asyncio.timeout(_REQUEST_SECONDS):
            head = await reader.readuntil(b"\r\n\r\n")
    except TimeoutError as error:
        raise _BadRequestError(
            HTTPStatus.REQUEST_TIMEOUT, f"the request has not come within {_REQUEST_SECONDS:g} s"
        ) from error
    except asyncio.LimitOverrunError as error:
        raise _BadRequestError(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
            f"expected a request line and headers of at most {_MOST_BYTES} bytes",
        ) from error
    except asyncio.IncompleteReadError as error:
        raise _BadRequestError(HTTPStatus.BAD_REQUEST, "the request ended before its headers did") from error
    line = head.partition(b"\r\n")[0].decode("latin-1")
    match line.split(" "):
        case [method, target, version] if version.startswith("HTTP/1.") and method.isalpha() and target[:1] == "/":
            return method, target.partition("?")[0]
    raise _BadRequestError(HTTPStatus.BAD_REQUEST, "expected a request line of HTTP/1.1, as in GET /metrics HTTP/1.1")


def _bytes(answer: Answer, *, body: bool) -> bytes:
    head = [
        f"HTTP/1.1 {answer.status.value} {answer.status.phrase}",
        f"Content-Type: {answer.content_type}",
        f"Content-Length: {len(answer.body)}",
        *answer.headers,
        "Connection: close",
        "",
        "",
    ]
    return "\r\n".join(head).encode() + (answer.body if body else b"")


async def _linger(reader: asyncio.StreamReader) -> None:
    left = _LINGER_BYTES
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_SECONDS):
            while left > 0 and (some := await reader.read(_MOST_BYTES)):
                left -= len(some)
