"""The file as it came, set up to be compared with what is made of it."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir

from gatestream.export.adopting.reference import Carries, Plan, Source, source_runner
from gatestream.export.adopting.running import Array, Runner
from gatestream.export.adopting.signature import Carried, Signature
from gatestream.export.adopting.work import Work
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb


def source_of(path: Path, sha256: str, work: Work, signature: Signature) -> Source:
    """The file, run by its own conventions.

    Args:
        path: of the file.
        sha256: of it and the weights beside it, as they were read, in hexadecimal.
        work: the same on its way; its graph is not in normal form yet.
        signature: of the graph, its axes known.
    """
    fixed: dict[str, Array] = {name: value for name, value in work.options.constants.items() if value is not None}
    original = set(work.dims)
    for value in (*work.ignored, *work.starts):
        name = value.name or ""
        shape = tuple(dim if isinstance(dim, int) else 1 for dim in work.dims[name])
        assert value.dtype is not None
        fixed[name] = np.full(shape, value in work.ignored, value.dtype.numpy())
    states, constants = [], []
    for state in signature.states:
        pair = state.pair
        if pair.role == pb.STATE_ROLE_CONSTANT and pair.found == "--constant":
            constants.append(Plan.of(state.end))
        elif pair.input.name in original:
            states.append(_carries(state))
    stepped = work.rounds_by_range
    if stepped and work.hidden:
        # A whole run of the file is rounded by another range than its steps: here only the rewriting is compared.
        runner, hidden = Runner.of(work.model), False
        states = [_carries(state) for state in signature.states if state.pair.role != pb.STATE_ROLE_CONSTANT]
    else:
        runner, hidden = source_runner(path, sha256), bool(work.hidden)
    return Source(
        runner=runner,
        inputs=tuple(Plan.of(end) for end in signature.inputs),
        outputs=tuple(Plan.of(end) for end in signature.outputs if end.name in original),
        states=tuple(states),
        constants=tuple(constants),
        fixed=_fitted(fixed, work.given),
        context={
            end.name: (work.context[end.name][0], end.rest.index(work.context[end.name][1]))
            for end in signature.inputs
            if end.name in work.context
        },
        hidden=hidden,
        many=signature.many and not stepped,
    )


def _carries(state: Carried) -> Carries:
    initial = np.zeros(state.end.base) if state.pair.initial is None else state.pair.initial
    start = np.broadcast_to(initial, state.end.base).astype(state.end.dtype)
    return Carries(Plan.of(state.end), state.pair.output.name or "", start)


def _fitted(fixed: Mapping[str, Array], value_of: Mapping[str, ir.Value]) -> dict[str, Array]:
    """Constants in the type and rank that the file has for them."""
    found = {}
    for name, array in fixed.items():
        value = value_of[name]
        assert value.dtype is not None
        rank = len(value.shape or ())
        found[name] = (array.reshape([1] * rank) if array.size == 1 else array).astype(value.dtype.numpy())
    return found
