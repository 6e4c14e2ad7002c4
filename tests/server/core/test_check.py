"""What is said where something does not add up: each thing that is counted, put out by one."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from gatestream.server.backend.artifact import Artifact
from gatestream.server.config import Limits, ServerConfig
from gatestream.server.core.accounts import Accounts
from gatestream.server.core.batches import OUTPUTS
from gatestream.server.core.catalog import Catalog, build
from tests.support.engine import Recorder

LIMITS = Limits(sessions=8)


@pytest.fixture
async def catalog(accumulator_path: Path) -> AsyncIterator[Catalog]:
    """Of one model with two sessions, of which one has ended."""
    made = Catalog(Accounts(LIMITS))
    config = ServerConfig(artifacts=(accumulator_path,), provider="cpu", limits=LIMITS)
    model = build(Artifact.load(accumulator_path), made.reserve("accumulator"), config, made.accounts)
    made.add(model)
    task = asyncio.create_task(model.engine.run())
    owner = Recorder(account=made.accounts.of("tenant"))
    for handle in range(2):
        model.lifecycle.opening.open(owner, "tenant", "", handle, create=True, resume=True, reply_mask=OUTPUTS)
    model.lifecycle.held.close(owner, np.array([1]))
    await model.engine.quiet()
    yield made
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def rows(catalog: Catalog) -> None:
    catalog.find("").engine.admission.rows += 1


def position(catalog: Catalog) -> None:
    catalog.find("").engine.sessions.position[0] += 1


def slot(catalog: Catalog) -> None:
    catalog.find("").engine.sessions._slots.take(1)


def number(catalog: Catalog) -> None:
    catalog.find("").engine.sessions._free.take(1)


def session(catalog: Catalog) -> None:
    catalog.find("").engine.sessions.tenants._by_name["tenant"].sessions += 1


def name(catalog: Catalog) -> None:
    catalog.find("").engine.sessions.tenants._by_name["tenant"].session_of.clear()


def entry(catalog: Catalog) -> None:
    catalog.find("").engine._scheduler._ids.take(1)


def account_rows(catalog: Catalog) -> None:
    catalog.accounts.of("tenant").rows -= 1


def account_bytes(catalog: Catalog) -> None:
    catalog.accounts.of("tenant").bytes += 7


@pytest.mark.parametrize(
    ("put_out", "said"),
    [
        (rows, ["model 'accumulator': 1 rows are pending, none are queued", "tenants have 0 rows pending, models 1"]),
        (position, ["model 'accumulator': 1 sessions have not consumed all steps that were accepted"]),
        (slot, ["model 'accumulator': 2 slots are taken, 1 sessions are to have one"]),
        (number, ["model 'accumulator': 2 numbers of sessions are taken, 1 sessions are there"]),
        (session, ["model 'accumulator': tenants have 2 sessions, 1 are there"]),
        (name, ["model 'accumulator': 0 sessions have an id and 0 are leaving, 1 are there"]),
        (entry, ["model 'accumulator': 1 entries are taken, 0 wait in queues"]),
        (
            account_rows,
            ["tenants have -1 rows pending, models 0", "a tenant has 0 streams, -1 rows and 0 bytes"],
        ),
        (account_bytes, ["tenants hold 7 bytes, all together 0"]),
    ],
)
async def test_each_difference_is_said(catalog: Catalog, put_out: Callable[[Catalog], None], said: list[str]) -> None:
    assert catalog.check() == []
    put_out(catalog)
    assert catalog.check() == said


async def test_who_has_something_to_do_is_not_looked_at(catalog: Catalog) -> None:
    engine = catalog.find("").engine
    engine.submit_one(Recorder(account=catalog.accounts.of("tenant")), 0, 0, 1, -1, [bytes(8)], 1)
    assert catalog.check() == []
    await engine.quiet()
    assert catalog.check() == []
