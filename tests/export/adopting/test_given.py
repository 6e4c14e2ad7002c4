"""States whose outputs were given: what the file contradicts is refused, what nothing shows is said."""

from collections.abc import Callable
from pathlib import Path

import pytest
from onnx import TensorProto

from gatestream.cli.main import main
from gatestream.export.adopting.adopt import adopt
from gatestream.export.adopting.options import Options
from gatestream.export.adopting.table import lines
from gatestream.export.drawing.findings import Findings, look
from gatestream.export.errors import AmbiguousError
from gatestream.export.proof.report import VerificationError
from tests.support.strangers import layers
from tests.support.strangers.graph import Graph

N = 3


def two_states(folder: Path, name: str, fill: Callable[[Graph, str, str, str], None]) -> Path:
    """One step a run: x, a, b of one shape; a2, b2, and y of another, the sum of both."""
    g = Graph(name)
    x, a, b = (g.input(each, ["batch", N]) for each in ("x", "a", "b"))
    for end in ("a2", "b2"):
        g.output(end, ["batch", N])
    fill(g, x, a, b)
    both = g.node("Add", g.node("Mul", "a2", g.constant(3.0)), "b2")
    heard = g.node("Add", g.node("Add", both, a), g.node("Mul", b, g.constant(2.0)))
    g.node("MatMul", heard, g.weight(N, 2), out=g.output("y", ["batch", 2]))
    return g.save(folder)


def means(g: Graph, x: str, a: str, b: str) -> None:
    """Two means that forget, one sooner."""
    for state, kept, end in ((a, 0.9, "a2"), (b, 0.5, "b2")):
        old = g.node("Mul", state, g.constant(kept))
        g.node("Add", old, g.node("Mul", x, g.constant(1 - kept)), out=end)


def entangled(g: Graph, x: str, a: str, b: str) -> None:
    """Either might become either."""
    for end in ("a2", "b2"):
        mixed = g.node("Add", g.node("MatMul", a, g.weight(N, N)), g.node("MatMul", b, g.weight(N, N)))
        g.node("Tanh", g.node("Add", mixed, x), out=end)


def delay(g: Graph, x: str, a: str, b: str) -> None:
    """b is what a was, and nothing else of either is kept."""
    g.node("Identity", x, out="a2")
    g.node("Add", a, g.node("Mul", b, g.constant(0.0)), out="b2")


RIGHT, CROSSED = {"a": "a2", "b": "b2"}, {"a": "b2", "b": "a2"}


def test_crossed_states_of_one_step_a_run_are_seen_by_running_it(tmp_path: Path) -> None:
    path = two_states(tmp_path, "means", means)
    with pytest.raises(AmbiguousError) as refused:
        adopt(path, tmp_path / "out.onnx", Options(states=CROSSED))
    assert "--state a=b2 --state b=a2" in str(refused.value)
    assert str(refused.value).endswith("it shows --state a=a2 --state b=b2")
    assert not (tmp_path / "out.onnx").exists()
    found = adopt(path, tmp_path / "out.onnx", Options(states=RIGHT))
    assert not found.spec.promises.unproved_states
    assert not any("unproved" in line for line in lines(found.spec, found.report))


@pytest.mark.parametrize("pairing", [RIGHT, CROSSED], ids=["right", "crossed"])
def test_a_pairing_that_nothing_shows_is_not_called_proved(
    pairing: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, output = two_states(tmp_path, "entangled", entangled), tmp_path / "out.onnx"
    flags = [word for name, end in pairing.items() for word in ("--state", f"{name}={end}")]
    with pytest.raises(SystemExit) as end:
        main(["adopt", str(path), "-o", str(output), *flags])
    assert not end.value.code
    printed = capsys.readouterr().out
    for name, after in pairing.items():
        assert f"unproved   '{name}' -> '{after}'" in printed
    assert printed.splitlines()[-1].endswith("proved, but for what becomes of 'a', 'b'")
    found = adopt(path, output, Options(states=pairing))
    assert list(found.spec.promises.unproved_states) == ["a", "b"]


def test_a_state_that_becomes_another_is_no_contradiction(tmp_path: Path) -> None:
    path = two_states(tmp_path, "delay", delay)
    found = adopt(path, tmp_path / "out.onnx", Options(states=RIGHT))
    assert list(found.spec.promises.unproved_states) == ["a", "b"]


def test_data_flow_contradicts_h_given_as_c(tmp_path: Path) -> None:
    stranger = layers.lstm_exposed(tmp_path)
    h, c = stranger.states
    with pytest.raises(AmbiguousError) as refused:
        adopt(stranger.path, tmp_path / "out.onnx", Options(states={h.input: c.output, c.input: h.output}))
    assert f"by data flow '{c.output}' is what becomes of '{c.input}'" in str(refused.value)
    told = {state.input: state.output for state in stranger.states}
    assert not adopt(stranger.path, tmp_path / "out.onnx", Options(states=told)).spec.promises.unproved_states


def late(folder: Path, steps: float) -> Path:
    """A counter that changes the output from so many steps on."""
    g = Graph(f"late_{steps:g}")
    x, n = g.input("x", ["batch", N]), g.input("n", ["batch", 1])
    after = g.node("Add", n, g.constant(1.0), out=g.output("n2", ["batch", 1]))
    heard = g.node("Cast", g.node("Greater", after, g.constant(float(steps))), to=TensorProto.FLOAT)
    g.node("Add", x, heard, out=g.output("y", ["batch", N]))
    return g.save(folder)


def test_a_state_that_matters_late_is_heard_of_in_a_longer_run(tmp_path: Path) -> None:
    found = adopt(late(tmp_path, 150), tmp_path / "out.onnx", Options(time={"x": None}))
    assert [state.input for state in found.spec.states] == ["n"]
    assert "n 1" in found.report.checks[-1].detail


def test_a_state_that_nothing_is_heard_of_is_taken_when_it_is_given(tmp_path: Path) -> None:
    path = late(tmp_path, 1e30)
    with pytest.raises(VerificationError, match=r"where it is one all the same, --state n=n2"):
        adopt(path, tmp_path / "out.onnx", Options(time={"x": None}))
    found = adopt(path, tmp_path / "out.onnx", Options(states={"n": "n2"}, time={"x": None}))
    [said] = [line for line in lines(found.spec, found.report) if "losing 'n' changes nothing in" in line]
    assert int(said.partition(" changes nothing in ")[2].partition(" steps")[0].replace(",", "")) > 1000
    assert list(found.spec.promises.unproved_states) == ["n"]
    looked = look(tmp_path / "out.onnx")
    assert isinstance(looked, Findings)
    assert looked.spec == found.spec
