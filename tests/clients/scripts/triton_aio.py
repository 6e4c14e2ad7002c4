"""Every public method of tritonclient's asyncio gRPC client, once at least, against a server with tokens.

Run by the Python that has it: triton_aio.py ADDRESS TOKEN INPUTS.npy OUTPUTS.npz, as triton.py.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
from tritonclient.grpc import InferInput
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

address, token, inputs_path, outputs_path = sys.argv[1:]
xs = np.load(inputs_path)
got: dict[str, Any] = {}
called: set[str] = set()


class Client(InferenceServerClient):
    """Notes which of its methods are called."""

    def __getattribute__(self, name: str) -> Any:
        called.add(name)
        return super().__getattribute__(name)


def steps(x: Any) -> list[InferInput]:
    """The input for steps [steps, features]."""
    item = InferInput("x", [1, *x.shape], "FP32")
    item.set_data_from_numpy(np.ascontiguousarray(x[None]))
    return [item]


async def refused(status: str, call: Any) -> None:
    """Await what is to be refused so."""
    try:
        await call
    except InferenceServerException as error:
        assert error.status() == f"StatusCode.{status}", error
    else:
        raise AssertionError(f"{call} was not refused")


async def requests() -> AsyncIterator[dict[str, Any]]:
    """Steps of all sequences by turns, with no ids."""
    for t in range(xs.shape[1]):
        for k, x in enumerate(xs):
            yield {
                "model_name": "lstm",
                "inputs": steps(x[t][None]),
                "sequence_id": f"sequence {k}",
                "sequence_start": t == 0,
                "sequence_end": t == xs.shape[1] - 1,
            }


async def main() -> None:
    """Call all of it."""
    auth = {"headers": {"authorization": f"Bearer {token}"}}
    async with Client(address) as client:
        await refused("UNAUTHENTICATED", client.get_model_config("lstm"))
        assert client.plugin() is None
        client.register_plugin(print)
        client.unregister_plugin()
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready("lstm", **auth)
        assert (await client.get_server_metadata(**auth)).name == "gatestream"
        assert (await client.get_model_metadata("lstm", **auth)).platform == "onnxruntime_onnx"
        assert (await client.get_model_config("lstm", **auth)).config.max_batch_size == 1
        assert (await client.get_model_repository_index(**auth)).models[0].state == "READY"
        await refused("UNAVAILABLE", client.load_model("lstm", **auth))
        await refused("UNAVAILABLE", client.unload_model("lstm", **auth))
        (statistics,) = (await client.get_inference_statistics("lstm", **auth)).model_stats
        assert statistics.inference_stats.fail.count == 0
        await refused("NOT_FOUND", client.get_inference_statistics("other", **auth))
        assert (await client.get_trace_settings("lstm", **auth)).settings["trace_level"].value == ["OFF"]
        await refused("UNIMPLEMENTED", client.update_trace_settings(settings={"trace_rate": "1"}, **auth))
        assert (await client.get_log_settings(**auth)).settings["log_error"].bool_param
        await refused("UNIMPLEMENTED", client.update_log_settings({"log_verbose_level": 1}, **auth))
        assert not (await client.get_system_shared_memory_status(**auth)).regions
        assert not (await client.get_cuda_shared_memory_status(**auth)).regions
        await refused("UNIMPLEMENTED", client.register_system_shared_memory("mine", "/mine", 8, **auth))
        await refused("UNIMPLEMENTED", client.register_cuda_shared_memory("mine", b"aGFuZGxl", 0, 8, **auth))
        await client.unregister_system_shared_memory("mine", **auth)
        await client.unregister_cuda_shared_memory(**auth)
        answers = await asyncio.gather(*(client.infer("lstm", steps(x), **auth) for x in xs))
        for k, answer in enumerate(answers):
            got[f"async_{k}"] = answer.as_numpy("y")
        sent = [(k, t) for t in range(xs.shape[1]) for k in range(len(xs))]
        stream = client.stream_infer(requests(), **auth)
        for k, t in sent:
            result, error = await anext(stream)
            assert error is None, error
            got[f"stream_{k}_{t}"] = result.as_numpy("y")
        assert not [answer async for answer in stream]
        await client.close()
    public = {name for name in dir(InferenceServerClient) if not name.startswith("_")}
    assert public <= called, public - called


asyncio.run(main())
np.savez(outputs_path, **got)
