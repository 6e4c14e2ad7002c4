"""Nobody waits for somebody else's long chunk; told by the order of answers, not by a clock."""

from pathlib import Path

import numpy as np

from tests.support.process import serving
from tests.support.wire import Stream

LONG = 16_000


def test_single_steps_are_answered_in_the_middle_of_a_long_chunk(accumulator_path: Path) -> None:
    neighbours, each = range(1, 9), 10
    with serving(accumulator_path) as server, Stream(server.address) as stream:
        for handle in (0, *neighbours):
            stream.opened(handle)
        with server.paused():
            stream.steps({0: np.ones((LONG, 2))})
            for _ in range(each):
                for handle in neighbours:
                    stream.steps({handle: [[1, 1]]})
            stream.flush()
        # How far the long chunk was, when the last of each neighbour's steps was answered.
        progress, answered = 0, dict.fromkeys(neighbours, 0)
        while progress < LONG:
            results = stream.expect("results")
            lengths = list(results.length) or [1] * len(results.handle)
            for handle, length in zip(results.handle, lengths, strict=True):
                if handle:
                    answered[handle] += length
                else:
                    progress += length
            if progress < LONG / 2:
                waiting = [handle for handle in neighbours if answered[handle] < each]
        assert answered == dict.fromkeys(neighbours, each)
        assert not waiting


def test_long_chunks_take_turns(accumulator_path: Path) -> None:
    with serving(accumulator_path, tick_rows=64) as server, Stream(server.address) as stream:
        for handle in range(4):
            stream.opened(handle)
        with server.paused():
            for handle in range(4):
                stream.steps({handle: np.ones((LONG, 2))})
            stream.flush()
        progress = dict.fromkeys(range(4), 0)
        while min(progress.values()) < LONG:
            results = stream.expect("results")
            for handle, length in zip(results.handle, results.length, strict=True):
                progress[handle] += length
            assert max(progress.values()) - min(progress.values()) < LONG / 4


def test_sessions_with_much_in_line_hold_up_no_other(accumulator_path: Path) -> None:
    sessions, each = 100, 50
    with serving(accumulator_path, tick_rows=8) as server, Stream(server.address) as stream:
        for handle in range(sessions + 1):
            stream.opened(handle)
        with server.paused():
            for _ in range(each):
                stream.steps({handle: [[1, 1]] for handle in range(sessions)})
            stream.steps({sessions: [[1, 1]]})
            stream.flush()
        # The last to come, but its session's turn comes when each of the others has had one.
        answered = 0
        while sessions not in (handles := stream.expect("results").handle):
            answered += len(handles)
        assert answered < sessions * each / 2
