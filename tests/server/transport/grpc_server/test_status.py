from typing import Any

import pytest

from gatestream.server.errors import Code, Exhausted, Idle, NotFound, Reason
from gatestream.server.transport.grpc_server.status import STATUS, abort


class Call:
    """Writes down how it is ended."""

    async def abort(self, *how: Any) -> None:
        self.ended = how


def test_every_code_is_grpcs_status_of_its_name() -> None:
    assert {code: status.name for code, status in STATUS.items()} == {code: code.name for code in Code}


@pytest.mark.parametrize(
    ("error", "trailing"),
    [
        (NotFound("none"), (("gatestream-reason", "REASON_SESSION_UNKNOWN"),)),
        (
            Exhausted("full", Reason.STREAMS_EXHAUSTED, retry_after=0.0125),
            (("gatestream-reason", "REASON_STREAMS_EXHAUSTED"), ("gatestream-retry-after-ms", "13")),
        ),
        (Idle("quiet"), ()),
    ],
)
async def test_a_call_ends_with_its_errors_status_and_reason(error: Any, trailing: tuple[Any, ...]) -> None:
    call = Call()
    await abort(call, error)
    assert call.ended == (STATUS[error.code], str(error), trailing)
