"""What serving a refused module anyway would have given: other numbers than the module gives of the whole."""

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from tests.export.sources import modules
from tests.export.sources.test_refusals import REFUSED

_LEAST = 0.01
"""By how much numbers of the order of 1 are off, and no rounding is to blame."""


def outputs(found: Any) -> Tensor:
    """What a module gives of each step; of a layer of torch's without its states."""
    first = found[0] if isinstance(found, tuple) else found
    assert isinstance(first, Tensor)
    return first


def in_chunks(module: nn.Module, x: Tensor, chunks: tuple[int, ...]) -> Tensor:
    """The steps of x [batch, time, *] in chunks, with every state that could be carried carried.

    A recurrent layer begins each chunk, in its first call, from what its last call of the chunk before returned.
    """
    layers = [each for each in module.modules() if isinstance(each, nn.RNNBase | nn.RNNCellBase)]
    carried: dict[nn.Module, Any] = {}
    first: set[nn.Module] = set()

    def start(layer: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...] | None:
        begins = layer in first
        first.discard(layer)
        return (given[0], carried[layer]) if begins and layer in carried else None

    def keep(layer: nn.Module, _: Any, returned: Any) -> None:
        carried[layer] = returned[1] if isinstance(layer, nn.RNNBase) else returned

    hooks = [layer.register_forward_pre_hook(start) for layer in layers]
    hooks += [layer.register_forward_hook(keep) for layer in layers]
    found = []
    for chunk in torch.tensor_split(x, torch.tensor(chunks).cumsum(0)[:-1], 1):
        first.update(layers)
        found.append(outputs(module(chunk)))
    for hook in hooks:
        hook.remove()
    return torch.cat(found, 1)


def made(make: Callable[[], nn.Module]) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return make().eval(), torch.randn(3, 10, 4)


def apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


@pytest.mark.parametrize("make", [modules.Hidden, modules.CellLoop, modules.OneNumber])
@torch.no_grad()
def test_chunks_of_what_is_taken_are_the_whole(make: Callable[[], nn.Module]) -> None:
    """So that it is the module, and not how it is run here, that the tests below find different."""
    module, x = made(make)
    assert apart(module(x), in_chunks(module, x, (4, 1, 5))) < 1e-5


@pytest.mark.parametrize(
    "case",
    [
        "a hidden causal convolution",
        "both directions",
        "looking ahead",
        "counting from the chunk's start",
        "a start from the input",
        "one layer twice",
        "a state that decays by the step's input",
    ],
)
@torch.no_grad()
def test_chunks_are_not_the_whole_whatever_is_carried(case: str) -> None:
    module, x = made(REFUSED[case][0])
    assert apart(module(x), in_chunks(module, x, (5, 5))) > _LEAST


@pytest.mark.parametrize("case", ["rows", "time taken for rows"])
@torch.no_grad()
def test_a_session_is_not_what_it_is_alone(case: str) -> None:
    module, x = made(REFUSED[case][0])
    assert apart(outputs(module(x))[-1:], outputs(module(x[-1:]))) > _LEAST


@pytest.mark.parametrize("case", ["an attribute", "a buffer"])
@torch.no_grad()
def test_a_session_goes_on_from_another(case: str) -> None:
    """What is kept in the module is there for all."""
    module, x = made(REFUSED[case][0])
    alone = module(x)
    module, _ = made(REFUSED[case][0])
    module(torch.randn(3, 10, 4) + 1)
    assert apart(module(x), alone) > _LEAST


@torch.no_grad()
def test_what_is_random_is_not_the_same_twice() -> None:
    module, x = made(REFUSED["noise"][0])
    assert apart(module(x), module(x)) > _LEAST


@torch.no_grad()
def test_a_cell_that_is_given_no_state_begins_anew_at_each_step() -> None:
    module, x = made(REFUSED["no time"][0])
    state, whole = None, []
    for step in x.unbind(1):
        state = module(step, state)
        whole.append(state[0])
    anew = [module(step)[0] for step in x.unbind(1)]
    assert apart(whole[0], anew[0]) == 0
    assert min(apart(one, other) for one, other in zip(whole[1:], anew[1:], strict=True)) > _LEAST


@torch.no_grad()
def test_fewer_steps_come_out_and_other_ones() -> None:
    """Every other step, counted from where each chunk begins."""
    module, x = made(modules.Subsampled)
    assert module(x).shape[1] == 5
    joined = torch.cat([module(x[:, :5]), module(x[:, 5:])], 1)
    assert joined.shape[1] == 6
    assert apart(joined[:, :5], module(x)) > _LEAST


@torch.no_grad()
def test_without_a_state_nothing_is_lost() -> None:
    """Refused until it is asked for, since it is no stream; its steps are then the whole."""
    module, x = made(REFUSED["no state"][0])
    assert apart(module(x), in_chunks(module, x, (4, 1, 5))) < 1e-6


@pytest.mark.filterwarnings("ignore")
@torch.no_grad()
def test_for_one_number_of_rows_it_gives_no_other() -> None:
    """A loop over rows is unrolled when it is traced: what torch makes of the module of 3 rows gives 3 of any."""
    module, x = made(REFUSED["a number of rows"][0])
    traced = torch.export.export(module, (x,)).module()
    assert apart(traced(x), module(x)) < 1e-6
    with pytest.raises(AssertionError, match=r"size\(\)\[0\] == 3|shape\[0\]"):
        traced(x[:2])


@torch.no_grad()
def test_a_state_that_grows_is_of_one_age_for_all_rows() -> None:
    """Of a younger session the rest is filled up with zeros."""
    module, x = made(REFUSED["a state that grows"][0])
    older, younger = x[:1, :3], x[1:2, :1]
    right = module(x[1:2, 3:4], younger)[0]
    filled = torch.cat([younger, torch.zeros(1, 2, 4)], 1)
    together = module(x[:2, 3:4], torch.cat([older, filled]))[0]
    assert apart(together[1:], right) > _LEAST


@pytest.mark.filterwarnings("ignore")
@torch.no_grad()
def test_quantised_layers_round_by_their_neighbours() -> None:
    module, x = made(modules.Hidden)
    quantize = cast(Callable[..., nn.Module], torch.ao.quantization.quantize_dynamic)
    quantised = quantize(module, {nn.LSTM}, dtype=torch.qint8)
    loud = x * torch.tensor([1.0, 1.0, 1000.0])[:, None, None]
    assert apart(quantised(x)[:2], quantised(loud)[:2]) > _LEAST


@torch.no_grad()
def test_rows_that_are_sorted_do_not_come_as_they_are() -> None:
    """torch refuses rows that are not in the order of their lengths, which sessions never are."""
    module, x = made(modules.Sorting)
    assert module(x, torch.tensor([4, 10, 7])).shape == (3, 10, 6)
    with pytest.raises(RuntimeError, match="sorted in decreasing order"):
        nn.utils.rnn.pack_padded_sequence(x, torch.tensor([4, 10, 7]), batch_first=True)
