"""A module of the user's with all of its states as inputs and outputs, in the normal form of contract 2."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree  # what torch.export takes results apart with

from gatestream.export.errors import NotStreamableError, SourceError
from gatestream.export.sources import looped
from gatestream.export.sources import returned as found
from gatestream.export.sources.arguments import described
from gatestream.export.sources.chains import BrokenChainError, uncarried
from gatestream.export.sources.kept import kept, unlike_itself
from gatestream.export.sources.looped import Loop
from gatestream.export.sources.recurrent import Call, Carrying, Recurrent, called, layers, record
from gatestream.export.sources.signature import Signature

_BATCH, _TIME = 3, 5
"""Of the calls that show what a module does: unlike each other."""

_LONGER = 13
"""Steps of another: so many more that a module shows it that gives one for several."""


@dataclass(frozen=True, slots=True)
class _Run:
    """A call of the module.

    Attributes:
        returned: by it.
        calls: of recurrent layers in it.
        given: to its submodules.
    """

    returned: Any
    calls: dict[nn.Module, list[Call]]
    given: looped.Calls


class Streamed(nn.Module):
    """A module that takes its states and gives them back.

    Args:
        module: the user's, in evaluation mode.
        signature: what it takes.
        names: what its outputs are called; empty: "y", or after where they stand in what `forward` returns.

    Attributes:
        module: the user's.
        signature: what it takes.
        recurrents: layers in it whose states nobody carries.
        loops: submodules that a loop in `forward` gives states for each step; then they have all of `recurrents`' too.
        outputs: what it gives each step.
        states: the signature's, then those of `recurrents` and `loops`, then constants, which no step changes.
        timed: each of its outputs has a time axis.
        stepwise: it can only be called with one step at a time: it has no time axis, gives its last step alone, or
            runs cells in a loop.

    Raises:
        SourceError: it cannot be called so, or what it returns is not one step for a step, and its states.
        NotStreamableError: it keeps something from call to call, is random, or has a layer that cannot be carried.
    """

    def __init__(self, module: nn.Module, signature: Signature, names: Sequence[str] = ()) -> None:
        super().__init__()
        self.module = module
        self.signature = signature
        sizes = [(_BATCH, _TIME), (_BATCH + 1, _TIME), *([(_BATCH, _LONGER)] if signature.has_time else [])]
        layers(module)  # none of which runs backwards
        before = kept(module)
        runs = [self._recorded(*sizes[0], 0)]
        again = found.tensors(self._recorded(*sizes[0], 0).returned)
        if not all(map(torch.equal, again, found.tensors(runs[0].returned))):
            raise NotStreamableError(unlike_itself(module, before))
        runs += [self._recorded(*size, seed) for seed, size in enumerate(sizes[1:], start=1)]
        calls = [(run.calls, *size) for run, size in zip(runs, sizes, strict=True)]
        given = [(run.given, time) for run, (_, time) in zip(runs, sizes, strict=True)]
        self.loops = looped.find(module, given) if signature.has_time and not signature.states else []
        self.recurrents = self._uncarried(calls)
        if self.recurrents and not signature.has_time:
            raise NotStreamableError(
                f"{called(self.recurrents[0].name, self.recurrents[0].layer)} begins anew at each call, and no input "
                f"has a time axis: make its state an argument and a result of forward, or say where time is, as in "
                f"{next(iter(signature.inputs)).name}:float32[batch,time,...]"
            )
        leaves = [found.leaves(run.returned) for run in runs]
        self._successors = [leaf.index for leaf in found.successors(leaves[0], signature.states, _BATCH)]
        hidden = [port for each in self._keepers for port in each.states]
        self.states = (*signature.states, *hidden, *signature.constants)
        results = [
            found.results([leaf for leaf in each if leaf.index not in self._successors], run.calls, self.recurrents)
            for each, run in zip(leaves, runs, strict=True)
        ]
        taken = [port.name for port in (*signature.inputs, *self.states)]
        self.outputs = found.outputs(results, sizes, names, taken)
        loops = self.loops or any(each.looped for each in self.recurrents)
        self.timed = all(output.port.time_axis is not None for output in self.outputs)
        self.stepwise = bool(loops) or not self.timed

    @property
    def _keepers(self) -> list[Recurrent | Loop]:
        return [*self.recurrents, *self.loops]

    def start(self, constants: Sequence[Tensor], batch: int) -> list[Tensor]:
        """The states of sessions that have seen nothing, each [batch, *shape].

        Args:
            constants: of these sessions, each [batch, *shape].
            batch: how many there are.
        """
        changing = self.states[: len(self.states) - len(constants)]
        return [*(port.start(batch) for port in changing), *constants]

    def whole(self, inputs: Sequence[Tensor], constants: Sequence[Tensor]) -> list[Tensor]:
        """What the module itself gives for whole sequences.

        Args:
            inputs: each [batch, time, *shape].
            constants: each [batch, *shape].

        Returns:
            Its outputs, each [batch, time, *shape]; where it gives its last step alone, by running it on every
            beginning of the sequence.
        """
        batch, time = inputs[0].shape[:2]
        if not self.signature.has_time:
            return self.run(inputs, self.start(constants, batch))[0]
        start = [*(port.start(batch) for port in self.signature.states), *constants]
        timed = self.timed
        with torch.no_grad():
            runs = [
                self._results([x[:, :until] for x in inputs], start)
                for until in ([time] if timed else range(1, time + 1))
            ]
        if timed:
            return runs[0]
        return [
            torch.stack(steps, dim=1) if output.port.time_axis is None else steps[-1]
            for output, steps in zip(self.outputs, zip(*runs, strict=True), strict=True)
        ]

    def once(self, inputs: Sequence[Tensor], constants: Sequence[Tensor]) -> list[Tensor]:
        """What one call of the module gives: for whole sequences, or where it has no time axis for their first step."""
        start = [*(port.start(len(inputs[0])) for port in self.signature.states), *constants]
        with torch.no_grad():
            return self._results(inputs if self.signature.has_time else [x[:, 0] for x in inputs], start)

    def run(self, inputs: Sequence[Tensor], states: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Take the steps of a chunk.

        Args:
            inputs: each [batch, time, *shape].
            states: before the first, each [batch, *shape].

        Returns:
            Outputs, each [batch, time, *shape], and the states after the last step.
        """
        with torch.no_grad():
            if not self.stepwise:
                return self.chunk(inputs, states)
            steps = []
            after = list(states)
            for t in range(inputs[0].shape[1]):
                results, after = self.step([x[:, t] for x in inputs], after)
                steps.append(results)
        return [torch.stack(column, dim=1) for column in zip(*steps, strict=True)], after

    def chunk(
        self, inputs: Sequence[Tensor], states: Sequence[Tensor], *, traced: bool = False
    ) -> tuple[list[Tensor], list[Tensor]]:
        """One call of the module, with several steps; as `run`."""
        count, last = len(self.signature.states), len(states) - len(self.signature.constants)
        explicit, hidden, constants = states[:count], list(states[count:last]), states[last:]
        before = {each.name: tuple(hidden.pop(0) for _ in each.states) for each in self._keepers}
        names = {layer: name or type(layer).__name__.lower() for name, layer in layers(self.module).items()}
        carrying = Carrying(self.recurrents, names if traced else None)
        with carrying.states(before) as of_layers, looped.carried(self.loops, before) as of_loops:
            leaves = self._call(inputs, (*explicit, *constants))
        after = {**of_layers, **of_loops}
        results = [output.port.normal(leaves[output.index]) for output in self.outputs]
        ports = zip(self.signature.states, self._successors, strict=True)
        successors = [port.normal(leaves[index]) for port, index in ports]
        found_after = [state for each in self._keepers for state in after.get(each.name, ())]
        return results, [*successors, *found_after, *constants]

    def step(
        self, inputs: Sequence[Tensor], states: Sequence[Tensor], *, traced: bool = False
    ) -> tuple[list[Tensor], list[Tensor]]:
        """One call of the module, with one step: as `run`, but inputs and outputs are [batch, *shape]."""
        if self.signature.has_time:
            inputs = [x.unsqueeze(1) for x in inputs]
        results, after = self.chunk(inputs, states, traced=traced)
        if self.loops:
            # The second step shows what the first came to.
            _, after = self.chunk([torch.cat([x, x], dim=1) for x in inputs], states, traced=traced)
        timed = [output.port.time_axis is not None for output in self.outputs]
        return [y.squeeze(1) if has_time else y for y, has_time in zip(results, timed, strict=True)], after

    def _results(self, inputs: Sequence[Tensor], states: Sequence[Tensor]) -> list[Tensor]:
        leaves = self._call(inputs, states)
        return [output.port.normal(leaves[output.index]) for output in self.outputs]

    def _call(self, inputs: Sequence[Tensor], states: Sequence[Tensor]) -> list[Any]:
        """Call the module with its inputs, states and constants in the normal form; all that it returns, flat."""
        ports = self.signature.ports
        batch, time = inputs[0].shape[0], inputs[0].shape[1] if self.signature.has_time else 1
        tensors = [port.laid_out(tensor) for port, tensor in zip(ports, (*inputs, *states), strict=True)]
        args, kwargs = self.signature.call(tensors, batch, time)
        return pytree.tree_leaves(self._answer(args, kwargs, tensors))

    def _uncarried(self, runs: Sequence[tuple[dict[nn.Module, list[Call]], int, int]]) -> list[Recurrent]:
        """The recurrent layers that are carried by themselves: all, and then `loops` is empty, or none."""
        own = {each for loop in self.loops for each in loop.module.modules()}
        try:
            recurrents = uncarried(self.module, runs, explicit=bool(self.signature.states))
        except BrokenChainError:
            if not set(layers(self.module).values()) <= own:
                raise
            return []
        beside = [loop for loop in self.loops if not set(loop.module.modules()) & {each.layer for each in recurrents}]
        if recurrents and (not beside or not all(each.looped and each.layer in own for each in recurrents)):
            self.loops = []
        return [] if self.loops else recurrents

    def _recorded(self, batch: int, time: int, seed: int) -> "_Run":
        """What the module does with some inputs and some states."""
        inputs = self.signature.sample(batch, time, seed)
        if not self.signature.has_time:
            inputs = [x[:, 0] for x in inputs]
        generator = torch.Generator().manual_seed(seed)
        states = [
            port.sample((batch,), generator) if port.dtype.is_floating_point else port.start(batch)
            for port in self.signature.states
        ] + self.signature.sample_constants(batch, seed)
        ports = self.signature.ports
        tensors = [port.laid_out(tensor) for port, tensor in zip(ports, (*inputs, *states), strict=True)]
        args, kwargs = self.signature.call(tensors, batch, time)
        with looped.recorded(self.module) as given:
            returned, calls = record(lambda: self._answer(args, kwargs, tensors))
        return _Run(returned, calls, given)

    def _answer(self, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: Sequence[Tensor]) -> Any:
        """What the user's code returns, and what it raises in one line."""
        if torch.compiler.is_exporting():
            return found.plain(self.module(*args, **kwargs))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what it warns of is between the user and torch
                return found.plain(self.module(*args, **kwargs))
        except SourceError:
            raise
        except Exception as error:  # whatever the user's code raises
            ports = self.signature.ports
            given = ", ".join(f"{port.name} {list(tensor.shape)}" for port, tensor in zip(ports, tensors, strict=True))
            said = " ".join(str(error).split())[:300]
            raise SourceError(
                f"{described(self.module)} cannot be called with {given}: {type(error).__name__}: {said}; "
                "axes in another order are said so: --input x:float32[time,batch,40]"
            ) from error
