"""The Python code in the repository is what the .proto files make."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROTOS = sorted((ROOT / "protos").rglob("*.proto"))


@pytest.mark.parametrize("proto", PROTOS, ids=lambda path: path.name)
def test_the_committed_code_is_what_the_proto_makes(proto: Path, tmp_path: Path) -> None:
    kinds = ("python_out", "pyi_out", "grpc_python_out", "mypy_grpc_out")
    subprocess.run(
        [
            *(sys.executable, "-m", "grpc_tools.protoc", "-Igatestream/protos=protos"),
            *(f"--{kind}={tmp_path}" for kind in kinds),
            str(proto.relative_to(ROOT)),
        ],
        check=True,
        cwd=ROOT,
        # The plugin for types stands beside the interpreter.
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
    )
    made = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(made) == len(kinds)
    for path in made:
        committed = ROOT / "protos" / path.relative_to(tmp_path / "gatestream" / "protos")
        assert committed.read_text() == path.read_text(), f"{committed} is stale: make protos"
