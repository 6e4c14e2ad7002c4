"""README.md keeps its word: what it tells a reader to run is run here, in its order.

The `docker` lines are run by tests/containers; what `make` does is run by the tests of what each target calls.
"""

import os
import re
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.process import serving
from tests.support.readme import ADDRESS, README, blocks, commands
from tests.support.reference import ROOT
from tests.support.strangers import layers

BIN = Path(sys.executable).parent
WHEELS = Path(sys.prefix) / "wheels"
PACKAGES = Path(__file__).with_name("readme-packages.txt")


def run(arguments: list[str], folder: Path) -> str:
    done = subprocess.run(
        arguments,
        cwd=folder,
        # What `make install` has fetched, and nothing from the network.
        env=os.environ
        | {"PATH": f"{BIN}:{os.environ['PATH']}", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(WHEELS)}
        | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, f"{arguments} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_it_opens_with_three_sentences_and_two_commands() -> None:
    opening, _, _ = README.partition("```")
    title, text = opening.strip().split("\n", 1)
    assert title == "# gatestream"
    assert len(re.findall(r"\.\s", f"{text.strip()} ")) == 3
    assert blocks()[0].commands == ["make demo", "make test"]


@pytest.mark.timeout(600)  # the model may have to be trained first
def test_the_tour(reference: Path, tmp_path: Path) -> None:
    """Everything but `make` and `docker`, against servers started as the README says.

    From a finished checkpoint, and with a file of torch's LSTM for the reader's own.
    """
    folder = tmp_path / "artifacts"
    folder.mkdir()
    shutil.copy(reference / "reber.safetensors", folder)
    layers.lstm_absent(folder).path.rename(folder / "theirs.onnx")
    ran = 0
    with ExitStack() as stack:
        servers: dict[str, str] = {}

        def here(code: str) -> str:
            """With the addresses that the servers really have: a client comes behind its server."""
            return ADDRESS.sub(lambda found: servers[found[0]], code)

        for block in blocks():
            if block.language == "python":
                print(run([sys.executable, "-c", here(block.code)], tmp_path))
                ran += 1
            for command in block.commands:
                program, *arguments = command.split()
                if program in ("make", "docker"):
                    continue
                if program == ".":
                    assert arguments == [".venv/bin/activate"]
                elif command.startswith("gatestream serve"):
                    _, file, listen, address = arguments
                    assert listen == "--listen"
                    servers[address] = stack.enter_context(serving(tmp_path / file)).address
                else:
                    print(run(["bash", "-euo", "pipefail", "-c", here(command)], tmp_path))
                    ran += 1
    assert ran >= 12
    assert (tmp_path / "cell.svg").read_text().rstrip().endswith("</svg>")
    assert (tmp_path / "report.json").exists()


def test_what_it_installs_is_what_was_fetched_beforehand() -> None:
    named = re.findall(r"pip install .*?(\S+==\S+)", README)
    assert named == [line for line in PACKAGES.read_text().splitlines() if not line.startswith("#")]


@pytest.mark.parametrize("command", commands("make"))
def test_a_make_target_is_there(command: str) -> None:
    run([*command.split(), "--dry-run", "--silent"], ROOT)


@pytest.mark.parametrize("target", re.findall(r"`make ([a-z-]+)`", README))
def test_a_make_target_of_the_text_is_there(target: str) -> None:
    run(["make", target, "--dry-run", "--silent"], ROOT)


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http)([^)]+)\)", README))
def test_a_link_leads_somewhere(link: str) -> None:
    assert (ROOT / link).exists()
