"""Recurrent layers inside a module: which there are, how they are called, and carrying their states from outside."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from gatestream.export.errors import NotStreamableError
from gatestream.export.sources.operators import traced
from gatestream.export.sources.ports import Port
from gatestream.export.sources.stand_ins import Unpacked
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb

KINDS: Final[Mapping[type[nn.Module], pb.CellKind]] = {
    nn.LSTM: pb.CELL_KIND_LSTM,
    nn.LSTMCell: pb.CELL_KIND_LSTM,
    nn.GRU: pb.CELL_KIND_GRU,
    nn.GRUCell: pb.CELL_KIND_GRU,
    nn.RNN: pb.CELL_KIND_RNN,
    nn.RNNCell: pb.CELL_KIND_RNN,
}

States = tuple[Tensor, ...]
"""(h,), or of an LSTM (h, c): of a layer [layers, batch, size], of a cell [batch, size]."""

Handler = Callable[[Callable[..., Any], nn.Module, Any, States | None], Any]
"""Called in place of a recurrent layer's `forward`: with that, the layer, its input and the states it was given."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a recurrent layer.

    Attributes:
        given: the states that it was called with; None: none.
        returned: the states after it.
    """

    given: States | None
    returned: States


@dataclass(frozen=True, slots=True)
class Recurrent:
    """A recurrent layer whose states nobody carries; of one that runs several times a step, one of its runs.

    Attributes:
        name: of the submodule; empty: it is the module itself; "gru_2" of its second run.
        layer: the submodule.
        states: what is to be carried; of a layer of several, all of them in one: [layers, size].
        place: which of the layer's runs it is, from 0.
        of: how many there are; where it is one, all of the layer's calls in a step go on from each other.
        looped: the layer is called for each step.
    """

    name: str
    layer: nn.Module
    states: tuple[Port, ...]
    place: int
    of: int
    looped: bool


def numbered(name: str, place: int) -> str:
    """The name of one of several of a name."""
    return f"{name}_{place + 1}" if place else name


def kind(layer: nn.Module) -> pb.CellKind:
    """Of a recurrent layer, which one."""
    return next(kind for cls, kind in KINDS.items() if isinstance(layer, cls))


def _is_recurrent(module: nn.Module) -> bool:
    return isinstance(module, tuple(KINDS))


def layers(module: nn.Module) -> dict[str, nn.Module]:
    """The recurrent layers in a module, by name.

    Raises:
        NotStreamableError: one runs backwards too.
    """
    found = {name: each for name, each in module.named_modules() if _is_recurrent(each)}
    for name, each in found.items():
        if getattr(each, "bidirectional", False):
            raise NotStreamableError(
                f"{called(name, each)} is bidirectional: what it gives for a step depends on steps that come later, "
                "so it cannot take one step at a time"
            )
    return found


def called(name: str, layer: nn.Module) -> str:
    """What an error calls a submodule."""
    return f"'{name}' ({type(layer).__name__})" if name else f"the module ({type(layer).__name__})"


@contextmanager
def intercepted(handler: Handler) -> Iterator[None]:
    """Within this, every recurrent layer of torch's is run by `handler`."""
    originals = {cls: cls.forward for cls in KINDS}

    def stand_in(original: Callable[..., Any]) -> Callable[..., Any]:
        def forward(self: nn.Module, input: Any, hx: Any = None) -> Any:  # noqa: A002 (as torch's)
            given = None if hx is None else (hx,) if isinstance(hx, Tensor) else tuple(hx)
            return handler(original, self, input, given)

        return forward

    try:
        for cls, original in originals.items():
            cls.forward = stand_in(original)
        yield
    finally:
        for cls, original in originals.items():
            cls.forward = original


def run(original: Callable[..., Any], layer: nn.Module, xs: Any, given: States | None) -> tuple[Any, States]:
    """Run a recurrent layer; what it returns, and the states after it."""
    hx = None if given is None else given if isinstance(layer, nn.LSTM | nn.LSTMCell) else given[0]
    returned = original(layer, xs, hx)
    after = returned if isinstance(layer, nn.RNNCellBase) else returned[1]
    return returned, (after,) if isinstance(after, Tensor) else tuple(after)


def record(call: Callable[[], Any]) -> tuple[Any, dict[nn.Module, list[Call]]]:
    """What a call of a module returns, and the calls of recurrent layers in it."""
    calls: dict[nn.Module, list[Call]] = {}

    def handler(original: Callable[..., Any], layer: nn.Module, xs: Any, given: States | None) -> Any:
        returned, after = run(original, layer, xs, given)
        calls.setdefault(layer, []).append(Call(given, after))
        return returned

    with intercepted(handler), torch.no_grad():
        return call(), calls


class Carrying:
    """Recurrent layers whose states come from outside and go there.

    Args:
        recurrents: those layers; others run as they are called.
        names: of all recurrent layers, while the module is traced; None: it is run.
    """

    def __init__(self, recurrents: Sequence[Recurrent], names: Mapping[nn.Module, str] | None = None) -> None:
        self._recurrents = {(each.layer, each.place): each for each in recurrents}
        self._several = {each.layer for each in recurrents if each.of > 1}
        self._names = names

    @contextmanager
    def states(self, before: Mapping[str, States]) -> Iterator[dict[str, States]]:
        """Within this the layers go on from states.

        Args:
            before: by the layer's name, its states, [batch, *shape] each.

        Yields:
            The states after a run of the module; complete when that is over.
        """
        after: dict[str, States] = {}
        calls: Counter[nn.Module] = Counter()

        def handler(original: Callable[..., Any], layer: nn.Module, xs: Any, given: States | None) -> Any:
            call = calls[layer]
            calls[layer] += 1
            carried = self._recurrents.get((layer, call if layer in self._several else 0))
            if carried is not None and carried.name not in after:
                ports = zip(carried.states, before[carried.name], strict=True)
                given = tuple(port.laid_out(state).contiguous() for port, state in ports)
            returned, states = self._run(original, layer, call, xs, given)
            if carried is not None:
                ports = zip(carried.states, states, strict=True)
                after[carried.name] = tuple(port.normal(state) for port, state in ports)
            return returned

        with intercepted(handler):
            yield after

    def _run(
        self, original: Callable[..., Any], layer: nn.Module, call: int, xs: Any, given: States | None
    ) -> tuple[Any, States]:
        if not isinstance(xs, Unpacked):
            if self._names is None or given is None or not isinstance(layer, nn.RNNBase):
                return run(original, layer, xs, given)
            ys, after = traced(layer, numbered(self._names[layer], call), xs, given)
            return (ys, after), (after,) if isinstance(after, Tensor) else after
        # Its own batch_first says nothing of what comes packed.
        straight = xs.tensor if xs.batch_first == layer.batch_first else xs.tensor.transpose(0, 1)
        (ys, hx), states = self._run(original, layer, call, straight, given)
        ys = ys if xs.batch_first == layer.batch_first else ys.transpose(0, 1)
        return (Unpacked(ys, xs.batch_first), hx), states
