"""States whose outputs were given: whether the file contradicts them, and whether anything but the word confirms them.

A file that takes one step a run is carried, in the proof too, by the pairing that was given. There a wrong one agrees
with itself, so it is looked at here: by data flow, and by moving one state and seeing what moves.
"""

from collections.abc import Collection, Mapping

import numpy as np
import onnx_ir as ir

from gatestream.export.adopting import dataflow
from gatestream.export.adopting.by_running import outputs_shown
from gatestream.export.adopting.running import Array, Runner
from gatestream.export.adopting.signature import End, Signature
from gatestream.export.errors import AmbiguousError
from gatestream.export.proof.streamed import sample


def shown_by_flow(model: ir.Model, told: Mapping[str, str], settled: Collection[str] = ()) -> set[str]:
    """The states whose outputs data flow finds too.

    Args:
        model: the graph.
        told: by input, its output.
        settled: other inputs and outputs, of which it is known what they are.

    Raises:
        AmbiguousError: a state was given an output that, by data flow, is what becomes of another.
    """
    found = {value.name or "": pairs for value, pairs in dataflow.candidates(model, settled).items()}
    owners = {pair.output.name or "": name for name, pairs in found.items() for pair in pairs}
    confirmed = set()
    for name, output in told.items():
        if output in [pair.output.name for pair in found.get(name, ())]:
            confirmed.add(name)
        elif name in found and output in owners:
            raise AmbiguousError(
                f"--state {name}={output}: by data flow '{output}' is what becomes of '{owners[output]}', and "
                f"'{found[name][0].output.name}' what becomes of '{name}' ({found[name][0].found})"
            )
    return confirmed


def shown_by_running(runner: Runner, signature: Signature, told: Mapping[str, str]) -> set[str]:
    """The states whose outputs are found by running the file, too.

    Args:
        runner: of the graph.
        signature: its axes known.
        told: by input, its output.

    Raises:
        AmbiguousError: states were given each other's outputs.
    """
    feed = _step(signature)
    ends = {state.end.name: state.end for state in signature.states}
    outputs = [*signature.outputs, *(End.of(state.pair.output) for state in signature.states)]
    shapes = {name: values.shape for name, values in runner.run(feed).items()}
    groups: dict[tuple[str, tuple[int, ...]], list[End]] = {}
    for name in told:
        groups.setdefault((ends[name].dtype.str, ends[name].base), []).append(ends[name])
    confirmed = set()
    for (dtype, shape), group in groups.items():
        alike = [end for end in outputs if end.dtype.str == dtype and shapes[end.name] == shape]
        own = [end for end in alike if end.name in {told[start.name] for start in group}]
        among_all = outputs_shown(runner, feed, signature.fed, group, alike)
        among_own = outputs_shown(runner, feed, signature.fed, group, own)
        if ring := _ring({start.name: told[start.name] for start in group}, among_own):
            flags = " ".join(f"--state {name}={told[name]}" for name in ring)
            right = " ".join(f"--state {name}={min(among_own[name])}" for name in ring)
            raise AmbiguousError(f"{flags}: by running it, these are each other's; it shows {right}")
        confirmed |= {start.name for start in group if told[start.name] in among_all.get(start.name, ())}
    return confirmed


def _step(signature: Signature) -> dict[str, Array]:
    """One step of one session; states that are whole numbers are what they start from, or zeros."""
    rng = np.random.default_rng(0)
    feed = {end.name: sample(end.dtype, end.limit, end.base, rng) for end in signature.fed}
    for state in signature.states:
        if state.end.dtype.kind != "f":
            initial = 0 if state.pair.initial is None else state.pair.initial
            feed[state.end.name] = np.broadcast_to(initial, state.end.base).astype(state.end.dtype)
    return feed


def _ring(told: Mapping[str, str], shown: Mapping[str, set[str]]) -> list[str]:
    """States of which each was given what is shown to be the next one's; empty: there are none.

    Where only some of them are shown it may be a delay line, in which a state becomes the one behind it.
    """
    owners = {output: name for name, output in told.items()}
    for first in told:
        ring = [first]
        while (name := ring[-1]) in shown and told[name] not in shown[name]:
            following = [owners[output] for output in sorted(shown[name]) if output in owners]
            if not following or (following[0] in ring and following[0] != first):
                break
            if following[0] == first:
                return ring
            ring.append(following[0])
    return []
