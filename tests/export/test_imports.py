"""What reads an artifact does without torch, and without the exporter."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import gatestream.export

FOLDER = Path(gatestream.export.__path__[0])
MODULES = {
    ".".join(path.relative_to(FOLDER).with_suffix("").parts) for path in FOLDER.rglob("*.py") if path.stem != "__init__"
}
TORCH_HALF = {"exporter", *(module for module in MODULES if module.startswith("sources."))}
FOLDING = {"graph.folding", "rewriting.convolutions", *(f"adopting.{name}" for name in ("reading", "told", "adopt"))}
EXPORTER_HALF = TORCH_HALF | {"graph.passes", *FOLDING}


def python(code: str) -> set[str]:
    """The modules that are loaded after `code`, in an interpreter of its own."""
    code += "\nimport sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    return set(done.stdout.splitlines()[-1].split())


def test_reading_imports_no_torch() -> None:
    assert EXPORTER_HALF < MODULES
    loaded = python("\n".join(f"import gatestream.export.{module}" for module in sorted(MODULES - EXPORTER_HALF)))
    assert not loaded & {"torch", "onnxscript", "safetensors", "onnxruntime"}


@pytest.mark.parametrize("module", sorted(EXPORTER_HALF - TORCH_HALF))
def test_what_folds_constants_imports_no_torch(module: str) -> None:
    assert "torch" not in python(f"import gatestream.export.{module}")


@pytest.mark.parametrize("module", sorted(TORCH_HALF))
def test_the_torch_half_is_as_small_as_it_is_said_to_be(module: str) -> None:
    # Itself, or by another of them.
    assert re.search(
        r"^(import torch|from torch|from gatestream\.export\.sources)\b",
        (FOLDER / f"{module.replace('.', '/')}.py").read_text(),
        re.MULTILINE,
    )


def test_the_map_names_every_module() -> None:
    words = {word.strip("(`),;.:") for word in (gatestream.export.__doc__ or "").split()}
    assert not MODULES - words
