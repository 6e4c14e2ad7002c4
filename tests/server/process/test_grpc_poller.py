"""Who reads the sockets of a server, by how often its threads slept. A real process."""

from pathlib import Path

import pytest

from tests.support.artifacts import accumulator
from tests.support.process import ServerProcess, serving
from tests.support.wire import Stream

MESSAGES = 1_000
HANDED_OVER = 2 * MESSAGES
"""Where the event engine hands messages over, its threads sleep thrice for each; idle, forty times a second."""


def sleeps(server: ServerProcess, thread: str) -> int:
    """How often the threads of this name have waited for something."""
    tasks = Path(f"/proc/{server.popen.pid}/task").iterdir()
    statuses = [(task / "status").read_text().splitlines() for task in tasks if (task / "comm").read_text() == thread]
    return sum(int(line.split()[1]) for status in statuses for line in status if line.startswith("voluntary_ctxt"))


@pytest.mark.parametrize(("chosen", "hands_over"), [("", True), (None, False)])
def test_no_thread_of_the_event_engine_hands_messages_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen: str | None, hands_over: bool
) -> None:
    if chosen is None:
        monkeypatch.delenv("GRPC_EXPERIMENTS", raising=False)
    else:
        monkeypatch.setenv("GRPC_EXPERIMENTS", chosen)
    with serving(accumulator(tmp_path / "accumulator.onnx")) as server, Stream(server.address) as stream:
        stream.opened(0)
        before = sleeps(server, "event_engine\n")
        for _ in range(MESSAGES):
            stream.stepped(0, [[1, 2]])
        assert (sleeps(server, "event_engine\n") - before > HANDED_OVER) == hands_over
