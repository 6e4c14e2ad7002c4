"""Every public method of KServe's gRPC client, against a server with tokens.

Run by the Python that has it: kserve_grpc.py ADDRESS TOKEN INPUTS.npy OUTPUTS.npz, as triton.py.
"""

import asyncio
import sys
from typing import Any

import grpc
import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest
from kserve.protocol.infer_type import RequestedOutput

address, token, inputs_path, outputs_path = sys.argv[1:]
xs = np.load(inputs_path)
got: dict[str, Any] = {}


async def main() -> None:
    """Call all of it."""
    headers = (("authorization", f"Bearer {token}"),)
    async with InferenceGRPCClient(address) as client:
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready("lstm", headers=headers)
        assert not await client.is_model_ready("other", headers=headers)
        try:
            await client.is_model_ready("lstm")
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.UNAUTHENTICATED
        else:
            raise AssertionError("a call without a token was answered")

        async def infer(x: Any, *, typed: bool, **fields: Any) -> Any:
            item = InferInput("x", [1, *x.shape], "FP32", data=x.reshape(-1).tolist() if typed else None)
            if not typed:
                item.set_data_from_numpy(np.ascontiguousarray(x[None]), binary_data=True)
            request = InferRequest("lstm", [item], request_id="mine", **fields)
            response = await client.infer(request, headers=headers)
            assert response.id == "mine"
            return response

        for k, x in enumerate(xs):
            response = await infer(x, typed=k % 2 == 0)
            got[f"async_{k}"] = response.outputs[0].as_numpy()
        response = await infer(xs[0], typed=False, request_outputs=[RequestedOutput("f"), RequestedOutput("y")])
        got["gate_f"], got["gate_y"] = (item.as_numpy() for item in response.outputs)
        for t, x in enumerate(xs[0]):
            parameters = {"sequence_id": "a b", "sequence_start": t == 0, "sequence_end": t == len(xs[0]) - 1}
            response = await infer(x[None], typed=False, parameters=parameters)
            got[f"step_0_{t}"] = response.outputs[0].as_numpy()
        await client.close()


asyncio.run(main())
np.savez(outputs_path, **got)
