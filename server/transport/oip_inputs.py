"""The tensors of a request of the Open Inference Protocol: the bytes of a model's inputs, and of its constants."""

from collections.abc import Collection, Mapping, Sequence
from typing import Final

import numpy as np

from gatestream.protos.dtypes import DTYPES
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.inference import open_inference_grpc_pb2 as oip
from gatestream.protos.layout import Column, ModelLayout
from gatestream.server.config import Limits
from gatestream.server.errors import InvalidRequest, Reason

DATATYPES: Final = {
    DTYPES[known]: name
    for known, name in (
        (pb.DATA_TYPE_FLOAT32, "FP32"),
        (pb.DATA_TYPE_INT64, "INT64"),
        (pb.DATA_TYPE_FLOAT16, "FP16"),
        (pb.DATA_TYPE_FLOAT64, "FP64"),
        (pb.DATA_TYPE_INT32, "INT32"),
        (pb.DATA_TYPE_INT16, "INT16"),
        (pb.DATA_TYPE_INT8, "INT8"),
        (pb.DATA_TYPE_UINT8, "UINT8"),
        (pb.DATA_TYPE_BOOL, "BOOL"),
    )
}
_CONTENTS: Final = {
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "INT64": "int64_contents",
    "INT32": "int_contents",
    "INT16": "int_contents",
    "INT8": "int_contents",
    "UINT8": "uint_contents",
    "BOOL": "bool_contents",
}
"""Which of an input's contents has the numbers of a datatype that are not raw. The protocol has none for FP16."""
SHOWN: Final = 140

_Tensor = oip.ModelInferRequest.InferInputTensor
Given = Mapping[str, tuple[_Tensor, bytes | None]]
"""By name, the inputs and constants that came, each with its raw contents if it has some."""

_NOT_DONE: Final = {
    "classification": "the scores come whole; choose the highest in the client",
    "shared_memory_region": "this server does not map its clients' memory; numbers travel in the messages",
    "shared_memory_byte_size": "this server does not map its clients' memory; numbers travel in the messages",
    "shared_memory_offset": "this server does not map its clients' memory; numbers travel in the messages",
}
"""Parameters of an input or an output that ask for what is not done."""


def check_done(what: str, name: str, parameters: Collection[str]) -> None:
    """Refuse parameters of an input or an output that ask for what is not done."""
    for parameter, why in _NOT_DONE.items():
        if parameter in parameters:
            raise InvalidRequest(f"{what} {name[:SHOWN]!r} has the parameter {parameter}, which is not done: {why}")


def given_tensors(layout: ModelLayout, tensors: Sequence[_Tensor], raw: Sequence[bytes]) -> Given:
    """What came, by name.

    Args:
        layout: of the model.
        tensors: as they stand in the request.
        raw: its raw contents.

    Raises:
        InvalidRequest: an input is missing, something else is there, or asks for what is not done.
    """
    inputs = [item.name for item in layout.inputs]
    constants = [item.name for item in layout.constants]
    names = [item.name for item in tensors]
    if len(set(names)) != len(names) or not set(inputs) <= set(names) <= {*inputs, *constants}:
        shown = [name[:40] for name in names[: len(inputs) + len(constants) + 1]]
        more = f" and {len(names) - len(shown)} more" if len(shown) < len(names) else ""
        constant = f", and of its constants {constants} those that are given" if constants else ""
        raise InvalidRequest(f"inputs are {shown}{more}; expected {inputs}{constant}, each once")
    for tensor in tensors:
        check_done("input", tensor.name, tensor.parameters)
    if raw and len(raw) != len(tensors):
        raise InvalidRequest(f"raw_input_contents has {len(raw)} elements for {len(tensors)} inputs")
    contents: Sequence[bytes | None] = raw or [None] * len(tensors)
    return {tensor.name: (tensor, data) for tensor, data in zip(tensors, contents, strict=True)}


def input_columns(layout: ModelLayout, given: Given, limits: Limits) -> tuple[list[bytes], int]:
    """The bytes of each of the model's inputs, and the steps that they hold.

    Args:
        layout: of the model.
        given: all of its inputs.
        limits: of the server.

    Raises:
        InvalidRequest: a tensor is of another type or shape, of another size than it says, or of too many steps.
    """
    columns: list[bytes] = []
    lengths = set()
    for item in layout.inputs:
        tensor, raw = given[item.name]
        steps = _steps(item, tensor)
        if steps > limits.chunk_length:
            raise InvalidRequest(
                f"the request has {steps} steps; expected at most {limits.chunk_length}", Reason.CHUNK_TOO_LONG
            )
        columns.append(_bytes(item, tensor, raw, steps))
        lengths.add(steps)
    if len(lengths) != 1:
        raise InvalidRequest(f"the inputs have {sorted(lengths)} steps; expected as many in each")
    return columns, lengths.pop()


def constant_columns(layout: ModelLayout, given: Given) -> list[tuple[str, bytes]]:
    """The names and the bytes of those constants that were given; arguments and errors: `input_columns`."""
    columns = []
    for item in layout.constants:
        if item.name not in given:
            continue
        tensor, raw = given[item.name]
        _check_datatype(item, tensor)
        shape, expected = list(tensor.shape[: len(item.shape) + 2]), [1, *item.shape]
        if shape != expected:
            raise InvalidRequest(f"input {item.name!r} has the shape {shape[:8]}; expected {expected}, without time")
        columns.append((item.name, _bytes(item, tensor, raw, 1)))
    return columns


def _bytes(item: Column, tensor: _Tensor, raw: bytes | None, rows: int) -> bytes:
    """The bytes of so many rows, which came raw or one by one."""
    if raw is None:
        return _typed(item, tensor, rows)
    if tensor.HasField("contents"):
        raise InvalidRequest(f"input {item.name!r} has contents beside raw_input_contents; expected one of them")
    _check_size(item, len(raw), rows)
    return raw


def _typed(item: Column, tensor: _Tensor, rows: int) -> bytes:
    """The bytes of numbers that came one by one."""
    datatype = DATATYPES[item.dtype]
    if datatype not in _CONTENTS:
        raise InvalidRequest(f"input {item.name!r} is {datatype}, which has no typed contents; use raw_input_contents")
    numbers = getattr(tensor.contents, _CONTENTS[datatype])
    _check_size(item, len(numbers) * item.dtype.itemsize, rows)
    try:
        return np.fromiter(numbers, item.dtype, len(numbers)).tobytes()
    except OverflowError:
        info = np.iinfo(item.dtype)
        bad = next(number for number in numbers if not info.min <= number <= info.max)
        raise InvalidRequest(
            f"input {item.name!r} holds {bad}; {datatype} is {info.min} to {info.max}", Reason.TOKEN_OUT_OF_RANGE
        ) from None


def _check_size(item: Column, size: int, rows: int) -> None:
    if size != rows * item.row_bytes:
        raise InvalidRequest(f"input {item.name!r} has {size} bytes; its shape says {rows * item.row_bytes}")


def _check_datatype(item: Column, tensor: _Tensor) -> None:
    if tensor.datatype != DATATYPES[item.dtype]:
        raise InvalidRequest(f"input {item.name!r} is {tensor.datatype[:20]!r}; expected {DATATYPES[item.dtype]!r}")


def _steps(item: Column, tensor: _Tensor) -> int:
    """How many steps a tensor says that it has."""
    _check_datatype(item, tensor)
    tail = list(item.shape)
    shape = list(tensor.shape[: len(tail) + 3])
    ahead = shape[: len(shape) - len(tail)]
    if shape[len(ahead) :] != tail or ahead[:1] != [1] or len(ahead) > 2 or (len(ahead) == 2 and ahead[1] < 1):
        raise InvalidRequest(
            f"input {item.name!r} has the shape {shape[:8]}; expected [1, time, {', '.join(map(str, tail))}] "
            "or, for one step, the same without time"
        )
    return ahead[1] if len(ahead) == 2 else 1
