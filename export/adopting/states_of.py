"""What a file carries: constants and contexts as its caller had to keep them, and states by whatever shows them."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from gatestream.export.adopting import dataflow, preparing, reading, refusals
from gatestream.export.adopting.by_running import pairs_by_running
from gatestream.export.adopting.expose import expose
from gatestream.export.adopting.running import Runner
from gatestream.export.adopting.signature import Carried, Dim, End, Signature, dims_of
from gatestream.export.adopting.states import Pair
from gatestream.export.adopting.work import Work
from gatestream.export.errors import AmbiguousError, StatelessError
from gatestream.protos.dtypes import DTYPES
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb


def check_names(work: Work) -> None:
    """Everything that the flags name is there.

    Raises:
        AmbiguousError: it is not.
    """
    inputs = [value.name or "" for value in work.model.graph.inputs]
    for flag, names in work.options.flags().items():
        if flag != "--initial" and (unknown := sorted(names - set(inputs))):
            raise AmbiguousError(f"{flag} {unknown[0]}: no input is called so; there are {', '.join(inputs)}")
    outputs = [value.name or "" for value in work.model.graph.outputs]
    for name, output in work.options.states.items():
        if output not in outputs:
            raise AmbiguousError(f"--state {name}={output}: no output is called so; there are {', '.join(outputs)}")


def fold(work: Work) -> None:
    """Constants for good, and inputs that nothing reads."""
    fixed = {name: value for name, value in work.options.constants.items() if value is not None}
    before = sum(1 for _ in work.model.graph.all_nodes())
    for value in list(work.model.graph.inputs):
        if value.name not in fixed and (found := preparing.drop_lengths(value)):
            work.lengths.append(value)
            work.origin.add(value.name or "", "length", work.dims[value.name or ""], found=found)
            work.model.graph.inputs.remove(value)
            work.said.append(f"'{value.name}', the lengths of rows, is left out: the rows of a run are of one length")
    common.RemoveUnusedNodesPass()(work.model)
    zeroed = {value.name or "": value for value in work.model.graph.inputs if preparing.is_multiplied_away(value)}
    for name, value in zeroed.items():
        if name not in fixed:
            work.ignored.append(value)
            work.origin.add(name, "ignored", work.dims[name], found="it is multiplied by zero")
    nothing = {name: preparing.zeros(value) for name, value in zeroed.items()}
    reading.fold(work.model, nothing | fixed)
    after = sum(1 for _ in work.model.graph.all_nodes())
    if fixed and after < before:
        work.said.append(f"constants folded: {after:,} nodes of {before:,}")
    for name, array in fixed.items():
        text = np.array2string(array, threshold=4)
        work.origin.add(name, "constant", work.dims[name], found=f"--constant {name}={text}")
    for value in list(work.model.graph.inputs):
        if not value.uses() and not value.is_graph_output() and value.name not in work.options.states:
            work.ignored.append(value)
            work.model.graph.inputs.remove(value)
            work.origin.add(value.name or "", "ignored", work.dims[value.name or ""], found="nothing reads it")


def prepare(work: Work) -> None:
    """Windows, contexts and constants of a session."""
    inputs = {value.name or "": value for value in work.model.graph.inputs}
    for name, samples in work.options.windows.items():
        if name in inputs:
            preparing.window(inputs[name], samples + work.options.context.get(name, 0))
    refusals.check(work.model, work.options.context.keys())
    for name, samples in work.options.context.items():
        if name in inputs:
            pair, axis = preparing.context(work.model, inputs[name], samples)
            work.pairs.append(pair)
            work.context[name] = samples, axis
            work.said.append(f"the last {samples} samples of '{name}' are kept as a state: they go before its window")
    for name, value in work.options.constants.items():
        if value is None and name in inputs:
            work.pairs.append(preparing.constant_of_session(work.model, inputs[name]))


def check_scalars(work: Work) -> None:
    """One number for all rows and steps of a run is a setting, and no input of a step."""
    told = work.options.time.keys() | work.options.constants.keys() | work.options.states.keys()
    for value in work.model.graph.inputs:
        if value.shape is not None and not dims_of(value) and value.name not in told:
            raise AmbiguousError(
                f"input '{value.name}' is one number, without sessions or time: where it has one value for good, "
                f"--constant {value.name}=VALUE; where every session sets it, --constant {value.name}; where every "
                f"step has its own, --time {value.name}:none"
            )


def find_states(work: Work) -> None:
    """States that were named, then those that operators show or keep, then those that show when the graph is run.

    Raises:
        AmbiguousError: an input's successor cannot be told.
        NotStreamableError: a state cannot be carried from run to run.
        StatelessError: there are none.
    """
    model, options = work.model, work.options
    graph = model.graph
    inputs = {value.name or "": value for value in graph.inputs}
    outputs = {value.name or "": value for value in graph.outputs}
    work.pairs += [
        Pair(inputs[name], outputs[output], "--state") for name, output in options.states.items() if name in inputs
    ]
    settled = _settled(work.pairs) | options.time.keys() | options.windows.keys() | options.context.keys()
    work.pairs += dataflow.pairs(model, settled)
    settled |= _settled(work.pairs)
    exposed = expose(model, settled)
    work.pairs += exposed
    work.hidden = {pair.input.name or "" for pair in exposed}
    if exposed:
        names = ", ".join(f"'{pair.input.name}'" for pair in exposed)
        work.said.append(f"states that the file keeps to itself are inputs and outputs: {names}")
    settled |= _settled(work.pairs)
    if not options.states:
        work.pairs += pairs_by_running(
            Runner.of(model),
            _ends(graph.inputs),
            _ends(graph.outputs),
            settled,
            fed=bool(options.time.keys() | options.windows.keys() | options.context.keys()),
            others=any(pair.role not in (pb.STATE_ROLE_CONTEXT, pb.STATE_ROLE_CONSTANT) for pair in work.pairs),
        )
    moving = [pair for pair in work.pairs if pair.role != pb.STATE_ROLE_CONSTANT]
    if not moving and not options.stateless:
        raise StatelessError(
            "no state: nothing is carried from one step to the next, no input and output belong together, and no "
            "operator keeps a state; name them with --state INPUT=OUTPUT, or serve it as it is with --stateless"
        )
    _set_initial(work)


def _settled(pairs: Sequence[Pair]) -> set[str]:
    return {value.name or "" for pair in pairs for value in (pair.input, pair.output)}


def _set_initial(work: Work) -> None:
    states = {pair.input.name: pair for pair in work.pairs}
    for name, value in work.options.initial.items():
        if name not in states:
            known = ", ".join(str(each) for each in states) or "none"
            raise AmbiguousError(f"--initial {name}: no state is called so; there are {known}")
        states[name].initial = value


def _ends(values: Sequence[ir.Value]) -> list[End]:
    found = [End.of(value) for value in values]
    for end in found:
        if end.dtype.kind in "iu" and end.value.is_graph_input():
            end.limit = preparing.embedding_limit(end.value)
    return found


def signature_of(work: Work) -> Signature:
    """What the graph takes, gives and carries; where it gives nothing but states, it is made to show them.

    Raises:
        AmbiguousError: an input is of a type that no artifact has.
    """
    graph = work.model.graph
    starts = {pair.input: pair for pair in work.pairs}
    after = {pair.output for pair in work.pairs}
    outputs = [value for value in graph.outputs if value not in after]
    if not outputs:
        shown = [pair for pair in work.pairs if pair.role not in (pb.STATE_ROLE_CELL, pb.STATE_ROLE_CONSTANT)]
        outputs = [preparing.shown(work.model, pair) for pair in shown]
        names = ", ".join(f"'{value.name}'" for value in outputs)
        work.said.append(f"every output is a state's successor: what a step gives is a copy of them, {names}")
    ends = _ends(graph.inputs)
    for end in ends:
        if end.dtype not in DTYPES.values():
            raise AmbiguousError(f"input '{end.name}' is of type {end.dtype}, which no artifact has")
    states = [
        Carried(starts[end.value], replace(end, dims=_merged(starts[end.value]))) for end in ends if end.value in starts
    ]
    return Signature([end for end in ends if end.value not in starts], _ends(outputs), states)


def _merged(pair: Pair) -> tuple[Dim, ...]:
    """What either end of a state says of its shape."""
    a, b = dims_of(pair.input), dims_of(pair.output)
    if len(a) != len(b):
        return a
    return tuple(m if isinstance(m, int) else n if isinstance(n, int) else m for m, n in zip(a, b, strict=True))
