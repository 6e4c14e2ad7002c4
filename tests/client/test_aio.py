"""The asyncio client against a real server."""

import asyncio
import contextlib
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from gatestream.client import aio
from gatestream.client.errors import (
    ConnectionLostError,
    DeadlineExceededError,
    InputError,
    SessionClosedError,
    SessionsExhaustedError,
    SessionUnknownError,
    StepFailedError,
)
from tests.support.artifacts import POISON, whole_numbers
from tests.support.lstm import Lstm
from tests.support.process import ServerProcess, serving
from tests.support.proxy import proxied


@pytest.fixture
async def gs(server: ServerProcess) -> AsyncIterator[aio.Client]:
    async with aio.connect(server.address) as client:
        yield client
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not [task for task in left if "gatestream" in task.get_name()]


async def rows(*values: list[float]) -> AsyncIterator[list[float]]:
    for value in values:
        yield value


async def test_steps_chunks_and_gates(gs: aio.Client, lstm: Lstm) -> None:
    xs = np.random.default_rng(1).normal(size=(30, 3)).astype(np.float32)
    ys, gates = lstm.run(xs)
    async with gs.session("lstm", gates=True) as s:
        np.testing.assert_allclose(await s.step(xs[0]), ys[0], atol=1e-6)
        np.testing.assert_allclose(s.gates["forget"], gates["f"][0][None], atol=1e-6)
        np.testing.assert_allclose(await s.run(xs[1:]), ys[1:], atol=1e-5)
        assert (s.position, s.last.position) == (30, 1)


async def test_sessions_and_clients_may_be_awaited(server: ServerProcess) -> None:
    gs = await aio.connect(server.address)
    s = await gs.session("accumulator")
    np.testing.assert_array_equal(await s.step([1, 1]), [1, 1])
    await s.close()
    await s.close()
    with pytest.raises(SessionClosedError):
        await s.step([1, 1])
    await gs.close()
    await gs.close()
    with pytest.raises(ConnectionLostError, match="is closed; connect again"):
        await gs.session("accumulator")


async def test_many_tasks_and_sessions(gs: aio.Client) -> None:
    async def work(seed: int) -> None:
        xs = whole_numbers(np.random.default_rng(seed), 40)
        async with gs.session("accumulator") as s:
            # All at once: they are taken in the order in which they were asked for.
            ys = await asyncio.gather(*(s.step(x) for x in xs))
            np.testing.assert_array_equal(ys, np.cumsum(xs, axis=0))

    await asyncio.gather(*map(work, range(30)))


async def test_a_group(gs: aio.Client) -> None:
    async with gs.group("accumulator", 20) as group:
        xs = whole_numbers(np.random.default_rng(2), 20 * 6).reshape(20, 6, 2)
        np.testing.assert_array_equal(await group.step(xs[:, 0]), xs[:, 0])
        np.testing.assert_array_equal(await group.run(xs[:, 1:]), np.cumsum(xs, axis=1)[:, 1:])
        await group.reset()
        np.testing.assert_array_equal(await group.step([[1, 1]], members=[7]), [[1, 1]])
        ys = await group.run(np.ones((2, 3, 2)), members=[3, 4], lengths=[1, 3])
        np.testing.assert_array_equal(ys[..., 0], [[1, 0, 0], [1, 2, 3]])
        with pytest.raises(StepFailedError) as caught:
            await group.step(np.array([[1, 1], [POISON, 0]]), members=[7, 8])
        # A tick fails as one: whether the other took its step is for the server to say.
        assert 8 in caught.value.failures


async def test_a_live_source(gs: aio.Client) -> None:
    come: asyncio.Queue[list[int]] = asyncio.Queue()

    async def source() -> AsyncIterator[list[int]]:
        while True:
            yield await come.get()

    async with gs.session("accumulator") as s, contextlib.aclosing(s.stream(source())) as answers:
        for k in range(1, 4):
            # The next row comes only when this one is answered.
            come.put_nowait([k, 1])
            np.testing.assert_array_equal(await anext(answers), [k * (k + 1) // 2, k])
            assert s.last.position == k - 1


async def test_a_quick_source_and_one_that_ends_badly(gs: aio.Client) -> None:
    xs = whole_numbers(np.random.default_rng(3), 3000)
    async with gs.session("accumulator") as s:
        ys = [y async for y in s.stream(rows(*xs.tolist()))]
        np.testing.assert_array_equal(ys, np.cumsum(xs, axis=0))
        await s.reset()
        answers = s.stream(rows([1, 1], [2, 2], [3, 3, 3]))
        assert [(await anext(answers))[0], (await anext(answers))[0]] == [1, 3]
        with pytest.raises(InputError):
            await anext(answers)


async def test_a_source_that_is_cancelled(gs: aio.Client) -> None:
    async def source() -> AsyncIterator[list[int]]:
        yield [1, 1]
        sensor = asyncio.create_task(asyncio.sleep(60))
        asyncio.get_running_loop().call_soon(sensor.cancel)
        await sensor

    async with gs.session("accumulator") as s:
        answers = s.stream(source())
        np.testing.assert_array_equal(await anext(answers), [1, 1])
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(anext(answers), 30)
        np.testing.assert_array_equal(await s.step([1, 1]), [2, 2])


PROGRAM = """
import asyncio, sys
from gatestream.client import aio

async def source():
    while True:
        yield [1, 1]
        await asyncio.sleep(0)

async def main():
    async with aio.connect(sys.argv[1]) as gs, gs.session("accumulator") as session:
        answers = session.stream(source())
        async for _ in answers:
            # The source is ahead by as much as it may be.
            await asyncio.sleep(0.5)
            raise ValueError("the program's own")

asyncio.run(main())
"""


def test_a_program_that_fails_while_its_source_is_ahead_ends(server: ServerProcess) -> None:
    command = [sys.executable, "-c", PROGRAM, server.address]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == "ValueError: the program's own"


@pytest.mark.parametrize("bad", [0, 13])
async def test_rows_before_one_that_fails_are_answered(narrow: ServerProcess, bad: int) -> None:
    # In messages of eight, of which each fails as a whole: what came with the bad row is stepped again, row by row.
    xs = [[1.0, 2.0]] * 20
    xs[bad] = [POISON, 0]
    async with aio.connect(narrow.address) as gs, gs.session() as s:
        answers = s.stream(rows(*xs))
        for k in range(bad):
            np.testing.assert_array_equal(await anext(answers), [k + 1, 2 * k + 2])
            assert s.last.position == k
        with pytest.raises(StepFailedError):
            await anext(answers)
        assert s.position == bad
        np.testing.assert_array_equal(await s.step([1, 2]), [bad + 1, 2 * bad + 2])


async def test_the_calls_beside_the_stream(gs: aio.Client) -> None:
    async with gs.session("accumulator", id="here") as s:
        await s.run(np.ones((5, 2)))
        state = await s.get_state()
        assert await s.fork("there") == "there"
        await s.step([1, 1])
        await s.set_state(state)
        assert s.position == 5
        np.testing.assert_array_equal(await s.step([1, 1]), [6, 6])
        listed = {each.session_id: each.position async for each in gs.list_sessions("accumulator")}
        assert (listed["here"], listed["there"]) == (6, 5)
        assert await gs.set_state("there", state) == 5
        assert (await gs.get_state("there", "accumulator")).position == 5
        assert await gs.fork("there", model="accumulator")
        assert await gs.close_session("there", "accumulator") == 5
        with pytest.raises(SessionUnknownError):
            await gs.get_state("there", "accumulator")
        described = await gs.describe()
        assert {each.spec.name for each in described.models} == set(gs.models)


async def test_a_cancelled_step_is_counted_and_dropped(server: ServerProcess, gs: aio.Client) -> None:
    async with gs.session("accumulator") as s:
        server.popen.send_signal(signal.SIGSTOP)
        try:
            flying = asyncio.create_task(s.step([1, 1]))
            waiting = asyncio.create_task(s.step([10, 10]))
            await asyncio.sleep(0.05)
            for task in (flying, waiting):
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            with pytest.raises(DeadlineExceededError):
                await s.step([100, 100], timeout=0.05)
        finally:
            server.popen.send_signal(signal.SIGCONT)
        # The first had left; the others never did.
        np.testing.assert_array_equal(await s.step([1000, 1000]), [1001, 1001])
        assert s.position == 2


async def test_a_cancelled_opening_leaves_no_session(server: ServerProcess, gs: aio.Client) -> None:
    server.popen.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await gs.session("accumulator", id="given-up")
    finally:
        server.popen.send_signal(signal.SIGCONT)
    async with asyncio.timeout(30):
        while "given-up" in [each.session_id async for each in gs.list_sessions("accumulator")]:
            await asyncio.sleep(0.01)


async def test_what_goes_wrong_inside_is_what_comes_out(gs: aio.Client) -> None:
    with pytest.raises(StepFailedError):
        async with gs.session("accumulator") as s:
            await s.step([POISON, 0])


async def test_full_and_tried_again(narrow: ServerProcess) -> None:
    async with aio.connect(narrow.address) as gs, aio.connect(narrow.address, retry=False) as other:
        group = await gs.group(sessions=4)
        async with other.group(sessions=2):
            with pytest.raises(SessionsExhaustedError):
                await other.session()
            async with aio.connect(narrow.address) as patient:
                opening = asyncio.ensure_future(patient.session())
                await asyncio.sleep(0.2)
                assert not opening.done()
                await group.close()
                s = await opening
                np.testing.assert_array_equal(await s.step([1, 1]), [1, 1])


async def test_a_server_that_dies_fails_whoever_waits(accumulator_path: Path) -> None:
    with serving(accumulator_path) as server:
        async with aio.connect(server.address, resume=False) as gs:
            s, other = await gs.session(), await gs.session()
            server.popen.send_signal(signal.SIGSTOP)
            waiting = [asyncio.create_task(each.step([1, 1])) for each in (s, s, other)]
            await asyncio.sleep(0.05)
            server.kill()
            failures = await asyncio.gather(*waiting, return_exceptions=True)
            assert [type(failure) for failure in failures] == [ConnectionLostError] * 3
            await s.close()


async def test_a_server_that_stops_waits_for_no_client_without_sessions(accumulator_path: Path) -> None:
    with serving(accumulator_path, drain_seconds=120) as server:
        async with aio.connect(server.address) as gs:
            s = await gs.session()
            server.popen.send_signal(signal.SIGTERM)
            await s.run(np.ones((10, 2)))
            await s.close()
            assert await asyncio.to_thread(server.popen.wait, 60) == 0


async def test_calls_go_on_through_cuts(server: ServerProcess) -> None:
    with proxied(server.port) as proxy:
        async with (
            aio.connect(proxy.address) as gs,
            gs.session("accumulator") as s,
            gs.group("accumulator", 3) as group,
        ):

            async def cut() -> None:
                for _ in range(4):
                    await asyncio.sleep(0.3)
                    proxy.cut()

            cutting = asyncio.create_task(cut())
            total = 0
            while not cutting.done():
                total += 1
                assert (await s.step([1, 1])).tolist() == [total] * 2
                assert (await group.step(np.ones((3, 2)))).tolist() == [[total] * 2] * 3
            state = await s.get_state()
            proxy.cut()
            await s.set_state(state)
            copy = await s.fork()
            assert (await s.step([1, 1])).tolist() == [total + 1] * 2
            async with gs.session("accumulator", id=copy, mode="resume") as other:
                assert other.position == total


def test_a_program_that_leaves_its_sessions_open_ends(server: ServerProcess) -> None:
    async def main() -> None:
        client = await aio.connect(server.address)
        session = await client.session("lstm")
        await session.step(np.zeros(3, np.float32))

    program = threading.Thread(target=asyncio.run, args=(main(),), daemon=True)
    program.start()
    program.join(30)
    assert not program.is_alive()
