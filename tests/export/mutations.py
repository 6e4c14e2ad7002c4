"""Ways to spoil an artifact, each as somebody might: by a slip in an exporter, a tool, or by hand.

Each takes the ONNX message of a real artifact and changes it in place.
"""

from collections.abc import Callable

import numpy as np
import onnx
from google.protobuf import json_format
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from gatestream.protos import spec as specs
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb

Mutation = Callable[[onnx.ModelProto], None]


# ---- parts of a model ----


def body(model: onnx.ModelProto) -> onnx.GraphProto:
    scan = next(node for node in model.graph.node if node.op_type == "Scan")
    return next(attribute.g for attribute in scan.attribute if attribute.name == "body")


def maker(model: onnx.ModelProto, tensor: str) -> onnx.NodeProto:
    """The node that makes a tensor, inside the Scan or outside."""
    graphs = [model.graph, *([body(model)] if any(node.op_type == "Scan" for node in model.graph.node) else [])]
    return next(node for graph in graphs for node in graph.node if tensor in node.output)


def values(model: onnx.ModelProto, name: str) -> NDArray[np.generic]:
    return numpy_helper.to_array(next(each for each in model.graph.initializer if each.name == name)).copy()


def set_values(model: onnx.ModelProto, name: str, array: NDArray[np.generic]) -> None:
    target = next(each for each in model.graph.initializer if each.name == name)
    target.CopyFrom(numpy_helper.from_array(array.copy(), name))


def exchange_values(model: onnx.ModelProto, first: str, second: str) -> None:
    one, other = values(model, first), values(model, second)
    set_values(model, first, other)
    set_values(model, second, one)


def rewire(node: onnx.NodeProto, old: str, new: str) -> None:
    assert old in node.input
    node.input[:] = [new if name == old else name for name in node.input]


def exchange_names(values: list[str], first: str, second: str) -> list[str]:
    return [{first: second, second: first}.get(name, name) for name in values]


def edit_spec(model: onnx.ModelProto, edit: Callable[[pb.ModelSpec], object]) -> None:
    entry = next(entry for entry in model.metadata_props if entry.key == specs.KEY)
    spec = json_format.Parse(entry.value, pb.ModelSpec())
    edit(spec)
    entry.value = specs.to_json(spec)


# ---- what is done to the equations ----


def operator(tensor: str, op_type: str) -> Mutation:
    """Another operator makes a tensor of the first layer."""

    def mutate(model: onnx.ModelProto) -> None:
        maker(model, tensor).op_type = op_type

    return mutate


def missing_forget_gate(model: onnx.ModelProto) -> None:
    kept = maker(model, maker(model, "cells.0.c_next").input[0])
    assert set(kept.input) == {"cells.0.f", "cells.0.c"}
    rewire(maker(model, "cells.0.c_next"), kept.output[0], "cells.0.c")
    body(model).node.remove(kept)


def added_gate(model: onnx.ModelProto) -> None:
    """i + g instead of i * g."""
    maker(model, maker(model, "cells.0.c_next").input[1]).op_type = "Add"


def forget_gate_on_hidden_state(model: onnx.ModelProto) -> None:
    rewire(maker(model, maker(model, "cells.0.c_next").input[0]), "cells.0.c", "cells.0.h")


def gates_fed_by_cell_state(model: onnx.ModelProto) -> None:
    """The recurrent product of the forget gate takes c instead of h."""
    rewire(maker(model, maker(model, "cells.0.f").input[0]), "cells.0.h", "cells.0.c")


def gates_exchanged(model: onnx.ModelProto) -> None:
    """The forget gate multiplies the candidate, the input gate the cell state."""
    for term in maker(model, "cells.0.c_next").input:
        node = maker(model, term)
        node.input[:] = exchange_names(list(node.input), "cells.0.f", "cells.0.i")


def bias_dropped(model: onnx.ModelProto) -> None:
    feed = maker(model, maker(model, maker(model, "cells.0.o").input[0]).input[2])
    assert feed.input[2] == "cells.0.output_gate.b"
    del feed.input[2]


def layers_exchanged(model: onnx.ModelProto) -> None:
    """Each layer starts from the other's hidden state."""
    first, second = maker(model, "cells.0.h_initial"), maker(model, "cells.1.h_initial")
    first.input[1], second.input[1] = second.input[1], first.input[1]


def head_on_first_layer(model: onnx.ModelProto) -> None:
    inside = body(model)
    last = next(output for output in inside.output if output.name == "cells.1.h_next")
    last.name = "cells.0.h_next"


def length_ignored(model: onnx.ModelProto) -> None:
    where = maker(model, "cells.0.c_carried")
    where.op_type, where.input[:] = "Identity", ["cells.0.c_next"]


def length_inverted(model: onnx.ModelProto) -> None:
    where = maker(model, "cells.1.h_carried")
    where.input[1], where.input[2] = where.input[2], where.input[1]


def steps_counted_from_one(model: onnx.ModelProto) -> None:
    scan = next(node for node in model.graph.node if node.op_type == "Scan")
    counter = next(name for name in scan.input if any(each.name == name for each in model.graph.initializer))
    set_values(model, counter, np.array(1, np.int32))


def carried_into_each_other(model: onnx.ModelProto) -> None:
    """The Scan's own h and c change places on the way from step to step."""
    inside = body(model)
    names = exchange_names([output.name for output in inside.output], "cells.0.h_carried", "cells.0.c_carried")
    for output, name in zip(inside.output, names, strict=True):
        output.name = name


# ---- what is done to inputs and outputs ----


def states_exchanged_at_input(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        node.input[:] = exchange_names(list(node.input), "h", "c")


def states_exchanged_at_output(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        node.output[:] = exchange_names(list(node.output), "h_next", "c_next")


def states_exchanged_throughout(model: onnx.ModelProto) -> None:
    states_exchanged_at_input(model)
    states_exchanged_at_output(model)


def gate_outputs_exchanged(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        node.output[:] = exchange_names(list(node.output), "i", "f")


def output_before_activation(model: onnx.ModelProto) -> None:
    """The candidate's output shows what tanh is applied to."""
    inside = body(model)
    for output in inside.output:
        if output.name == "cells.0.g":
            output.name = maker(model, "cells.0.g").input[0]


def squashed_output(model: onnx.ModelProto) -> None:
    """A tanh on the way out."""
    node = maker(model, "y")
    node.output[0] = "linear_y"
    model.graph.node.append(helper.make_node("Tanh", ["linear_y"], ["y"], name="squash"))


# ---- what is done to weights ----


def weights_exchanged(model: onnx.ModelProto) -> None:
    """In both layers the forget gate's initializers hold the input gate's weights, and the other way round."""
    for layer in (0, 1):
        for parameter in "WRb":
            exchange_values(model, f"cells.{layer}.input_gate.{parameter}", f"cells.{layer}.forget_gate.{parameter}")


def initializers_exchanged(model: onnx.ModelProto) -> None:
    """The nodes of the first layer's forget gate take the input gate's initializers, and the other way round."""
    for node in body(model).node:
        for parameter in "WRb":
            node.input[:] = exchange_names(
                list(node.input), f"cells.0.input_gate.{parameter}", f"cells.0.forget_gate.{parameter}"
            )


def bias_zeroed(model: onnx.ModelProto) -> None:
    name = "cells.0.forget_gate.b"
    set_values(model, name, np.zeros_like(values(model, name)))


def recurrent_transposed(model: onnx.ModelProto) -> None:
    for initializer in list(model.graph.initializer):
        if initializer.name.endswith(".R"):
            set_values(model, initializer.name, values(model, initializer.name).T)


def computed_at_run_time(model: onnx.ModelProto) -> None:
    name = "cells.0.cell_candidate.R"
    set_values(model, name, values(model, name).T)
    for node in body(model).node:
        node.input[:] = ["transposed" if each == name else each for each in node.input]
    model.graph.node.insert(0, helper.make_node("Transpose", [name], ["transposed"], name="transpose_R", perm=[1, 0]))


def other_mean(model: onnx.ModelProto) -> None:
    set_values(model, "input_mean", values(model, "input_mean").astype(np.float32) + 1)


# ---- what is done to LSTM operators ----


def lstm(model: onnx.ModelProto, layer: int = 0) -> onnx.NodeProto:
    return maker(model, f"cells.{layer}.Y")


def packed_as_torch_does(model: onnx.ModelProto) -> None:
    """W, R and B of every layer hold the gates as ifgo, not as iofg."""
    for initializer in list(model.graph.initializer):
        if ".lstm." in initializer.name:
            array = values(model, initializer.name)
            i, o, f, g, *rest = np.split(array, array.shape[1] // lstm(model).attribute[0].i, axis=1)
            set_values(model, initializer.name, np.concatenate([i, f, g, o, *rest], axis=1))


def attribute(**attributes: object) -> Mutation:
    def mutate(model: onnx.ModelProto) -> None:
        node = lstm(model)
        node.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())

    return mutate


def without_input(position: int) -> Mutation:
    def mutate(model: onnx.ModelProto) -> None:
        lstm(model).input[position] = ""

    return mutate


def peepholes(model: onnx.ModelProto) -> None:
    hidden = lstm(model).attribute[0].i
    model.graph.initializer.append(numpy_helper.from_array(np.ones((1, 3 * hidden), np.float32), "peepholes"))
    lstm(model).input.append("peepholes")


# ---- what is done to the spec ----


def spec(edit: Callable[[pb.ModelSpec], object]) -> Mutation:
    return lambda model: edit_spec(model, edit)


def paired_wrongly(model: onnx.ModelProto) -> None:
    """The spec has each state come back as the other."""

    def edit(spec: pb.ModelSpec) -> None:
        hidden, cell = spec.states
        hidden.output, cell.output = cell.output, hidden.output

    edit_spec(model, edit)
