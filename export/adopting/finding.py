"""Which inputs and outputs are states, and what is left: what a step takes and gives."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from gatestream.export.adopting import dataflow, preparing
from gatestream.export.adopting.by_running import pairs_by_running
from gatestream.export.adopting.expose import expose
from gatestream.export.adopting.given import shown_by_flow
from gatestream.export.adopting.running import Runner
from gatestream.export.adopting.signature import Carried, Dim, End, Signature, dims_of
from gatestream.export.adopting.states import Pair
from gatestream.export.adopting.work import Work
from gatestream.export.errors import AmbiguousError, StatelessError
from gatestream.protos.dtypes import DTYPES
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb


def find_states(work: Work) -> None:
    """Find the states: as was said, by data flow, in what the file keeps to itself, and by running it.

    Args:
        work: `pairs`, `unshown`, `hidden`, `starts` and `said` become what was found.

    Raises:
        AmbiguousError: what becomes of an input cannot be found out.
        NotStreamableError: an operator's state cannot be carried.
        StatelessError: there are none, and nobody said so.
    """
    model, options = work.model, work.options
    graph = model.graph
    inputs = {value.name or "": value for value in graph.inputs}
    outputs = {value.name or "": value for value in graph.outputs}
    told = {name: output for name, output in options.states.items() if name in inputs}
    shown = shown_by_flow(model, told, _settled(work.pairs))
    work.unshown = {name: output for name, output in told.items() if name not in shown}
    work.pairs += [Pair(inputs[name], outputs[output], "--state") for name, output in told.items()]
    settled = _settled(work.pairs) | options.time.keys() | options.windows.keys() | options.context.keys()
    work.pairs += dataflow.pairs(model, settled)
    settled |= _settled(work.pairs)
    exposed = expose(model, settled)
    work.pairs += exposed
    work.hidden = {pair.input.name or "" for pair in exposed}
    if exposed:
        names = ", ".join(f"'{pair.input.name}'" for pair in exposed)
        work.said.append(f"states that the file keeps to itself are inputs and outputs: {names}")
    _note_starts(work)
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


def _note_starts(work: Work) -> None:
    """Inputs that went with what they were: the start of states that have inputs of their own now."""
    gone = work.given.keys() - {value.name for value in (*work.model.graph.inputs, *work.ignored)}
    for name in sorted(gone - work.options.constants.keys()):
        work.starts.append(work.given[name])
        work.said.append(f"'{name}', from which states of other names start, is zeros for a new session")
        work.origin.add(name, "ignored", work.dims[name], found="what states start from")


def _settled(pairs: Sequence[Pair]) -> set[str]:
    return {value.name or "" for pair in pairs for value in (pair.input, pair.output)}


def _set_initial(work: Work) -> None:
    states = {pair.input.name: pair for pair in work.pairs}
    for name, value in work.options.initial.items():
        if name not in states:
            known = ", ".join(str(each) for each in states) or "none"
            raise AmbiguousError(f"--initial {name}: no state is called so; there are {known}")
        dtype = states[name].input.dtype
        assert dtype is not None
        with np.errstate(over="ignore", invalid="ignore"):
            if not np.isfinite(value.astype(dtype.numpy())).all():
                raise AmbiguousError(f"--initial {name}: the state is {dtype.numpy()}, which has no such finite number")
        states[name].initial = value


def _ends(values: Sequence[ir.Value]) -> list[End]:
    found = [End.of(value) for value in values]
    for end in found:
        if end.dtype.kind in "iu" and end.value.is_graph_input():
            end.limit = preparing.embedding_limit(end.value)
    return found


def signature_of(work: Work) -> Signature:
    """What is left beside the states: what a step takes and gives, no axis known yet.

    Raises:
        AmbiguousError: nothing is left that a step takes, or something is of a type that no artifact has.
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
    inputs = [value for value in graph.inputs if value not in starts]
    if not inputs:
        names = ", ".join(f"'{value.name}'" for value in graph.inputs)
        raise AmbiguousError(
            f"no input of a step is left: {names} are all states or constants, "
            "and what comes with every step is none of them; leave out one's --state or --constant"
        )
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
