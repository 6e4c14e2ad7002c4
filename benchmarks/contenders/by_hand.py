"""by-hand: the server that people write themselves. A grpc.aio handler, a dict of states, one run for each message.

A message is 8 bytes that name the session, then its step: float32, or one int64 token. The answer is the name, then
the output. That is less than the protobuf message one would write, and to this server's advantage. The run is called in
the handler: handing a small run to a thread costs more than the run (start with --executor to see it).
"""

import argparse
import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import onnxruntime as ort

from benchmarks.contenders.announce import announce

NAME_BYTES = 8


class Steps:
    """The model, and the state of every session."""

    def __init__(self, path: str, threads: int):
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        shapes = {item.name: item for item in self._session.get_inputs()}
        self._dtype = np.int64 if shapes["x"].type == "tensor(int64)" else np.float32
        self._tokens = len(shapes["x"].shape) == 2
        self._one = np.ones(1, np.int32)
        self._initial = np.zeros((1, *shapes["h"].shape[1:]), np.float32)
        self._states: dict[bytes, tuple[Any, Any]] = {}

    def step(self, message: bytes) -> bytes:
        name = message[:NAME_BYTES]
        h, c = self._states.get(name, (self._initial, self._initial))
        x = np.frombuffer(message, self._dtype, offset=NAME_BYTES)
        x = x.reshape(1, 1) if self._tokens else x.reshape(1, 1, -1)
        feed = {"x": x, "length": self._one, "h": h, "c": c}
        y, h, c = self._session.run(["y", "h_next", "c_next"], feed)
        self._states[name] = h, c
        answer: bytes = name + y.tobytes()
        return answer


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artifact")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--executor", action="store_true", help="run the model on a thread")
    arguments = parser.parse_args()
    steps = Steps(arguments.artifact, arguments.threads)

    async def stream(messages: AsyncIterator[bytes], _context: Any) -> AsyncIterator[bytes]:
        if arguments.executor:
            loop = asyncio.get_running_loop()
            async for message in messages:
                yield await loop.run_in_executor(None, steps.step, message)
        else:
            async for message in messages:
                yield steps.step(message)

    server = grpc.aio.server()
    handlers: dict[str, Any] = {"Step": grpc.stream_stream_rpc_method_handler(stream)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("benchmark.ByHand", handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    announce(port)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
