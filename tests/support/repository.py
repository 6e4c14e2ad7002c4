"""A folder of models, and what is asked of the server that has it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.gatestream.v1 import gatestream_pb2_grpc as pb_grpc
from tests.support.artifacts import accumulator
from tests.support.process import ServerProcess
from tests.support.wire import PATIENCE, Stream, channel


def put(models: Path, name: str, version: int, initial: float = 0.0, features: int = 2) -> Path:
    """An accumulator whose new sessions begin at a number of their own."""
    path = models / name / str(version) / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    return accumulator(path, features, name="its spec's own name", version="its spec's own", initial=initial)


def put_broken(models: Path, name: str, version: int) -> None:
    """An artifact whose weights are not those that it was written with."""
    path = put(models, name, version)
    model = onnx.load(path)
    (table,) = [each for each in model.graph.initializer if each.name == "table"]
    table.CopyFrom(numpy_helper.from_array(np.ones(1, np.float32), "table"))
    onnx.save(model, path)


@contextmanager
def control(server: ServerProcess) -> Iterator[pb_grpc.ModelControlStub]:
    with channel(server.address) as opened:
        yield pb_grpc.ModelControlStub(opened)


def listed(stub: pb_grpc.ModelControlStub, **metadata: Any) -> dict[tuple[str, str], pb.ModelStatus]:
    found = stub.ListModels(pb.ListModelsRequest(), timeout=PATIENCE, **metadata).models
    return {(each.name, each.version): each for each in found}


def states(stub: pb_grpc.ModelControlStub) -> dict[tuple[str, str], str]:
    return {key: pb.ModelState.Name(each.state).removeprefix("MODEL_STATE_") for key, each in listed(stub).items()}


def load(stub: pb_grpc.ModelControlStub, name: str, version: str = "", **fields: Any) -> pb.LoadModelResponse:
    asked = pb.LoadModelRequest(name=name, version=version, **fields)
    answer: pb.LoadModelResponse = stub.LoadModel(asked, timeout=PATIENCE)
    return answer


def unload(stub: pb_grpc.ModelControlStub, name: str, version: str = "", **fields: Any) -> list[pb.ModelStatus]:
    asked = pb.UnloadModelRequest(name=name, version=version, **fields)
    return list(stub.UnloadModel(asked, timeout=PATIENCE).models)


@contextmanager
def watched_neighbour(address: str, model: str) -> Iterator[Callable[[], int]]:
    """A stream that steps one session all the while, each sum right; gives how many steps it has taken."""
    taken = [0]
    wrong: list[object] = []
    done = threading.Event()

    def go_on() -> None:
        try:
            with Stream(address) as stream:
                opened = stream.opened(0, model=model)
                begin = float(stream.stepped(0, [0.0, 0.0])[0, 0])
                assert opened.created
                while not done.is_set():
                    taken[0] += 1
                    found = float(stream.stepped(0, [1.0, 1.0])[0, 0])
                    if found != begin + taken[0]:
                        wrong.append((taken[0], found))
                        return
        except Exception as error:
            wrong.append((taken[0], repr(error)))

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield lambda: taken[0]
    finally:
        done.set()
        thread.join()
    assert wrong == []
