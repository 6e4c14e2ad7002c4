"""What was said of a file, done to its graph before anything is looked for."""

import numpy as np

from gatestream.export.adopting import preparing, reading, refusals
from gatestream.export.adopting.signature import dims_of
from gatestream.export.adopting.work import Work
from gatestream.export.errors import AmbiguousError


def check_names(work: Work) -> None:
    """Everything that the flags name is there.

    Raises:
        AmbiguousError: something is not; the message lists what is.
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
    """Constants for good, and inputs that nothing reads.

    Raises:
        SourceError: a constant is not of its input's type and shape.
    """
    fixed = {name: value for name, value in work.options.constants.items() if value is not None}
    before = sum(1 for _ in work.model.graph.all_nodes())
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
    """Windows, contexts and constants of a session.

    Raises:
        AmbiguousError: an input has no axis for its window or context.
        NotStreamableError: an operator looks at other steps.
    """
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
    """One number for all rows and steps of a run is a setting, and no input of a step.

    Raises:
        AmbiguousError: there is such an input, and nobody said what it is.
    """
    told = work.options.time.keys() | work.options.constants.keys() | work.options.states.keys()
    for value in work.model.graph.inputs:
        if value.shape is not None and not dims_of(value) and value.name not in told:
            raise AmbiguousError(
                f"input '{value.name}' is one number, without sessions or time: where it has one value for good, "
                f"--constant {value.name}=VALUE; where every session sets it, --constant {value.name}; where every "
                f"step has its own, --time {value.name}:none"
            )
