"""The pages of those who watch a server, without HTTP."""

import asyncio
from http import HTTPStatus

import pytest

from gatestream.server.monitoring import pages
from gatestream.server.telemetry import Totals


async def test_who_asks_while_it_is_made_gets_the_same() -> None:
    asked = 0

    async def totals() -> Totals:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0)
        return Totals(processes=asked)

    page = pages(totals, lambda: "")["/metrics"]
    first = asyncio.create_task(page())
    others = [asyncio.create_task(page()) for _ in range(5)]
    await asyncio.sleep(0)
    # Whoever asked first goes, and the others get theirs.
    first.cancel()
    answers = await asyncio.gather(*others)
    assert asked == 1
    assert {answer.status for answer in answers} == {HTTPStatus.OK}
    assert (await page()).body != answers[0].body
    assert asked == 2


async def test_a_scrape_that_failed_is_not_the_last() -> None:
    fails = True

    async def totals() -> Totals:
        if fails:
            raise OSError("gone")
        return Totals()

    page = pages(totals, lambda: "")["/metrics"]
    with pytest.raises(OSError, match="gone"):
        await page()
    fails = False
    assert (await page()).status == HTTPStatus.OK


@pytest.mark.parametrize(("why", "status"), [("", 200), ("draining", 503), ("starting", 503)])
async def test_ready_or_not(why: str, status: int) -> None:
    async def totals() -> Totals:
        return Totals()

    found = pages(totals, lambda: why)
    answer = await found["/readyz"]()
    assert (answer.status, answer.body) == (status, f"{why or 'ready'}\n".encode())
    assert (await found["/healthz"]()).status == HTTPStatus.OK
