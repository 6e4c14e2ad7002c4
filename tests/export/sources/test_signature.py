"""How a module is called: said in a notation, or shown by its methods."""

import pytest
import torch
from torch import Tensor, nn

from gatestream.export.errors import SourceError
from gatestream.export.sources.signature import read


class Takes(nn.Module):
    def forward(self, x: Tensor, y: Tensor, state: object = None, *, scale: float = 1.0) -> None: ...


class Shows(nn.Module):
    """Two inputs in a dict, time first; states of two axes in a nested tuple."""

    def example_inputs(self, batch: int, time: int) -> dict[str, Tensor]:
        return {"x": torch.zeros(time, batch, 4), "y": torch.zeros(batch, 2, time, dtype=torch.int16)}

    def initial_state(self, batch: int) -> tuple[Tensor, dict[str, Tensor]]:
        return torch.ones(2, batch, 3), {"count": torch.zeros(batch, dtype=torch.int64)}

    def forward(self, x: Tensor, y: Tensor, state: object) -> None: ...


@pytest.mark.parametrize(
    ("text", "shown", "shape", "axes"),
    [
        ("x[4]", "x:float32[batch,time,4]", (4,), (0, 1)),
        ("x:float16[time,batch,4]", "x:float16[time,batch,4]", (4,), (1, 0)),
        ("x:int16[batch, 4, time]", "x:int16[batch,4,time]", (4,), (0, 2)),
        ("x:int64<9[]", "x:int64[batch,time]", (), (0, 1)),
        ("x:bool[batch,2,3]", "x:bool[batch,2,3]", (2, 3), (0, None)),
    ],
)
def test_the_notation(text: str, shown: str, shape: tuple[int, ...], axes: tuple[int, int | None]) -> None:
    other = "y[batch,1]" if axes[1] is None else "y[1]"
    port, _ = read(Takes(), [text, other]).inputs
    assert (str(port), port.shape, (port.batch_axis, port.time_axis)) == (shown, shape, axes)
    lead = (3,) if axes[1] is None else (3, 5)
    sample = port.sample(lead, torch.Generator())
    laid_out = port.laid_out(sample)
    assert laid_out.shape[port.batch_axis] == 3
    assert axes[1] is None or laid_out.shape[axes[1]] == 5
    assert torch.equal(port.normal(laid_out), sample)


def test_parts_of_an_argument_are_put_together() -> None:
    signature = read(Takes(), ["y[1]", "x[1]"], ["state.h.0[2]", "state.h.1[3]", "state.c[4]"])
    y, x, first, second, c = (torch.tensor(k) for k in range(5))
    args, named = signature.call([y, x, first, second, c], 1, 1)
    assert args == ()
    assert named == {"y": y, "x": x, "state": {"h": (first, second), "c": c}}


def test_methods_show_axes_types_and_starts() -> None:
    signature = read(Shows())
    assert [str(port) for port in signature.inputs] == ["x:float32[time,batch,4]", "y:int16[batch,2,time]"]
    assert [str(port) for port in signature.states] == ["state.0:float32[2,batch,3]", "state.1.count:int64[batch]"]
    assert torch.equal(signature.states[0].start(2), torch.ones(2, 2, 3))
    assert torch.equal(signature.states[1].start(2), torch.zeros(2, dtype=torch.int64))


@pytest.mark.parametrize(
    ("inputs", "states", "said"),
    [
        ([], [], "what Takes takes is not said"),
        (["x"], [], "'x' is not written as NAME:TYPE[SHAPE]"),
        (["x:float8[4]"], [], "no type 'float8'"),
        (["x[time,4]"], [], "each once"),
        (["x[batch,batch]"], [], "each once"),
        (["x[0]"], [], "numbers above 0"),
        (["x[1]", "y[1]"], ["state[time,batch]"], "only inputs have time"),
        (["x:int64[]", "y[1]"], [], "say how many there are, --input x:int64<N[batch,time]"),
        (["x[1]"], [], "forward takes 'y', which is neither an input nor a state"),
        (["x[1]", "y[1]", "y[2]"], [], "'y' is said twice"),
        (["x[1]", "y[batch,1]"], [], "y:float32[batch,1] has no time axis, other inputs have"),
        (["x[1]", "y[1]"], ["h[2]"], "no parameter 'h'"),
    ],
)
def test_what_is_not_said_rightly_is_said_in_one_line(inputs: list[str], states: list[str], said: str) -> None:
    with pytest.raises(SourceError) as refused:
        read(Takes(), inputs, states)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


class Random(Shows):
    def initial_state(self, batch: int) -> tuple[Tensor, dict[str, Tensor]]:
        return torch.rand(2, batch, 3), {}


class Fixed(Shows):
    def example_inputs(self, batch: int, time: int) -> dict[str, Tensor]:
        return {"x": torch.zeros(time, 1, 4), "y": torch.zeros(batch, 2, time)}


class Broken(Shows):
    def example_inputs(self, batch: int, time: int) -> dict[str, Tensor]:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("cls", "said"),
    [
        (Random, "state 'state.0' starts from other numbers in each row"),
        (Fixed, "the example of 'x' is [5, 1, 4], and with one row or step more [5, 1, 4]"),
        (Broken, "example_inputs(3, 5) failed: RuntimeError: no"),
    ],
)
def test_examples_that_show_nothing(cls: type[nn.Module], said: str) -> None:
    with pytest.raises(SourceError) as refused:
        read(cls())
    assert said in str(refused.value)
