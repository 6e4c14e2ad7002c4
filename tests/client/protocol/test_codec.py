"""The bytes are the protobuf messages that they stand for, and nothing else is taken for a whole answer."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gatestream.client.columns import Layout
from gatestream.client.protocol.codec import Whole, frame, head, message, varints
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb

SPEC = pb.ModelSpec(
    name="two",
    layers=1,
    hidden=2,
    inputs=[
        pb.TensorSpec(name="x", dtype=pb.DATA_TYPE_FLOAT32, shape=[3]),
        pb.TensorSpec(name="token", dtype=pb.DATA_TYPE_INT64),
    ],
    outputs=[
        pb.TensorSpec(name="y", dtype=pb.DATA_TYPE_FLOAT32, shape=[2]),
        pb.TensorSpec(name="z", dtype=pb.DATA_TYPE_INT64),
    ],
    gates=[pb.GateSpec(name="input", symbol="i", output="i"), pb.GateSpec(name="forget", symbol="f", output="f")],
)
LAYOUT = Layout(SPEC, outputs=True, gates=False)
# Handle, length, position.
entries = st.lists(
    st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 300), st.integers(0, 2**62)),
    min_size=1,
    max_size=30,
    unique_by=lambda entry: entry[0],
)


def begin(columns: list[tuple[int, int, int]]) -> bytes:
    handles, lengths, firsts = (np.array(column, np.int64) for column in zip(*columns, strict=True))
    return head(varints(handles), varints(lengths) if lengths.max() > 1 else b"", varints(firsts))


def results(columns: list[tuple[int, int, int]], layout: Layout, seed: int) -> pb.Results:
    """As a server says it, with noise for numbers."""
    rng = np.random.default_rng(seed)
    handles, lengths, firsts = map(list, zip(*columns, strict=True))
    rows = sum(lengths)
    return pb.Results(
        handle=handles,
        length=lengths if max(lengths) > 1 else [],
        first=firsts,
        output=[rng.bytes(rows * each.row_bytes) for each in layout.outputs],
        gate=[rng.bytes(rows * each.row_bytes) for each in layout.gates],
    )


@given(entries, st.booleans())
def test_a_message_is_what_protobuf_would_write(columns: list[tuple[int, int, int]], single: bool) -> None:
    if single:
        columns = [(handle, 1, first) for handle, _, first in columns]
    handles, lengths, firsts = map(list, zip(*columns, strict=True))
    x = np.arange(3 * sum(lengths), dtype="<f4").reshape(-1, 3)
    tokens = np.arange(sum(lengths))
    data = message(begin(columns), [[x[:1], x[1:]], [tokens]], frame(LAYOUT, len(x)))
    steps = pb.Steps(
        handle=handles,
        length=lengths if max(lengths) > 1 else [],
        first=firsts,
        input=[x.tobytes(), tokens.tobytes()],
    )
    assert data == pb.ClientMessage(steps=steps).SerializeToString()


@given(entries, st.booleans(), st.booleans(), st.integers(0, 99))
def test_a_whole_answer_is_read(columns: list[tuple[int, int, int]], outputs: bool, gates: bool, seed: int) -> None:
    layout = Layout(SPEC, outputs=outputs, gates=gates)
    answer = results(columns, layout, seed)
    rows = sum(length for _, length, _ in columns)
    whole = Whole(begin(columns), frame(layout, rows))
    arrays = whole.read(pb.ServerMessage(results=answer).SerializeToString())
    assert arrays is not None
    expected = layout.decode(answer.output, answer.gate, rows)
    assert [each.tobytes() for each in arrays] == [each.tobytes() for each in expected]
    assert [each.shape for each in arrays] == [each.shape for each in expected]


@given(entries, st.data())
def test_anything_else_is_left_alone(columns: list[tuple[int, int, int]], data: st.DataObject) -> None:
    rows = sum(length for _, length, _ in columns)
    whole = Whole(begin(columns), frame(LAYOUT, rows))
    kinds = ["moved", "fewer", "gates", "later", "swapped", "cut", "other"]
    kind = data.draw(st.sampled_from(kinds if len(columns) > 1 else [each for each in kinds if each != "fewer"]))
    answer = results(columns, LAYOUT, 0)
    if kind == "moved":
        answer.first[data.draw(st.integers(0, len(columns) - 1))] += 1
    elif kind == "fewer":
        answer = results(columns[:-1], LAYOUT, 0)
    elif kind == "gates":
        answer = results(columns, Layout(SPEC, outputs=True, gates=True), 0)
    elif kind == "swapped":
        # Two columns of the wrong sizes, which add up to the right one.
        answer.output[0], answer.output[1] = answer.output[0][1:], answer.output[1] + b"0"
    other = pb.ServerMessage(results=answer) if kind != "other" else pb.ServerMessage(error=pb.Error(handle=[0]))
    sent = other.SerializeToString()
    # Field 15, which a later version may have.
    assert whole.read({"cut": sent[:-1], "later": sent + b"\x78\x01"}.get(kind, sent)) is None
