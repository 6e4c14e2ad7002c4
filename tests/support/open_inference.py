"""Requests of the Open Inference Protocol for the accumulator, and what its answers say."""

from typing import Any

import numpy as np

from gatestream.protos.inference import open_inference_grpc_pb2 as oip


def request(values: Any, sequence: int | str | None = None, **fields: Any) -> oip.ModelInferRequest:
    """A request for steps of one sequence; `values` is [time, 2]."""
    x = np.asarray(values, np.float32)
    start, end, first = fields.pop("start", False), fields.pop("end", False), fields.pop("first", None)
    built = oip.ModelInferRequest(model_name="accumulator", **fields)
    if not built.inputs:
        built.inputs.add(name="x", datatype="FP32", shape=[1, *x.shape])
    if not built.raw_input_contents:
        built.raw_input_contents.append(x.tobytes())
    if isinstance(sequence, int):
        built.parameters["sequence_id"].int64_param = sequence
    elif sequence is not None:
        built.parameters["sequence_id"].string_param = sequence
    if sequence is not None:
        built.parameters["sequence_start"].bool_param = start
        built.parameters["sequence_end"].bool_param = end
    if first is not None:
        built.parameters["gatestream_first"].int64_param = first
    return built


def sums(response: oip.ModelInferResponse) -> list[list[float]]:
    rows: list[list[float]] = np.frombuffer(response.raw_output_contents[0], np.float32).reshape(-1, 2).tolist()
    return rows
