"""Modules of every kind of state: exported, their numbers those of torch; and all of them served at once."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from gatestream.client import Client, connect
from tests.models.modules import OWN_MODULES, OwnModule
from tests.models.own import made
from tests.support.process import serving

pytestmark = pytest.mark.slow

ROWS, STEPS = 3, 12


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By class."""
    folder = tmp_path_factory.mktemp("own")
    paths = {module.cls.__name__: folder / f"{module.cls.__name__}.onnx" for module in OWN_MODULES}
    for module in OWN_MODULES:
        module.export(paths[module.cls.__name__])
    return paths


@pytest.fixture(scope="module")
def gs(artifacts: dict[str, Path]) -> Iterator[Client]:
    with serving(*artifacts.values()) as server, connect(server.address) as client:
        yield client


@pytest.mark.parametrize("module", OWN_MODULES, ids=lambda module: module.cls.__name__)
def test_its_file_gives_the_numbers_of_torch(module: OwnModule, artifacts: dict[str, Path]) -> None:
    found = module.differences(artifacts[module.cls.__name__])
    assert {case: off for case, off in found.items() if off > module.cls.TOLERANCE} == {}


@pytest.mark.parametrize("module", OWN_MODULES, ids=lambda module: module.cls.__name__)
def test_it_is_served_step_by_step_in_chunks_and_beside_others(module: OwnModule, gs: Client) -> None:
    """Each row a session: the first in single steps, the others in chunks, of one and of another length."""
    cls = module.cls
    inputs, constants = cls.sample(ROWS, STEPS)
    wanted = made(cls).whole(inputs, constants).double().numpy()
    names = [port.partition(":")[0] for port in cls.INPUTS]
    xs = [{name: x[row].numpy() for name, x in zip(names, inputs, strict=True)} for row in range(ROWS)]
    sessions = [
        gs.session(
            cls.__name__,
            constants={n.partition(":")[0]: c[row].numpy() for n, c in zip(cls.CONSTANTS, constants, strict=True)},
        )
        for row in range(ROWS)
    ]
    for row, cuts in enumerate((range(STEPS + 1), (0, 5, 6, STEPS), (0, 1, STEPS))):
        with sessions[row] as session:
            found = []
            for begin, end in pairwise(cuts):
                part = {name: x[begin:end] for name, x in xs[row].items()}
                found.append(session.run(part if len(names) > 1 else part[names[0]]))
        np.testing.assert_allclose(np.concatenate(found), wanted[row], rtol=0, atol=cls.TOLERANCE)
