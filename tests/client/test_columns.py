from typing import Any

import numpy as np
import pytest

from gatestream.client.columns import Layout
from gatestream.client.errors import InputError, ModelError, ProtocolError
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb

NUMBERS = pb.ModelSpec(
    name="weather",
    layers=2,
    hidden=5,
    inputs=[pb.TensorSpec(name="x", dtype=pb.DATA_TYPE_FLOAT32, shape=[2], columns=["wind", "rain"])],
    outputs=[pb.TensorSpec(name="y", dtype=pb.DATA_TYPE_FLOAT32, shape=[3])],
    gates=[pb.GateSpec(name="input", symbol="i", output="i"), pb.GateSpec(name="forget", symbol="f", output="f")],
)
TOKENS = pb.ModelSpec(
    name="words", inputs=[pb.TensorSpec(name="x", dtype=pb.DATA_TYPE_INT64, vocabulary=["a", "b", "end"])]
)
IDS = pb.ModelSpec(name="ids", inputs=[pb.TensorSpec(name="x", dtype=pb.DATA_TYPE_INT64)])
ONE = pb.ModelSpec(name="sensor", inputs=[pb.TensorSpec(name="x", dtype=pb.DATA_TYPE_FLOAT32, shape=[1])])
TWO = pb.ModelSpec(
    name="pair",
    inputs=[
        pb.TensorSpec(name="x", dtype=pb.DATA_TYPE_FLOAT32, shape=[2]),
        pb.TensorSpec(name="day", dtype=pb.DATA_TYPE_INT64),
    ],
)


def layout(spec: pb.ModelSpec) -> Layout:
    return Layout(spec, outputs=True, gates=True)


@pytest.mark.parametrize(
    ("spec", "value", "lead", "expected"),
    [
        (NUMBERS, [1, 2], (), [1, 2]),
        (NUMBERS, np.array([1.5, 2.5]), (), [1.5, 2.5]),
        (NUMBERS, np.array([1.5, np.finfo(np.float32).max], np.float32), (), [1.5, np.finfo(np.float32).max]),
        (NUMBERS, np.arange(4, dtype=np.float32)[::2], (), [0, 2]),
        (IDS, np.array(7), (), 7),
        (TOKENS, np.array(2), (), 2),
        (NUMBERS, [[1, 2], [3, 4]], ("time",), [[1, 2], [3, 4]]),
        (NUMBERS, np.ones((2, 4, 2), np.float16)[:, ::2], (2, "time"), np.ones((2, 2, 2))),
        (ONE, 3, (), [3]),
        (ONE, [3], (), [3]),
        (ONE, [3, 4], ("time",), [[3], [4]]),
        (ONE, [[3], [4]], ("time",), [[3], [4]]),
        (IDS, 7, (), 7),
        (IDS, np.array([7, 8], np.uint8), ("time",), [7, 8]),
        (TOKENS, "end", (), 2),
        (TOKENS, "ab", ("time",), [0, 1]),
        (TOKENS, ["end", "a"], ("time",), [2, 0]),
        (TOKENS, [["end", "a"], ["b", "b"]], (2, "time"), [[2, 0], [1, 1]]),
        (TOKENS, 1, (), 1),
    ],
)
def test_encodes(spec: pb.ModelSpec, value: Any, lead: tuple[str | int, ...], expected: Any) -> None:
    (array,) = layout(spec).encode(value, lead)
    assert array.dtype == (np.dtype("<i8") if spec in (IDS, TOKENS) else np.dtype("<f4"))
    assert array.flags.c_contiguous
    np.testing.assert_array_equal(array, expected)
    assert array.shape == np.shape(expected)


@pytest.mark.parametrize(
    ("spec", "value", "lead", "message"),
    [
        (NUMBERS, [1, 2, 3], (), r"'x' of 'weather': shape \[3\] came; \[2\] float32 \(wind, rain\) was expected"),
        (NUMBERS, [1, 2], ("time",), r"shape \[2\] came; \[time, 2\] float32"),
        (NUMBERS, np.ones((3, 2)), (4,), r"shape \[3, 2\] came; \[4, 2\] float32"),
        (NUMBERS, np.ones((0, 2)), ("time",), r"a chunk of nothing"),
        (NUMBERS, "ab", ("time",), r"text came; the model has no vocabulary; pass"),
        (NUMBERS, [1j, 2], (), r"1j \(complex\) came at column 'wind'; numbers were expected"),
        (NUMBERS, [None, 2], (), r"None \(NoneType\) came at column 'wind'; numbers were expected"),
        (NUMBERS, [[1, 2], [3]], ("time",), r"shape \[1\] beside shape \[2\] came at step 1; numbers were expected"),
        (NUMBERS, np.array([1, np.nan], np.float32), (), r"nan came at column 'rain'; finite numbers"),
        (NUMBERS, np.array([-np.inf, 1], np.float32), (), r"-inf came at column 'wind'; finite numbers"),
        (TOKENS, np.array(3), (), r"3 came; 0 to 2 was expected"),
        (TOKENS, np.array(-1), (), r"-1 came; 0 to 2 was expected"),
        (NUMBERS, True, (), r"True \(bool\) came; numbers were expected"),
        (IDS, 1.0, (), r"1.0 \(float\) came; whole numbers were expected"),
        (IDS, "a", (), r"no vocabulary"),
        (TOKENS, 1.5, (), r"1.5 \(float\) came; whole numbers, or tokens of 'a', 'b', 'end', were expected"),
        (TOKENS, "axb", ("time",), r"x' \(str\) came at step 1; one of 'a', 'b', 'end' was expected"),
        (TOKENS, "ab", (), r"'ab' \(str\) came; one of 'a', 'b', 'end' was expected"),
        (TWO, [1, 2], (), r"'pair' has the inputs 'x', 'day': pass a mapping"),
        (TWO, {"x": [1, 2]}, (), r"inputs 'x' of 'pair' came; 'x', 'day' were expected"),
        (TWO, {"x": [[1, 2]], "day": [1, 2]}, ("time",), r"unlike leading axes: \[\(1,\), \(2,\)\]"),
    ],
)
def test_refuses(spec: pb.ModelSpec, value: Any, lead: tuple[str | int, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        layout(spec).encode(value, lead)


def test_several_inputs() -> None:
    x, day = layout(TWO).encode({"day": [3, 4], "x": [[1, 2], [5, 6]]}, ("time",))
    np.testing.assert_array_equal(x, [[1, 2], [5, 6]])
    np.testing.assert_array_equal(day, [3, 4])


def test_a_long_vocabulary_is_not_printed_whole() -> None:
    spec = pb.ModelSpec(
        name="bytes",
        inputs=[pb.TensorSpec(name="x", dtype=pb.DATA_TYPE_INT64, vocabulary=[f"<{k}>" for k in range(256)])],
    )
    with pytest.raises(InputError, match=r"'<11>' and 244 more was expected$"):
        layout(spec).encode("a", ())


def test_an_unknown_type_is_refused() -> None:
    spec = pb.ModelSpec(inputs=[pb.TensorSpec(name="x", dtype=99)])  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="'x' is of data type 99"):
        layout(spec)


def test_decodes_outputs_then_gates() -> None:
    y = np.arange(6, dtype="<f4").reshape(2, 3)
    i, f = np.arange(40, dtype="<f4").reshape(2, 2, 2, 5)
    got = layout(NUMBERS).decode([y.tobytes()], [i.tobytes(), f.tobytes()], 2)
    for column, expected in zip(got, (y, i, f), strict=True):
        np.testing.assert_array_equal(column, expected)


def test_what_a_server_may_not_send() -> None:
    with pytest.raises(ProtocolError, match=r"1 output and 0 gate columns of 'weather' came; 1 and 2 were expected"):
        layout(NUMBERS).decode([b""], [], 1)
    with pytest.raises(ProtocolError, match=r"column 'y' holds 8 bytes; 1 rows of 12 were expected"):
        layout(NUMBERS).decode([bytes(8)], [bytes(40), bytes(40)], 1)


def test_columns_that_were_not_asked_for_count_as_the_server_counts() -> None:
    bare = Layout(NUMBERS, outputs=False, gates=False)
    assert (bare.outputs, bare.gates) == ((), ())
    assert bare.reply_bytes == layout(NUMBERS).reply_bytes > 4 * (3 + 2 * 10)
