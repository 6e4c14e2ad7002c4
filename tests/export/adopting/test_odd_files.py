"""Files that no exporter means to write: each becomes what it is, proved, or is refused in one line."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from gatestream.export.adopting.adopt import adopt
from gatestream.export.adopting.options import Options
from gatestream.export.adopting.table import lines
from gatestream.export.errors import ArtifactError
from tests.export.adopting import graphs

X: list[str | int | None] = ["batch", 3]
H: list[str | int | None] = ["batch", 4]
I64, BOOL = TensorProto.INT64, TensorProto.BOOL
Made = onnx.ModelProto
node, tensor = helper.make_node, graphs.tensor


def draw(*shape: int) -> graphs.Array:
    found: graphs.Array = np.random.default_rng(sum(shape)).normal(0, 0.4, shape).astype(np.float32)
    return found


WEIGHTS = {"W": draw(3, 4), "R": draw(4, 4), "U": draw(4, 2)}


def cell(x: str, h: str, out: str) -> list[onnx.NodeProto]:
    """tanh(x W + h R)."""
    return [
        node("MatMul", [x, "W"], ["xw"]),
        node("MatMul", [h, "R"], ["hr"]),
        node("Add", ["xw", "hr"], ["sum"]),
        node("Tanh", ["sum"], [out]),
    ]


def stepping(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto] = (),
    outputs: Sequence[onnx.ValueInfoProto] = (),
    **constants: graphs.Array,
) -> Made:
    """x and h to y, which is made of h2, and h2."""
    y = node("MatMul", ["h2", "U"], ["y"])
    ends = [tensor("y", ["batch", 2]), tensor("h2", H), *outputs]
    return graphs.model([*nodes, y], [tensor("x", X), tensor("h", H), *inputs], ends, WEIGHTS | constants)


def loop(prefix: str) -> onnx.GraphProto:
    """h becomes tanh(h R)."""
    names = [prefix + each for each in ("count", "on", "h")]
    nodes = [
        node("Identity", [names[1]], [prefix + "on2"]),
        node("MatMul", [names[2], "R"], [prefix + "r"]),
        node("Tanh", [prefix + "r"], [prefix + "h2"]),
    ]
    inputs = [tensor(names[0], [], I64), tensor(names[1], [], BOOL), tensor(names[2], H)]
    return helper.make_graph(nodes, prefix, inputs, [tensor(prefix + "on2", [], BOOL), tensor(prefix + "h2", H)])


def two_loops_that_carry_one_tensor() -> Made:
    both = [node("Loop", ["n", "true", "h1"], [f"{k}h1"], body=loop(k)) for k in "ab"]
    nodes = [*cell("x", "h", "h1"), *both, node("Add", ["ah1", "bh1"], ["h2"])]
    return stepping(nodes, n=np.array(2), true=np.array(True))


def a_scan_in_a_scan() -> Made:
    inner = helper.make_graph(
        [node("MatMul", ["ih", "R"], ["ir"]), node("Add", ["ir", "ix"], ["is"]), node("Tanh", ["is"], ["ih2"]),
         node("Identity", ["ih2"], ["iy"])],
        "inner", [tensor("ih", H), tensor("ix", H)], [tensor("ih2", H), tensor("iy", H)],
    )  # fmt: skip
    outer = helper.make_graph(
        [node("MatMul", ["ox", "W"], ["xw"]), node("Unsqueeze", ["xw", "zero"], ["xu"]),
         node("Scan", ["oh", "xu"], ["oh2", "oys"], body=inner, num_scan_inputs=1),
         node("Squeeze", ["oys", "zero"], ["oy"])],
        "outer", [tensor("oh", H), tensor("ox", X)], [tensor("oh2", H), tensor("oy", H)],
    )  # fmt: skip
    return graphs.model(
        [node("Scan", ["h", "x"], ["h2", "y"], body=outer, num_scan_inputs=1)],
        [tensor("x", ["time", *X]), tensor("h", H)],
        [tensor("y", ["time", *H]), tensor("h2", H)],
        WEIGHTS | {"zero": np.array([0])},
    )


def branches_whose_tensors_have_one_name() -> Made:
    def branch(kind: str) -> onnx.GraphProto:
        nodes = [node(kind, ["h1", "k"], ["inside"]), node("Identity", ["inside"], ["out"])]
        return helper.make_graph(nodes, kind, [], [tensor("out", [1, 4])])

    nodes = [
        *cell("x", "h", "h1"),
        node("ReduceSum", ["x"], ["total"], keepdims=0),
        node("Greater", ["total", "nought"], ["above"]),
        node("If", ["above"], ["h2"], then_branch=branch("Mul"), else_branch=branch("Add")),
        node("MatMul", ["h2", "U"], ["y"]),
    ]
    constants = WEIGHTS | {"nought": np.array(0, np.float32), "k": np.array(0.5, np.float32)}
    ends = [tensor("y", [1, 2]), tensor("h2", [1, 4])]
    return graphs.model(nodes, [tensor("x", [1, 3]), tensor("h", [1, 4])], ends, constants)


def one_initializer_as_start_and_weight() -> Made:
    made = graphs.plain()
    made.graph.node[0].input[:] = ["x", "W", "R", "B", "", "start", "start"]
    made.graph.node[0].output[:] = ["all"]
    made.graph.node.append(node("Add", ["all", "start"], ["y"]))
    made.graph.initializer.append(onnx.numpy_helper.from_array(draw(1, 1, 4), "start"))
    return made


def operators_of_opset_7() -> Made:
    nodes = [
        node("LSTM", ["x", "W", "R"], ["all"], hidden_size=4),
        node("Squeeze", ["all"], ["squeezed"], axes=[1]),
        node("Upsample", ["squeezed"], ["y"], scales=[1.0, 1.0, 1.0], mode="nearest"),
    ]
    constants = {"W": draw(1, 16, 3), "R": draw(1, 16, 4)}
    return graphs.model(
        nodes, [tensor("x", ["time", *X])], [tensor("y", ["time", *H])], constants, opset=7, ir_version=4
    )


def a_function_of_its_own() -> Made:
    inside = [*cell("x", "h", "out")]
    function = helper.make_function(
        "theirs", "Cell", ["x", "h", "W", "R"], ["out"], inside, [helper.make_opsetid("", 17)]
    )
    made = stepping([node("Cell", ["x", "h", "W", "R"], ["h2"], domain="theirs")])
    made.functions.append(function)
    made.opset_import.append(helper.make_opsetid("theirs", 1))
    return made


def a_thousand_uses_of_one_constant() -> Made:
    last, nodes = "h2", cell("x", "h", "h2")
    for k in range(1000):
        nodes.append(node("Mul", ["one", last], [f"m{k}"]))
        last = f"m{k}"
    made = stepping(nodes, one=np.array(1, np.float32))
    made.graph.node[-1].input[0] = last
    return made


def names_that_break_lines() -> Made:
    made = stepping(cell("x", "h", "h2"))
    renamed = {"x": "x\n\x1b[31m", "h": "h\"'\u202e{}%s", "h2": "h\"'\u202e{}%s2", "sum": "a\tb"}
    for value in (*made.graph.input, *made.graph.output):
        value.name = renamed.get(value.name, value.name)
    for each in made.graph.node:
        each.input[:] = [renamed.get(name, name) for name in each.input]
        each.output[:] = [renamed.get(name, name) for name in each.output]
    return made


ADOPTED: dict[Callable[[], Made], int] = {
    two_loops_that_carry_one_tensor: 1,
    a_scan_in_a_scan: 1,
    branches_whose_tensors_have_one_name: 1,
    one_initializer_as_start_and_weight: 2,
    operators_of_opset_7: 2,
    a_function_of_its_own: 1,
    a_thousand_uses_of_one_constant: 1,
    names_that_break_lines: 1,
}
"""And how many states they have."""


@pytest.mark.parametrize("made", ADOPTED, ids=lambda made: made.__name__)
def test_an_odd_file_is_what_it_is(made: Callable[[], Made], tmp_path: Path) -> None:
    found = adopt(graphs.saved(made(), tmp_path), tmp_path / "out.onnx")
    assert len(found.spec.states) == ADOPTED[made]
    assert not any("\n" in line or "\x1b" in line for line in lines(found.spec, found.report))


# ---- What is refused ----------------------------------------------------------------------


def a_flag_behind_an_if() -> Made:
    def branch(name: str) -> onnx.GraphProto:
        return helper.make_graph([node("Identity", [name], [f"{name}.out"])], name, [], [tensor(f"{name}.out", H)])

    chosen = node("If", ["flag"], ["h2"], then_branch=branch("h1"), else_branch=branch("h"))
    return stepping([*cell("x", "h", "h1"), chosen], [tensor("flag", [], BOOL)])


def an_optional_state() -> Made:
    kind = helper.make_optional_type_proto(helper.make_tensor_type_proto(graphs.FLOAT, H))
    made = stepping([node("OptionalGetElement", ["perhaps"], ["h0"]), *cell("x", "h0", "h2")])
    made.graph.input[1].CopyFrom(helper.make_value_info("perhaps", kind))
    return made


def a_state_in_a_sequence() -> Made:
    made = stepping([node("SequenceAt", ["list", "first"], ["h0"]), *cell("x", "h0", "h2")], first=np.array(0))
    made.graph.input[1].CopyFrom(helper.make_tensor_sequence_value_info("list", graphs.FLOAT, H))
    return made


def a_state_of_texts() -> Made:
    texts = [tensor(name, ["batch", 1], TensorProto.STRING) for name in ("text", "text2")]
    return stepping([*cell("x", "h", "h2"), node("Identity", ["text"], ["text2"])], texts[:1], texts[1:])


def an_operator_of_nobody() -> Made:
    made = stepping([*cell("x", "h", "h1"), node("Magic", ["h1"], ["h2"], domain="theirs")])
    made.opset_import.append(helper.make_opsetid("theirs", 1))
    return made


def a_state_of_no_numbers() -> Made:
    ends = [tensor(name, ["batch", 0]) for name in ("nothing", "nothing2")]
    return stepping([*cell("x", "h", "h2"), node("Identity", ["nothing"], ["nothing2"])], ends[:1], ends[1:])


def a_state_of_no_rank() -> Made:
    made = stepping(cell("x", "h", "h2"))
    made.graph.input[1].type.tensor_type.ClearField("shape")
    return made


REFUSED: dict[Callable[[], Made], str] = {
    a_flag_behind_an_if: "input 'flag' is one number",
    an_optional_state: "input 'perhaps' is optional",
    a_state_in_a_sequence: "input 'list' is a sequence",
    a_state_of_texts: "input 'text' is a tensor of texts",
    an_operator_of_nobody: "operator Magic of 'theirs'",
    a_state_of_no_numbers: "'nothing'",
    a_state_of_no_rank: "'shape'",
}
"""And what is said of it."""


@pytest.mark.parametrize("made", REFUSED, ids=lambda made: made.__name__)
def test_an_odd_file_is_refused_in_one_line(made: Callable[[], Made], tmp_path: Path) -> None:
    with pytest.raises(ArtifactError) as refused:
        adopt(graphs.saved(made(), tmp_path), tmp_path / "out.onnx", Options())
    assert REFUSED[made] in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out.onnx").exists()


def test_a_constant_for_a_sequence_says_that_no_flag_helps(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no flag makes it a tensor"):
        adopt(
            graphs.saved(a_state_in_a_sequence(), tmp_path),
            tmp_path / "out.onnx",
            Options(constants={"list": np.array(3)}),
        )


@pytest.mark.parametrize("time", ["time", 10])
def test_a_file_that_gives_its_last_step_alone_gives_that_of_each(time: str | int, tmp_path: Path) -> None:
    """What a classifier of whole sequences is: its head reads `Y_h`."""
    made = graphs.model(
        [
            node("LSTM", ["x", "W", "R", "B"], ["", "Y_h"], "lstm", hidden_size=4),
            node("Squeeze", ["Y_h", "axis"], ["y"]),
        ],
        [tensor("x", [time, "batch", 3])],
        [tensor("y", ["batch", 4])],
        graphs.weights("LSTM", 3, 4) | {"axis": np.array([0])},
    )
    onnx.save(made, tmp_path / "last.onnx")
    adopted = adopt(tmp_path / "last.onnx", tmp_path / "made.onnx")
    assert [state.input for state in adopted.spec.states] == ["lstm.h", "lstm.c"]

    x = draw(10, 1, 3)
    session = onnxruntime.InferenceSession(tmp_path / "made.onnx")
    zeros = {state.input: np.zeros((1, *state.shape), np.float32) for state in adopted.spec.states}
    found = session.run(["y"], {"x": x.transpose(1, 0, 2), **zeros})[0][0]
    made.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "time"
    original = onnxruntime.InferenceSession(made.SerializeToString())
    ends = [original.run(["y"], {"x": x[: t + 1]})[0][0] for t in range(10)]
    np.testing.assert_allclose(found, ends, rtol=0, atol=1e-6)


def test_an_opset_that_nobody_knows_is_said(tmp_path: Path) -> None:
    made = stepping(cell("x", "h", "h2"))
    made.opset_import[0].version = 99
    onnx.save(made, tmp_path / "new.onnx")
    with pytest.raises(ArtifactError, match=r"opset 99, which this onnx \(.*\) does not know; expected \d+ at most"):
        adopt(tmp_path / "new.onnx", tmp_path / "made.onnx")
