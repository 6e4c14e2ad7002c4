"""A message that is refused is not kept: it may be large, and the garbage collector looks seldom."""

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.inference import open_inference_grpc_pb2 as oip
from gatestream.server.config import Limits
from gatestream.server.core.catalog import Catalog
from gatestream.server.transport.native import ClientStream
from gatestream.server.transport.oip import InferenceStream
from tests.support.in_process import serving_here

LIMITS = Limits(sessions=8, sessions_per_stream=8)


class Watched:
    """What can be looked at without being held, as bytes cannot."""


class Message(bytes):
    """Bytes that have something which is there for as long as they are."""

    with_it: Watched


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def own(catalog: Catalog) -> Any:
    return ClientStream(catalog, LIMITS, "tenant")


def other(catalog: Catalog) -> Any:
    return InferenceStream(catalog, LIMITS, "tenant")


STEPS = {
    "unknown handle": pb.Steps(handle=[3], input=[b"12345678"]),
    "lengths that do not fit": pb.Steps(handle=[3], length=[1, 2], input=[b"12345678"]),
    "a number too large": pb.Steps(handle=[1, 2], first=[2**63, 0], input=[b"12345678"]),
    "too many": pb.Steps(handle=range(100), input=[b"12345678"]),
    "large": pb.Steps(handle=[1, 2, 3], input=[bytes(2**20)]),
}
REQUESTS = {
    "an id too large": oip.ModelInferRequest(model_name="accumulator", id="x" * 2**20),
    "no such model": oip.ModelInferRequest(model_name="nobody"),
    "no inputs": oip.ModelInferRequest(model_name="accumulator"),
}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        *((own, pb.ClientMessage(steps=steps).SerializeToString()) for steps in STEPS.values()),
        (own, pb.ClientMessage(open=pb.Open(handle=99)).SerializeToString()),
        (own, pb.ClientMessage(reset=pb.Reset(handle=range(100))).SerializeToString()),
        (own, b""),
        *((other, request.SerializeToString()) for request in REQUESTS.values()),
    ],
)
async def test_it_is_gone_when_it_has_been_refused(accumulator_path: Path, make: Any, message: bytes) -> None:
    async with serving_here(accumulator_path, limits=LIMITS) as catalog:
        stream = make(catalog)
        sent = Message(message)
        sent.with_it = Watched()
        kept = weakref.ref(sent.with_it)
        stream.receive(sent)
        del sent
        assert kept() is None
        item = await stream.send_queue.take()
        assert item is not None, "it has been answered"
        stream.disconnect()
