import math

import pytest

from gatestream.client.calls import CallsView
from gatestream.client.channel import Settings
from gatestream.client.errors import InputError
from gatestream.client.models import Models
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb


def view(timeout: float) -> CallsView:
    return CallsView(
        Settings(address="a:1", timeout=timeout), Models(pb.DescribeResponse(limits=pb.Limits(chunk_length=8)))
    )


@pytest.mark.parametrize(("steps", "messages"), [(1, 1), (8, 1), (9, 2), (17, 3)])
def test_the_client_s_timeout_is_for_each_message(steps: int, messages: int) -> None:
    assert view(2.5).seconds(None, steps) == 2.5 * messages
    assert view(math.inf).seconds(None, steps) == math.inf


def test_a_timeout_that_is_given_is_for_all_of_it() -> None:
    assert view(2.5).seconds(0.5, 17) == 0.5
    with pytest.raises(InputError, match="timeout: "):
        view(2.5).seconds(0, 17)
