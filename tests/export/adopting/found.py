"""What adopting says of a file, against what is in it."""

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from tests.support.strangers.stranger import Stranger


def check_found(stranger: Stranger, spec: pb.ModelSpec) -> None:
    """States and their pairs, batch axes, time axes, constants, what is ignored."""
    said = {tensor.name: tensor for tensor in spec.source.tensors}
    carried = [state for state in spec.states if state.role != pb.STATE_ROLE_CONSTANT]
    constants = [state for state in spec.states if state.role == pb.STATE_ROLE_CONSTANT]
    assert len(carried) == len(stranger.states) + len(stranger.hidden) + len(stranger.context)
    by_input = {state.input: state for state in carried}
    for state in stranger.states:
        assert said[state.input].role == "state"
        assert by_input[said[state.input].becomes].output == state.output
        assert said[state.input].batch_axis == (-1 if stranger.one_row else state.batch), state.input
    assert {state.input for state in constants} == {said[name].becomes for name in stranger.per_session}
    for tensor in (*stranger.inputs, *stranger.outputs):
        assert said[tensor.name].role in ("input", "output")
        assert said[tensor.name].time_axis == (-1 if tensor.time is None else tensor.time), tensor.name
        assert said[tensor.name].batch_axis == (-1 if stranger.one_row else tensor.batch), tensor.name
    for name in stranger.fixed:
        assert said[name].role == "constant"
    for name in stranger.ignored:
        assert said[name].role == "ignored"
    for name, samples in stranger.context.items():
        (window,) = (each for each in spec.inputs if each.name == said[name].becomes)
        assert window.context == samples
    assert spec.promises.rows_independent == stranger.promises_rows
