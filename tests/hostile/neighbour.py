"""The watched neighbour: one session, a step when it is due and not when the last was answered, checked against NumPy.

`python -m tests.hostile.neighbour ADDRESS DOOR RATE FILE TOKEN CA` appends a line for each answer, or for the error
that ended it: when the step was due, milliseconds from then to its answer, how far its numbers are from NumPy's. TOKEN
and CA may be empty.
"""

import queue
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import numpy as np

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.inference import open_inference_grpc_pb2 as oip
from tests.hostile.model import FEATURES, NAME, TOLERANCE, Reference
from tests.hostile.target import connect
from tests.support.lstm import Floats

DOORS: Final = {
    "own": "/gatestream.v1.Gatestream/Stream",
    "oip": "/inference.GRPCInferenceService/ModelStreamInfer",
}


def request(door: str, x: Floats, position: int, sequence: str) -> bytes:
    if door == "own":
        steps = pb.Steps(handle=[0], first=[position], input=[x.tobytes()])
        return pb.ClientMessage(steps=steps).SerializeToString()
    infer = oip.ModelInferRequest(model_name=NAME, raw_input_contents=[x.tobytes()])
    infer.inputs.add(name="x", datatype="FP32", shape=[1, FEATURES])
    infer.outputs.add(name="y")
    infer.parameters["sequence_id"].string_param = sequence
    infer.parameters["sequence_start"].bool_param = position == 0
    return infer.SerializeToString()


def answer(door: str, data: bytes) -> Floats | str | None:
    """The outputs of a step; None: the session is open; text: why not."""
    if door == "own":
        message = pb.ServerMessage.FromString(data)
        kind = message.WhichOneof("kind")
        if kind == "results":
            return np.frombuffer(message.results.output[0], "<f4")
        return None if kind == "opened" else f"{kind}: {getattr(message, str(kind))}"
    told = oip.ModelStreamInferResponse.FromString(data)
    return told.error_message or np.frombuffer(told.infer_response.raw_output_contents[0], "<f4")


def main(address: str, door: str, rate: str, path: str, token: str, ca: str) -> None:
    period, rng, reference = 1 / float(rate), np.random.default_rng(7), Reference()
    outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    due: queue.SimpleQueue[tuple[float, Floats]] = queue.SimpleQueue()
    metadata = [("authorization", f"Bearer {token}")] if token else None
    method: Any = connect(address, ca).stream_stream(DOORS[door])
    call = method(iter(outgoing.get, None), metadata=metadata)
    if door == "own":
        outgoing.put(pb.ClientMessage(open=pb.Open(handle=0, model=NAME)).SerializeToString())

    def send() -> None:
        at, position, sequence = time.time() + period, 0, f"neighbour-{time.time_ns()}"
        while True:
            time.sleep(max(0.0, at - time.time()))
            x = rng.normal(size=FEATURES).astype(np.float32)
            due.put((at, x))
            outgoing.put(request(door, x, position, sequence))
            position += 1
            at += period

    threading.Thread(target=send, daemon=True).start()
    with Path(path).open("a", buffering=1) as out:
        try:
            for data in call:
                y = answer(door, data)
                if isinstance(y, str):
                    raise RuntimeError(y)
                if y is not None:
                    at, x = due.get()
                    far = float(np.abs(reference.step(x) - y).max())
                    out.write(f"{at:.4f} {1e3 * (time.time() - at):.3f} {far:.3g}\n")
            raise RuntimeError("the stream ended")
        except (grpc.RpcError, RuntimeError) as error:
            out.write(f"{time.time():.4f} error {' '.join(str(error).split())[:300]}\n")


@dataclass(frozen=True)
class Seen:
    """What a neighbour saw of steps due in some time.

    Attributes:
        p99: milliseconds; of no steps infinite.
        wrong: answers that were not NumPy's.
        errors: what ended it.
    """

    steps: int
    p99: float
    wrong: int
    errors: list[str]


def seen(path: Path, begin: float, end: float) -> Seen:
    """What the neighbour that writes this file saw of steps due from begin to end."""
    milliseconds: list[float] = []
    wrong, errors = 0, []
    for due, took, far in _lines(path):
        if not begin <= due < end:
            continue
        if took == "error":
            errors.append(far)
        else:
            milliseconds.append(float(took))
            wrong += not float(far) <= TOLERANCE
    p99 = float(np.percentile(milliseconds, 99)) if milliseconds else float("inf")
    return Seen(len(milliseconds), p99, wrong, errors)


def answered(path: Path, due: float) -> bool:
    """Whether a step that was due at that time or later was answered, or nothing will be any more."""
    return any(at >= due or took == "error" for at, took, _ in _lines(path))


def _lines(path: Path) -> Iterator[tuple[float, str, str]]:
    whole, _, _ = path.read_text().rpartition("\n") if path.exists() else ("", "", "")
    for line in whole.splitlines():
        due, took, far = line.split(maxsplit=2)
        yield float(due), took, far


if __name__ == "__main__":
    main(*sys.argv[1:])
