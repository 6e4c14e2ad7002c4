"""Every public method of tritonclient's gRPC client, once at least, against a server with tokens.

Run by the Python that has it: triton.py ADDRESS TOKEN INPUTS.npy OUTPUTS.npz. The inputs are [sequences, steps,
features], for the model "lstm"; the outputs are what came back, for others to judge.
"""

import queue
import sys
from typing import Any

import numpy as np
from tritonclient._plugin import InferenceServerClientPlugin
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput, model_config_pb2, service_pb2
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


class Bearer(InferenceServerClientPlugin):
    """Sends the token with every request."""

    def __call__(self, request: Any) -> None:
        request.headers["authorization"] = f"Bearer {token}"


def steps(x: Any) -> list[InferInput]:
    """The input for steps [steps, features]."""
    item = InferInput("x", [1, *x.shape], "FP32")
    item.set_data_from_numpy(np.ascontiguousarray(x[None]))
    return [item]


def refused(status: str, call: Any, *arguments: Any, **named: Any) -> str:
    """Call what is to be refused so; what it says."""
    try:
        call(*arguments, **named)
    except InferenceServerException as error:
        assert error.status() == f"StatusCode.{status}", error
        return str(error.message())
    raise AssertionError(f"{call} was not refused")


with Client(address) as client:
    # ---- Without a token --------------------------------------------------------------------------
    assert client.is_server_live()
    assert client.is_server_ready()
    refused("UNAUTHENTICATED", client.get_model_metadata, "lstm")
    client.register_plugin(Bearer())
    assert client.plugin() is not None

    # ---- What there is ----------------------------------------------------------------------------
    assert client.is_model_ready("lstm")
    assert client.is_model_ready("lstm", "1")
    assert not client.is_model_ready("other")
    server = client.get_server_metadata()
    assert server.name == "gatestream"
    assert {"sequence", "sequence(string_id)", "model_configuration", "model_repository"} <= set(server.extensions)
    metadata = client.get_model_metadata("lstm", as_json=True)
    assert [item["name"] for item in metadata["outputs"]] == ["y"]
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": ["1", "-1", str(xs.shape[2])]}]
    config = client.get_model_config("lstm", as_json=True)["config"]
    assert config["max_batch_size"] == 1
    assert config["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": ["-1", str(xs.shape[2])]}]
    assert [item["input_name"] for item in config["sequence_batching"]["state"]] == ["h", "c"]
    assert config["sequence_batching"]["oldest"]
    assert not client.get_model_config("lstm", "1").config.model_transaction_policy.decoupled
    refused("NOT_FOUND", client.get_model_config, "other")
    (model,) = client.get_model_repository_index().models
    assert (model.name, model.version, model.state) == ("lstm", "1", "READY")
    (before,) = client.get_inference_statistics("lstm").model_stats
    client.infer("lstm", steps(xs[0][:1]))
    (after,) = client.get_inference_statistics("lstm", "1").model_stats
    assert (after.name, after.version) == ("lstm", "1")
    assert after.inference_count == before.inference_count + 1
    assert after.execution_count == before.execution_count + 1
    assert after.inference_stats.success.count == before.inference_stats.success.count + 1
    assert after.inference_stats.compute_infer.ns > before.inference_stats.compute_infer.ns
    assert [each.name for each in client.get_inference_statistics().model_stats] == ["lstm"]
    refused("NOT_FOUND", client.get_inference_statistics, "other")

    # ---- What is not offered ----------------------------------------------------------------------
    assert "explicit model load / unload is not allowed" in refused("UNAVAILABLE", client.load_model, "lstm")
    assert "explicit model load / unload is not allowed" in refused("UNAVAILABLE", client.unload_model, "lstm")
    assert client.get_trace_settings().settings["trace_level"].value == ["OFF"]
    assert "trace_level" in refused("UNIMPLEMENTED", client.update_trace_settings, settings={"trace_level": "TENSORS"})
    assert client.get_log_settings().settings["log_info"].bool_param
    assert "log_info" in refused("UNIMPLEMENTED", client.update_log_settings, {"log_info": False})
    assert not client.get_system_shared_memory_status().regions
    assert not client.get_cuda_shared_memory_status().regions
    assert "'mine'" in refused("UNIMPLEMENTED", client.register_system_shared_memory, "mine", "/mine", 8)
    assert "'mine'" in refused("UNIMPLEMENTED", client.register_cuda_shared_memory, "mine", b"aGFuZGxl", 0, 8)
    client.unregister_system_shared_memory()
    client.unregister_cuda_shared_memory("mine")
    for output, says in ((InferRequestedOutput("y", class_count=2), "classification"), (InferRequestedOutput("y"), "")):
        if not says:
            output.set_shared_memory("mine", 8)
            says = "shared_memory_region"
        assert says in refused("INVALID_ARGUMENT", client.infer, "lstm", steps(xs[0]), outputs=[output])

    # ---- Inference --------------------------------------------------------------------------------
    whole = client.infer("lstm", steps(xs[0]), request_id="whole", priority=1, timeout=1_000_000, parameters={"a": 1.5})
    assert whole.get_response().id == "whole"
    got["whole"] = whole.as_numpy("y")
    names = ["f", "y", "i"]
    gates = client.infer("lstm", steps(xs[0]), outputs=[InferRequestedOutput(name) for name in names])
    for name in names:
        got[f"gate_{name}"] = gates.as_numpy(name)
    for k, sequence in enumerate((5, "5", "user@host/1")):
        last = len(xs[k]) - 1
        for t, x in enumerate(xs[k]):
            answer = client.infer(
                "lstm",
                steps(x[None]),
                sequence_id=sequence,
                sequence_start=t == 0,
                sequence_end=t == last,
                compression_algorithm=(None, "gzip", "deflate")[k],
            )
            got[f"step_{k}_{t}"] = answer.as_numpy("y")
    assert "sequence_id 5" in refused("NOT_FOUND", client.infer, "lstm", steps(xs[0]), sequence_id=5)
    answers: queue.Queue[Any] = queue.Queue()
    for k, x in enumerate(xs):
        client.async_infer(
            "lstm", steps(x), lambda result, error, k=k: answers.put((k, result, error)), request_id=str(k)
        )
    for _ in xs:
        k, result, error = answers.get(timeout=60)
        assert error is None
        got[f"async_{k}"] = result.as_numpy("y")

    # ---- A stream, without ids: the order says whose an answer is ---------------------------------
    client.start_stream(lambda result, error: answers.put((result, error)))
    sent = []
    for t in range(xs.shape[1]):
        for k, x in enumerate(xs):
            client.async_stream_infer(
                "lstm",
                steps(x[t][None]),
                sequence_id=100 + k,
                sequence_start=t == 0,
                sequence_end=t == xs.shape[1] - 1,
                enable_empty_final_response=k % 2 == 0,
            )
            sent.append((k, t))
        client.async_stream_infer("lstm", steps(xs[0]), sequence_id=999)
        sent.append((-1, t))
    for k, t in sent:
        result, error = answers.get(timeout=60)
        if k < 0:
            assert "sequence_id 999" in error.message()
            continue
        assert error is None, error
        assert result.get_response().parameters["triton_final_response"].bool_param
        got[f"stream_{k}_{t}"] = result.as_numpy("y")
    client.stop_stream()
    assert answers.empty()
    client.unregister_plugin()
    client.close()

public = {name for name in dir(InferenceServerClient) if not name.startswith("_")}
assert public <= called, public - called


def fields(messages: Any) -> dict[str, list[str]]:
    """Number, type and cardinality of every field of these messages and of those in them."""
    said = {}
    for message in messages:
        said.update(
            {item.full_name: [str(item.number), str(item.type), str(item.is_repeated)] for item in message.fields}
        )
        said.update(fields(message.nested_types))
    return said


# For the comparison of its messages with the server's.
modules = service_pb2, model_config_pb2
known = fields(message for module in modules for message in module.DESCRIPTOR.message_types_by_name.values())
got["fields"] = np.array([[name, *said] for name, said in sorted(known.items())])
np.savez(outputs_path, **got)
