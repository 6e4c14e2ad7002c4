from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from gatestream.export.exporter import Form, export
from gatestream.export.report import Report
from tests.export import networks

Exported = Callable[[str, Form], tuple[Path, Report]]


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Export a network of `networks.ALL`, by name and form; each is exported once."""
    folder = tmp_path_factory.mktemp("exported")

    @cache
    def once(name: str, form: Form) -> tuple[Path, Report]:
        path = folder / f"{name}-{form}.onnx"
        return path, export(networks.random(networks.ALL[name]), path, form)

    return once
