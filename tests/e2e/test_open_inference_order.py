"""The answers of a stream of the Open Inference Protocol come in the order of its requests."""

import queue
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from gatestream.protos.inference import open_inference_grpc_pb2 as oip
from gatestream.protos.inference import open_inference_grpc_pb2_grpc as oip_grpc
from tests.support.artifacts import POISON
from tests.support.open_inference import request, sums
from tests.support.process import ServerProcess
from tests.support.wire import PATIENCE, channel

Stub = oip_grpc.GRPCInferenceServiceStub


@pytest.fixture
def door(server: ServerProcess) -> Iterator[Stub]:
    with channel(server.address) as opened:
        yield Stub(opened)


def answers(door: Stub, requests: list[oip.ModelInferRequest]) -> list[oip.ModelStreamInferResponse]:
    return list(door.ModelStreamInfer(iter(requests), timeout=PATIENCE))


def test_a_short_request_waits_for_the_long_one_before_it(door: Stub) -> None:
    """Without ids, their place is all that tells whose answer is whose. The server runs one step at a time."""
    lengths = [300, 1, 40, 1, 1, 200, 2]
    requests = [request(np.full((steps, 2), k)) for k, steps in enumerate(lengths)]
    got = answers(door, requests)
    assert [len(sums(answer.infer_response)) for answer in got] == lengths
    for k, answer in enumerate(got):
        assert sums(answer.infer_response)[-1] == [k * lengths[k]] * 2


def test_an_error_waits_for_the_answers_before_it(server: ServerProcess) -> None:
    kinds = {
        "refused when read": request([[1, 1]], outputs=[oip.ModelInferRequest.InferRequestedOutputTensor(name="q")]),
        "not finite": request([[np.nan, 1]]),
        "fails in its run": request([[POISON, 1]]),
        "of no sequence": request([[1, 1]], "never"),
    }
    with channel(server.address) as opened:
        call: Any = opened.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
        for name, wrong in kinds.items():
            right = request(np.ones((200, 2))).SerializeToString()
            sent = [right, wrong.SerializeToString(), right]
            got = [oip.ModelStreamInferResponse.FromString(item) for item in call(iter(sent), timeout=PATIENCE)]
            assert [bool(item.error_message) for item in got] == [False, True, False], name
            assert all(sums(item.infer_response)[-1] == [200, 200] for item in (got[0], got[2]))


def test_more_errors_than_are_kept_wait_in_the_connection(door: Stub) -> None:
    """Behind a long request they are kept for its answer, a bounded number of them."""
    wrong = request([[1, 1]], model_version="9")
    got = answers(door, [request(np.ones((600, 2))), *[wrong] * 1000, request([[5, 5]])])
    assert len(got) == 1002
    assert sums(got[0].infer_response)[-1] == [600, 600]
    assert all("is here in version '1', not '9'" in item.error_message for item in got[1:-1])
    assert sums(got[-1].infer_response) == [[5, 5]]


def test_any_mix_comes_in_order(door: Stub) -> None:
    rng = np.random.default_rng(0)
    totals = dict.fromkeys(range(1, 9), 0)
    requests: list[oip.ModelInferRequest] = []
    expected: list[list[int] | None] = []
    for _ in range(200):
        sequence, steps = int(rng.integers(1, 9)), int(rng.choice([1, 1, 1, 2, 30]))
        if rng.random() < 0.1:
            requests.append(request([[1, 1]], sequence, model_version="9"))
            expected.append(None)
            continue
        start = totals[sequence] == 0
        totals[sequence] += steps
        requests.append(request(np.ones((steps, 2)), sequence, start=start))
        expected.append([totals[sequence]] * 2)
    got = answers(door, requests)
    assert [None if item.error_message else sums(item.infer_response)[-1] for item in got] == expected
    for sequence in totals:
        list(door.ModelStreamInfer(iter([request([[0, 0]], sequence, start=True, end=True)]), timeout=PATIENCE))


def test_every_answer_says_that_it_is_the_final_one(door: Stub) -> None:
    """Whichever way it is written: in full, from a template, or as an error; and in none more than is asked for."""
    requests: queue.SimpleQueue[oip.ModelInferRequest | None] = queue.SimpleQueue()
    stream = door.ModelStreamInfer(iter(requests.get, None), timeout=PATIENCE)
    sent = [request([[1, 1]], 3, start=True), *(request([[1, 1]], 3) for _ in range(4))]
    sent += [request([[1, 1]], 3, model_version="9"), request([[1, 1]]), request([[1, 1]], 3, end=True)]
    for asked in sent:
        asked.id = "mine"
        for flag in (False, True):
            asked.parameters["triton_enable_empty_final_response"].bool_param = flag
            if flag and asked.parameters["sequence_end"].bool_param:
                continue
            requests.put(asked)
            message = next(stream)
            answer = message.infer_response
            assert answer.id == "mine"
            said = {"gatestream_reason"} if message.error_message else set()
            assert answer.parameters.keys() == {"triton_final_response"} | said
            assert answer.parameters["triton_final_response"].bool_param
    requests.put(None)
    assert list(stream) == []
    assert not door.ModelInfer(request([[1, 1]]), timeout=PATIENCE).parameters
