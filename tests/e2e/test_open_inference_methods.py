"""What clients of the Open Inference Protocol call besides inference: configuration, index, and what is not offered."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from gatestream.protos.inference import open_inference_grpc_pb2 as oip
from gatestream.protos.inference import open_inference_grpc_pb2_grpc as oip_grpc
from tests.support.artifacts import POISON, accumulator
from tests.support.lstm import Lstm
from tests.support.open_inference import request, sums
from tests.support.process import ServerProcess, serving
from tests.support.wire import PATIENCE, channel

Stub = oip_grpc.GRPCInferenceServiceStub
METHODS = oip.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods


@pytest.fixture(scope="module")
def two_models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder: Path = tmp_path_factory.mktemp("models")
    with serving(Lstm.random().save(folder / "lstm.onnx"), accumulator(folder / "accumulator.onnx")) as running:
        yield running


@pytest.fixture(scope="module")
def door(two_models: ServerProcess) -> Iterator[Stub]:
    with channel(two_models.address) as opened:
        yield Stub(opened)


def ends(call: Any, asked: Any) -> tuple[grpc.StatusCode, str]:
    """How a call that is refused ends."""
    with pytest.raises(grpc.RpcError) as caught:
        call(asked, timeout=PATIENCE)
    error: Any = caught.value
    return error.code(), error.details()


def test_the_configuration_tells_a_client_what_to_send(door: Stub) -> None:
    lstm = Lstm.random()
    config = door.ModelConfig(oip.ModelConfigRequest(name="lstm", version="1"), timeout=PATIENCE).config
    assert (config.name, config.platform, config.backend) == ("lstm", "onnxruntime_onnx", "onnxruntime")
    assert config.max_batch_size == 1
    assert list(config.input) == [oip.ModelInput(name="x", data_type=oip.TYPE_FP32, dims=[-1, lstm.features])]
    assert list(config.output) == [oip.ModelOutput(name="y", data_type=oip.TYPE_FP32, dims=[-1, lstm.hidden])]
    assert not config.model_transaction_policy.decoupled
    batching = config.sequence_batching
    assert batching.oldest.max_candidate_sequences == 10_000
    assert batching.max_sequence_idle_microseconds > 0
    assert [(item.name, item.control[0].kind) for item in batching.control_input] == [
        ("START", oip.ModelSequenceBatching.Control.CONTROL_SEQUENCE_START),
        ("END", oip.ModelSequenceBatching.Control.CONTROL_SEQUENCE_END),
        ("CORRID", oip.ModelSequenceBatching.Control.CONTROL_SEQUENCE_CORRID),
    ]
    states = [(item.input_name, item.output_name, item.data_type, list(item.dims)) for item in batching.state]
    assert states == [(k, f"{k}_next", oip.TYPE_FP32, [1, lstm.hidden]) for k in "hc"]
    assert all(item.initial_state[0].zero_data for item in batching.state)
    # The metadata speaks of the same tensors, with the batch.
    model = door.ModelMetadata(oip.ModelMetadataRequest(name="lstm"), timeout=PATIENCE)
    for said, described in ((config.input, model.inputs), (config.output, model.outputs)):
        assert [(item.name, [1, *item.dims]) for item in said] == [(item.name, list(item.shape)) for item in described]


def test_the_configuration_of_a_model_that_is_not_there(door: Stub) -> None:
    code, text = ends(door.ModelConfig, oip.ModelConfigRequest(name="other"))
    assert (code, "there is: accumulator, lstm" in text) == (grpc.StatusCode.NOT_FOUND, True)
    code, text = ends(door.ModelConfig, oip.ModelConfigRequest(name="lstm", version="2"))
    assert (code, "version '1', not '2'" in text) == (grpc.StatusCode.NOT_FOUND, True)


@pytest.mark.parametrize("ready", [False, True])
def test_the_index_lists_every_model(door: Stub, ready: bool) -> None:
    index = door.RepositoryIndex(oip.RepositoryIndexRequest(ready=ready), timeout=PATIENCE).models
    assert {(item.name, item.version, item.state) for item in index} == {
        ("lstm", "1", "READY"),
        ("accumulator", "1", "READY"),
    }
    code, text = ends(door.RepositoryIndex, oip.RepositoryIndexRequest(repository_name="mine"))
    assert (code, "'mine'" in text) == (grpc.StatusCode.UNIMPLEMENTED, True)


def test_models_are_neither_loaded_nor_unloaded(door: Stub) -> None:
    for call, asked in (
        (door.RepositoryModelLoad, oip.RepositoryModelLoadRequest(model_name="lstm")),
        (door.RepositoryModelUnload, oip.RepositoryModelUnloadRequest(model_name="lstm")),
    ):
        code, text = ends(call, asked)
        assert code == grpc.StatusCode.UNAVAILABLE
        assert "explicit model load / unload is not allowed" in text
        assert "'lstm'" in text
    assert door.ModelReady(oip.ModelReadyRequest(name="lstm"), timeout=PATIENCE).ready


def test_there_is_no_shared_memory(door: Stub) -> None:
    assert not door.SystemSharedMemoryStatus(oip.SystemSharedMemoryStatusRequest(), timeout=PATIENCE).regions
    assert not door.CudaSharedMemoryStatus(oip.CudaSharedMemoryStatusRequest(), timeout=PATIENCE).regions
    for name in ("", "mine"):
        door.SystemSharedMemoryUnregister(oip.SystemSharedMemoryUnregisterRequest(name=name), timeout=PATIENCE)
        door.CudaSharedMemoryUnregister(oip.CudaSharedMemoryUnregisterRequest(name=name), timeout=PATIENCE)
    refused = [
        (door.SystemSharedMemoryStatus, oip.SystemSharedMemoryStatusRequest(name="mine"), grpc.StatusCode.NOT_FOUND),
        (door.CudaSharedMemoryStatus, oip.CudaSharedMemoryStatusRequest(name="mine"), grpc.StatusCode.NOT_FOUND),
        (
            door.SystemSharedMemoryRegister,
            oip.SystemSharedMemoryRegisterRequest(name="mine", key="/k", byte_size=8),
            grpc.StatusCode.UNIMPLEMENTED,
        ),
        (
            door.CudaSharedMemoryRegister,
            oip.CudaSharedMemoryRegisterRequest(name="mine", raw_handle=b"h", byte_size=8),
            grpc.StatusCode.UNIMPLEMENTED,
        ),
    ]
    for call, asked, expected in refused:
        code, text = ends(call, asked)
        assert (code, "'mine'" in text) == (expected, True)


def test_trace_and_log_settings_are_to_be_read(door: Stub) -> None:
    trace = door.TraceSetting(oip.TraceSettingRequest(model_name="lstm"), timeout=PATIENCE).settings
    assert list(trace["trace_level"].value) == ["OFF"]
    log = door.LogSettings(oip.LogSettingsRequest(), timeout=PATIENCE).settings
    assert log["log_info"].bool_param
    assert log["log_verbose_level"].uint32_param == 0
    tracing = oip.TraceSettingRequest()
    tracing.settings["trace_level"].value.append("TIMESTAMPS")
    code, text = ends(door.TraceSetting, tracing)
    assert (code, "trace_level" in text) == (grpc.StatusCode.UNIMPLEMENTED, True)
    logging = oip.LogSettingsRequest()
    logging.settings["log_verbose_level"].uint32_param = 1
    code, text = ends(door.LogSettings, logging)
    assert (code, "log_verbose_level" in text) == (grpc.StatusCode.UNIMPLEMENTED, True)
    assert ends(door.TraceSetting, oip.TraceSettingRequest(model_name="other"))[0] == grpc.StatusCode.NOT_FOUND


def statistics(door: Stub, name: str) -> oip.ModelStatistics:
    (found,) = door.ModelStatistics(oip.ModelStatisticsRequest(name=name), timeout=PATIENCE).model_stats
    return found


def test_statistics_are_those_of_the_runs(door: Stub) -> None:
    before, began = statistics(door, "accumulator"), 1000 * time.time()
    for k in range(3):
        door.ModelInfer(request([[1, 1]], 9, start=k == 0, end=k == 2), timeout=PATIENCE)
    ends(door.ModelInfer, request([[POISON, 1]]))
    after = statistics(door, "accumulator")
    assert (after.name, after.version) == ("accumulator", "1")
    assert after.inference_count - before.inference_count == after.execution_count - before.execution_count == 3
    assert began - 1 <= after.last_inference <= 1000 * time.time()
    stats = after.inference_stats
    assert stats.fail.count - before.inference_stats.fail.count == 1
    assert stats.success.count == stats.queue.count == stats.compute_infer.count == after.inference_count
    assert stats.compute_infer.ns > before.inference_stats.compute_infer.ns
    assert abs(stats.success.ns - stats.queue.ns - stats.compute_infer.ns) <= 2
    assert [batch.batch_size for batch in after.batch_stats] == [1]
    assert after.batch_stats[0].compute_infer == stats.compute_infer


def test_statistics_of_which_models(door: Stub) -> None:
    found = door.ModelStatistics(oip.ModelStatisticsRequest(), timeout=PATIENCE).model_stats
    assert [item.name for item in found] == ["lstm", "accumulator"]
    unused = statistics(door, "lstm")
    assert unused == oip.ModelStatistics(
        name="lstm", version="1", inference_stats=unused.inference_stats, last_inference=0
    )
    assert ends(door.ModelStatistics, oip.ModelStatisticsRequest(name="other"))[0] == grpc.StatusCode.NOT_FOUND
    of_another = oip.ModelStatisticsRequest(name="lstm", version="2")
    assert ends(door.ModelStatistics, of_another)[0] == grpc.StatusCode.NOT_FOUND


def test_the_extensions_are_those_that_are_there(door: Stub) -> None:
    extensions = set(door.ServerMetadata(oip.ServerMetadataRequest(), timeout=PATIENCE).extensions)
    assert {"sequence", "sequence(string_id)", "model_configuration", "model_repository", "statistics"} <= extensions
    assert not {"system_shared_memory", "cuda_shared_memory", "classification", "trace"} & extensions


def test_no_method_tells_anything_without_a_token(tmp_path: Path) -> None:
    """But for the two that say whether the server lives."""
    tokens = tmp_path / "tokens"
    tokens.write_text('"sixteen-characters" = "a"\n')
    tokens.chmod(0o600)
    with (
        serving(accumulator(tmp_path / "accumulator.onnx"), tokens=tokens) as server,
        channel(server.address) as opened,
    ):
        for method in METHODS:
            if method.name in ("ServerLive", "ServerReady"):
                continue
            for metadata in ((), (("authorization", "Bearer of-another-server"),)):
                to_bytes: Any = opened.stream_stream(f"/inference.GRPCInferenceService/{method.name}")
                call = to_bytes(iter([b""]), timeout=PATIENCE, metadata=metadata)
                with pytest.raises(grpc.RpcError):
                    list(call)
                assert call.code() == grpc.StatusCode.UNAUTHENTICATED, method.name
        known = (("authorization", "Bearer sixteen-characters"),)
        assert sums(Stub(opened).ModelInfer(request([[1, 1]]), timeout=PATIENCE, metadata=known)) == [[1, 1]]
