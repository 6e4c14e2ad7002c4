"""Models of every type, by both protocols: the numbers of a sum, and what is refused of each type."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from gatestream.protos.dtypes import DTYPES
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.inference import open_inference_grpc_pb2 as oip
from gatestream.server.backend.artifact import Artifact
from gatestream.server.backend.bit_exact import agreeing_shapes
from gatestream.server.backend.deterministic import DeterministicRunner
from gatestream.server.backend.runner import CPU, ArenaRunner, HostRunner
from gatestream.server.backend.threads import measure
from gatestream.server.config import Limits, TickLimits
from gatestream.server.core.catalog import Catalog
from gatestream.server.errors import ArtifactError, InvalidRequest
from gatestream.server.transport.oip import InferenceStream
from gatestream.server.transport.oip_models import configuration, metadata
from tests.support.any_models import Windowed, spoken, summed, sums, two_of_each, with_constants
from tests.support.in_process import Client, serving_here

LIMITS = Limits(sessions=8, chunk_length=20)
TICK = TickLimits(rows=16, steps=4)
NAMES = {
    pb.DATA_TYPE_FLOAT32: ("FP32", "fp32_contents"),
    pb.DATA_TYPE_INT64: ("INT64", "int64_contents"),
    pb.DATA_TYPE_FLOAT16: ("FP16", ""),
    pb.DATA_TYPE_FLOAT64: ("FP64", "fp64_contents"),
    pb.DATA_TYPE_INT32: ("INT32", "int_contents"),
    pb.DATA_TYPE_INT16: ("INT16", "int_contents"),
    pb.DATA_TYPE_INT8: ("INT8", "int_contents"),
    pb.DATA_TYPE_UINT8: ("UINT8", "uint_contents"),
    pb.DATA_TYPE_BOOL: ("BOOL", "bool_contents"),
}
TYPES = pytest.mark.parametrize("dtype", list(DTYPES), ids=lambda dtype: NAMES[dtype][0])
Make = Callable[..., Path]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    folder = tmp_path_factory.mktemp("models")
    return lambda dtype, **fields: sums(folder / f"{dtype}-{len(list(folder.iterdir()))}.onnx", dtype, **fields)


def numbers(dtype: pb.DataType, steps: int, seed: int = 0) -> Any:
    """Few and small: no sum leaves the type."""
    kind = DTYPES[dtype].kind
    low, high = (0, 2) if kind == "b" else (0 if kind == "u" else -3, 4)
    x = np.random.default_rng(seed).integers(low, high, (steps, 2))
    return (x * 0.5 if kind == "f" else x).astype(DTYPES[dtype])


# ---- Our own protocol -----------------------------------------------------------------------------


@TYPES
@pytest.mark.parametrize("straight", [False, True])
async def test_steps_and_chunks_of_every_type(make: Make, dtype: pb.DataType, straight: bool) -> None:
    initial = numbers(dtype, 1)[0]
    path = make(dtype, initial_values=initial.tobytes())
    async with serving_here(path, limits=LIMITS, tick=TICK, straight=straight) as catalog:
        client = Client(catalog, LIMITS)
        sent, got = ([np.empty((0, 2), DTYPES[dtype])] * 3 for _ in range(2))
        for handle in range(3):
            await client.open(handle)
        # Alone; together; chunks of one length and of several.
        every = [[1, 0, 0], [1, 0, 0], [1, 1, 1], [4, 4, 4], [2, 7, 1], [0, 3, 13], [1, 0, 0], [1, 0, 0]]
        for seed, lengths in enumerate(every):
            parts = {handle: numbers(dtype, length, seed) for handle, length in enumerate(lengths) if length}
            for handle, part in parts.items():
                sent[handle] = np.concatenate((sent[handle], part))
            for handle, rows in (await stepped(client, parts)).items():
                got[handle] = np.concatenate((got[handle], rows))
        for handle in range(3):
            np.testing.assert_array_equal(got[handle], summed(sent[handle], initial))
        client.say(reset=pb.Reset(handle=[0]))
        await client.hear()
        x = numbers(dtype, 1, 99)
        np.testing.assert_array_equal((await stepped(client, {0: x}))[0], summed(x, initial))


async def stepped(client: Client, parts: dict[int, Any]) -> dict[int, Any]:
    """Steps in one message, by handle [steps, 2], and their answers."""
    dtype = next(iter(parts.values())).dtype
    column = b"".join(part.tobytes() for part in parts.values())
    client.say(steps=pb.Steps(handle=list(parts), length=[len(part) for part in parts.values()], input=[column]))
    got: dict[int, list[Any]] = {handle: [] for handle in parts}
    left = sum(map(len, parts.values()))
    while left:
        results = (await client.hear()).results
        rows = np.frombuffer(results.output[0], dtype).reshape(-1, 2)
        lengths = list(results.length) or [1] * len(results.handle)
        for handle, part in zip(results.handle, np.split(rows, np.cumsum(lengths)[:-1]), strict=True):
            got[handle].append(part)
        left -= len(rows)
    return {handle: np.concatenate(rows) for handle, rows in got.items()}


WRONG: list[tuple[pb.DataType, int, bytes, pb.Reason, str]] = [
    (pb.DATA_TYPE_FLOAT16, 0, np.array([1, np.nan], "<f2").tobytes(), pb.REASON_NOT_FINITE, "holds NaN or infinity"),
    (pb.DATA_TYPE_FLOAT64, 0, np.array([1, -np.inf]).tobytes(), pb.REASON_NOT_FINITE, "holds NaN or infinity"),
    (pb.DATA_TYPE_BOOL, 0, b"\1\2", pb.REASON_TOKEN_OUT_OF_RANGE, "is 2 at step 0 of the entry; expected 0 to 1"),
    (pb.DATA_TYPE_INT16, 7, np.array([6, 7], "<i2").tobytes(), pb.REASON_TOKEN_OUT_OF_RANGE, "is 7 at .* 0 to 6"),
    (pb.DATA_TYPE_INT8, 7, np.array([6, -1], "i1").tobytes(), pb.REASON_TOKEN_OUT_OF_RANGE, "is -1 at .* 0 to 6"),
    (pb.DATA_TYPE_INT64, 7, np.array([0, -(2**63)]).tobytes(), pb.REASON_TOKEN_OUT_OF_RANGE, "is -92.* 0 to 6"),
]


@pytest.mark.parametrize(("dtype", "limit", "row", "reason", "says"), WRONG)
async def test_what_no_number_of_its_type_is(
    make: Make, dtype: pb.DataType, limit: int, row: bytes, reason: pb.Reason, says: str
) -> None:
    path = make(dtype, limit=limit)
    async with serving_here(path, limits=LIMITS, tick=TICK) as catalog:
        client = Client(catalog, LIMITS)
        for handle in range(10):
            await client.open(handle, session_id=f"s{handle}")
        good = bytes(len(row))
        # In a message of its own, and beside good ones.
        for handles, column in (([0], row), (list(range(8)), good * 7 + row)):
            client.say(steps=pb.Steps(handle=handles, input=[column]))
            heard = [await client.hear()]
            while not heard[-1].HasField("error"):
                heard.append(await client.hear())
            error = heard[-1].error
            assert (list(error.handle), error.reason) == ([handles[-1]], reason)
            assert re.search(f"input 'x' {says}", error.message)
        state = await catalog.find("").lifecycle.named.state("tenant", "s0")
        if not limit:
            # A state may be any number of its type.
            with pytest.raises(InvalidRequest, match=r"state\.state 's' holds"):
                await catalog.find("").lifecycle.named.set_state("tenant", "s0", replace(state, rows=[row]))


# ---- The Open Inference Protocol ------------------------------------------------------------------


def request(dtype: pb.DataType, x: Any, *, raw: bool) -> oip.ModelInferRequest:
    name, contents = NAMES[dtype]
    asked = oip.ModelInferRequest(model_name="sums")
    asked.parameters["sequence_id"].int64_param = 5
    asked.parameters["sequence_start"].bool_param = True
    tensor = asked.inputs.add(name="x", datatype=name, shape=[1, *x.shape])
    if raw:
        asked.raw_input_contents.append(x.tobytes())
    else:
        getattr(tensor.contents, contents).extend(x.ravel().tolist())
    return asked


async def infer(catalog: Catalog, asked: oip.ModelInferRequest) -> oip.ModelStreamInferResponse:
    stream = InferenceStream(catalog, LIMITS, "tenant")
    stream.receive(asked.SerializeToString())
    item = await stream.send_queue.take()
    assert item is not None
    stream.rows -= item[1]
    return oip.ModelStreamInferResponse.FromString(bytes(item[0]))


@TYPES
async def test_requests_of_every_type(make: Make, dtype: pb.DataType) -> None:
    async with serving_here(make(dtype), limits=LIMITS, tick=TICK) as catalog:
        x = numbers(dtype, 6)
        for raw in (True, False):
            asked = request(dtype, x, raw=raw) if raw or NAMES[dtype][1] else None
            if asked is None:
                continue
            answer = await infer(catalog, asked)
            assert answer.error_message == ""
            (output,) = answer.infer_response.outputs
            assert (output.datatype, list(output.shape)) == (NAMES[dtype][0], [1, 6, 2])
            got = np.frombuffer(answer.infer_response.raw_output_contents[0], DTYPES[dtype]).reshape(6, 2)
            np.testing.assert_array_equal(got, summed(x))
        model = catalog.find("sums")
        assert [item.datatype for item in metadata(model, ["1"]).inputs] == [NAMES[dtype][0]]
        assert configuration(model, LIMITS).input[0].data_type == oip.DataType.Value(f"TYPE_{NAMES[dtype][0]}")


async def test_numbers_one_by_one_that_do_not_fit(make: Make) -> None:
    x = np.array([[1, 128]])
    async with serving_here(make(pb.DATA_TYPE_INT8), limits=LIMITS) as catalog:
        answer = await infer(catalog, request(pb.DATA_TYPE_INT8, x, raw=False))
        assert answer.error_message == "input 'x' holds 128; INT8 is -128 to 127"
    async with serving_here(make(pb.DATA_TYPE_FLOAT16), limits=LIMITS) as catalog:
        asked = request(pb.DATA_TYPE_FLOAT16, x.astype("<f2"), raw=True)
        del asked.raw_input_contents[:]
        answer = await infer(catalog, asked)
        assert answer.error_message == "input 'x' is FP16, which has no typed contents; use raw_input_contents"


async def test_constants_come_with_the_start_of_a_sequence(tmp_path: Path) -> None:
    speaker, x = np.array([[1, 2, 3], [10, 20, 30]], "<f4"), np.ones((2, 3), "<f4")

    def asked(start: bool, constant: Any = None, shape: Any = (1, 2, 3)) -> oip.ModelInferRequest:
        built = oip.ModelInferRequest(model_name="speaker")
        built.parameters["sequence_id"].int64_param = 5
        built.parameters["sequence_start"].bool_param = start
        built.inputs.add(name="x", datatype="FP32", shape=[1, 2, 3])
        built.raw_input_contents.append(x.tobytes())
        if constant is not None:
            built.inputs.add(name="speaker", datatype="FP32", shape=shape)
            built.raw_input_contents.append(constant.tobytes())
        return built

    async with serving_here(with_constants(tmp_path / "speaker.onnx"), limits=LIMITS) as catalog:
        for first, (start, constant) in enumerate([(True, speaker), (False, None), (False, speaker), (False, None)]):
            answer = await infer(catalog, asked(start, constant))
            got = np.frombuffer(answer.infer_response.raw_output_contents[0], "<f4").reshape(2, 3)
            np.testing.assert_array_equal(got, spoken(np.ones((8, 3)), speaker)[2 * first : 2 * first + 2])
        for wrong, says in (
            (asked(False, speaker + 1), "constant 'speaker' is another"),
            (asked(True), "constant 'speaker' was not given"),
            (asked(True, speaker, (1, 1, 2, 3)), r"has the shape \[1, 1, 2, 3\]; expected \[1, 2, 3\], without time"),
            (asked(True, speaker[:, :2], (1, 2, 2)), r"has the shape \[1, 2, 2\]; expected \[1, 2, 3\]"),
        ):
            assert re.search(says, (await infer(catalog, wrong)).error_message)
        model = catalog.find("")
        shapes = {item.name: list(item.shape) for item in metadata(model, ["1"]).inputs}
        assert shapes == {"x": [1, -1, 3], "speaker": [1, 2, 3], "rate": [1, 3]}
        config = configuration(model, LIMITS)
        assert [item.input_name for item in config.sequence_batching.state] == ["s"]
        assert [(item.name, list(item.dims)) for item in config.input] == [
            ("x", [-1, 3]),
            ("speaker", [2, 3]),
            ("rate", [3]),
        ]


# ---- The runner that serves on a GPU, here on the CPU ---------------------------------------------


@TYPES
def test_states_of_every_type_stay_on_the_device(make: Make, dtype: pb.DataType) -> None:
    artifact = Artifact.load(make(dtype))
    runner = ArenaRunner(artifact, 8, CPU, 1)
    states = numbers(dtype, 8, 1)
    runner.write(np.arange(8), [states])
    x = np.stack([numbers(dtype, 3, seed) for seed in range(4)])
    slots = np.array([6, 0, 3, 5])
    for _ in range(2):
        outputs, _ = runner.step(slots, [x], np.full(4, 3, np.int32), False)
        for row, slot in enumerate(slots):
            expected = summed(x[row], states[slot])
            np.testing.assert_array_equal(outputs[0][row], expected)
            states[slot] = expected[-1]
    np.testing.assert_array_equal(runner.read(np.arange(8))[0], states)


def test_states_without_axes_stay_on_the_device_too(tmp_path: Path) -> None:
    runner = ArenaRunner(Artifact.load(two_of_each(tmp_path / "two.onnx")), 4, CPU, 1)
    inputs = [np.ones((2, 3, 3), np.float32), np.array([[True, False, True]] * 2)]
    for k in range(1, 3):
        outputs, _ = runner.step(np.array([1, 3]), inputs, np.full(2, 3, np.int32), False)
        np.testing.assert_array_equal(outputs[1][:, -1], [2 * k, 2 * k])
    assert [state.tolist() for state in runner.read(np.array([3, 0]))] == [[[4, 4, 4], [0, 0, 0]], [4, 0]]


# ---- What is found out at the start ---------------------------------------------------------------


@TYPES
def test_every_type_is_measured_and_run_bit_for_bit(make: Make, dtype: pb.DataType) -> None:
    artifact = Artifact.load(make(dtype, limit=3 if dtype == pb.DATA_TYPE_INT32 else 0))
    runner, _ = measure(lambda threads: HostRunner(artifact, 16, threads), artifact.layout, 8, 2)
    assert isinstance(runner, HostRunner)
    shapes = agreeing_shapes(runner, artifact.spec, TICK)
    assert max(shapes[1]) == TICK.rows, "a row is summed by itself"
    # Of floats the sum of a chunk, added to the state, is another one than that of its steps.
    assert set(shapes) == ({1} if DTYPES[dtype].kind == "f" else {1, 2, 4})


@pytest.mark.parametrize("kind", [two_of_each, with_constants, lambda path: Windowed().save(path)])
def test_models_of_several_inputs_and_constants_are_too(tmp_path: Path, kind: Callable[[Path], Path]) -> None:
    artifact = Artifact.load(kind(tmp_path / "model.onnx"))
    runner, _ = measure(lambda threads: HostRunner(artifact, 16, threads), artifact.layout, 8, 2)
    assert isinstance(runner, HostRunner)
    DeterministicRunner(runner, artifact.spec, TICK)


def test_a_model_that_cannot_be_tried_is_not_served_deterministic(tmp_path: Path) -> None:
    path = sums(tmp_path / "sums.onnx", pb.DATA_TYPE_INT64)
    model = onnx.load(path)
    # It looks each number up in a table of three, and its spec does not say so.
    node = onnx.helper.make_node("Gather", ["table", "x"], ["x64"])
    model.graph.node[0].CopyFrom(node)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(3), "table"))
    artifact = Artifact(Artifact.load(path).spec, model)
    with pytest.raises(
        ArtifactError, match="'sums' cannot be served with --deterministic: it fails on random"
    ) as caught:
        DeterministicRunner(HostRunner(artifact, 4, 1), artifact.spec, TICK)
    assert "\n" not in str(caught.value)
    artifact.spec.inputs[0].limit = 3
    DeterministicRunner(HostRunner(artifact, 4, 1), artifact.spec, TICK)


@pytest.mark.parametrize("missing", ["rows_independent", "replay_bit_equal"])
def test_a_model_without_the_promise_is_not_served_deterministic(tmp_path: Path, missing: str) -> None:
    path = sums(tmp_path / "sums.onnx")
    artifact = Artifact.load(path)
    setattr(artifact.spec.promises, missing, False)
    with pytest.raises(ArtifactError, match=f"'sums' cannot be served with --deterministic: .* {missing}") as caught:
        DeterministicRunner(HostRunner(artifact, 4, 1), artifact.spec, TICK)
    assert "\n" not in str(caught.value)
