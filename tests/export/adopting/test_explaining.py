from pathlib import Path

import numpy as np
import pytest

from gatestream.export.adopting.dataflow import pairs
from gatestream.export.adopting.explaining import explain
from gatestream.export.adopting.expose import expose
from gatestream.export.adopting.reading import read
from tests.export.adopting import graphs
from tests.export.adopting.stepping import start
from tests.export.adopting.test_refusals import REFUSED, SERVED, X

# What cannot be said to be at a node: it does not run in halves, or the whole graph runs backwards.
WITHOUT = {"bidirectional", "backwards", "frozen by Reshape", "unrolled"}
FIRST = {name: case.said[0].split("'")[-1] for name, case in REFUSED.items() if name not in WITHOUT}


@pytest.mark.parametrize("name", FIRST)
def test_the_first_node_whose_steps_differ_is_named(name: str, tmp_path: Path) -> None:
    model = read(graphs.saved(REFUSED[name].make(), tmp_path))
    states = [*pairs(model), *expose(model)]
    found = explain(model, states, {"x": X} | start(states, 2), {"x": 2})
    assert found is not None
    assert found.node.name == FIRST[name]
    assert "\n" not in str(found)
    assert f"'{found.tensor}'" in str(found)
    assert "'rnn.h'" in str(found)


@pytest.mark.parametrize("name", SERVED)
def test_nothing_is_named_where_steps_add_up(name: str, tmp_path: Path) -> None:
    model = read(graphs.saved(SERVED[name](), tmp_path))
    states = [*pairs(model), *expose(model)]
    for pair in states:
        pair.batch_axis = 0 if pair.input.name == "cache" else pair.batch_axis
    if name != "a window of any length":  # which is one step, however long
        assert explain(model, states, {"x": X} | start(states, 2), {"x": 2}) is None


def test_a_state_that_is_not_carried_is_found(tmp_path: Path) -> None:
    model = read(graphs.saved(graphs.plain("LSTM"), tmp_path))
    h, c = expose(model)
    x = np.moveaxis(X, 2, 0)
    feed = {"x": x} | start([h, c], 2)
    found = explain(model, [h], feed, {"x": 0})
    assert found is not None
    assert (found.node.name, found.axis, found.step) == ("rnn", 0, 6)
    assert explain(model, [h, c], feed, {"x": 0}) is None
