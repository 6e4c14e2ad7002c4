"""The pages of a server, over real connections: what is answered, and what a peer cannot do."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from http import HTTPStatus

import pytest

from gatestream.server import http
from gatestream.server.errors import ConfigError
from gatestream.server.http import Answer, HttpServer


@contextlib.asynccontextmanager
async def server() -> AsyncIterator[HttpServer]:
    async def page() -> Answer:
        return Answer(HTTPStatus.OK, b"words\n")

    async def broken() -> Answer:
        raise RuntimeError("a secret")

    made = HttpServer("127.0.0.1:0", {"/page": page, "/broken": broken})
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


async def connected(to: HttpServer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = to.address.rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def said(to: HttpServer, request: bytes) -> tuple[int, list[str], bytes]:
    """The status, headers and body of the answer, behind which the connection is closed."""
    reader, writer = await connected(to)
    try:
        writer.write(request)
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        first, *headers = head.decode().split("\r\n")
        return int(first.split(" ")[1]), headers, body
    finally:
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("path", ["/page", "/page?x=1"])
@pytest.mark.parametrize(("method", "body"), [("GET", b"words\n"), ("HEAD", b"")])
async def test_a_page(method: str, body: bytes, path: str) -> None:
    async with server() as running:
        status, headers, got = await said(running, f"{method} {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
        assert (status, got) == (200, body)
        assert {"Content-Length: 6", "Connection: close", "Content-Type: text/plain; charset=utf-8"} <= set(headers)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /other HTTP/1.1\r\n\r\n", 404),
        (b"POST /page HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", 405),
        (b"get /page HTTP/1.1\r\n\r\n", 405),
        (b"GET /page\r\n\r\n", 400),
        (b"GET /page HTTP/2.0\r\n\r\n", 400),
        (b"GET  /page HTTP/1.1\r\n\r\n", 400),
        (b"GET page HTTP/1.1\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"GET /page HTTP/1.1\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"x" * 500_000, 431),
        (b"GET /broken HTTP/1.1\r\n\r\n", 500),
    ],
)
async def test_what_is_no_request_for_a_page_has_one_clear_status(request_: bytes, status: int) -> None:
    async with server() as running:
        got, headers, body = await said(running, request_)
        assert got == status
        assert body.endswith(b"\n")
        assert len(body) < 200
        assert b"secret" not in body
        assert ("Allow: GET, HEAD" in headers) == (status == 405)


async def test_a_request_that_ends_too_early() -> None:
    async with server() as running:
        reader, writer = await connected(running)
        writer.write(b"GET /page HTTP/1.1\r\n")
        writer.write_eof()
        assert (await reader.read()).startswith(b"HTTP/1.1 400 Bad Request\r\n")
        writer.close()


async def test_who_is_too_slow_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_REQUEST_SECONDS", 0.05)
    async with server() as running:
        reader, writer = await connected(running)
        writer.write(b"GET /pa")
        assert (await reader.read()).startswith(b"HTTP/1.1 408 Request Timeout\r\n")
        writer.close()


async def test_who_does_not_read_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_SECONDS", 0.1)
    large = bytes(64 * 2**20)

    async def page() -> Answer:
        return Answer(HTTPStatus.OK, large)

    running = HttpServer("127.0.0.1:0", {"/large": page})
    await running.start()
    reader, writer = await connected(running)
    writer.write(b"GET /large HTTP/1.1\r\n\r\n")
    while not running._connections:
        await asyncio.sleep(0)
    while running._connections:
        await asyncio.sleep(0.01)
    with contextlib.suppress(ConnectionError):
        assert len(await reader.read()) < len(large)
    writer.close()
    await running.stop()


async def test_one_connection_too_many_is_told_so_and_the_others_go_on() -> None:
    async with server() as running:
        slow = [await connected(running) for _ in range(32)]
        while len(running._connections) < 32:
            await asyncio.sleep(0)
        status, _, _ = await said(running, b"")
        assert status == 503
        reader, writer = slow.pop()
        writer.write(b"GET /page HTTP/1.1\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200 OK\r\n")
        writer.close()
        while len(running._connections) > 31:
            await asyncio.sleep(0)
        assert (await said(running, b"GET /page HTTP/1.1\r\n\r\n"))[0] == 200
        for _, writer in slow:
            writer.close()


async def test_an_address_that_is_taken() -> None:
    async with server() as running:
        with pytest.raises(ConfigError, match=f"http_listen is '{running.address}', which cannot be listened on"):
            await HttpServer(running.address, {}).start()


async def test_the_end_closes_what_is_open() -> None:
    async with server() as running:
        reader, writer = await connected(running)
        while not running._connections:
            await asyncio.sleep(0)
        await running.stop()
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()
