"""Environments that have what a wheel asks for, and nothing else."""

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Sequence
from email.parser import Parser
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.reference import ROOT
from tests.support.wire import PATIENCE


def build(folder: Path) -> Path:
    """The wheel of this tree, made in a folder of its own from a copy: what was made here before is not looked at."""
    source = folder / "source"
    source.mkdir()
    # With no network: what it is built with is installed.
    links = [link.readlink().name for link in (ROOT / ".src" / "gatestream").iterdir() if link.is_symlink()]
    for name in (".src", "pyproject.toml", "README.md", *links):
        subprocess.run(["cp", "-a", ROOT / name, source], check=True)
    pip("wheel", "--quiet", "--no-deps", "--no-build-isolation", f"--wheel-dir={folder}", str(source))
    (wheel,) = folder.glob("*.whl")
    return wheel


def pip(*arguments: str) -> None:
    """Run it, with no package index to ask."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments],
        env=environment | {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"pip {arguments} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"


class Environment:
    """A virtual environment with a wheel, and links to those of the tests' own distributions that it asks for.

    Args:
        folder: where it is made.
        wheel: installed in it.
        extras: of the wheel.
    """

    def __init__(self, folder: Path, wheel: Path, extras: Iterable[str] = ()) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        self.bin = folder / "bin"
        pip(f"--python={self.bin / 'python'}", "install", "--quiet", "--no-deps", str(wheel))
        (site,) = folder.glob("lib/python*/site-packages")
        with zipfile.ZipFile(wheel) as archive:
            (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
            asked = Parser().parsestr(archive.read(metadata).decode())
        self._asked: set[tuple[str, frozenset[str]]] = set()
        self._add(site, str(asked["Name"]), asked.get_all("Requires-Dist", []), frozenset(extras))

    @property
    def distributions(self) -> set[str]:
        """What it has, beside the wheel."""
        return {name for name, _ in self._asked} - {"gatestream"}

    def _add(self, site: Path, name: str, asked: Sequence[str], extras: frozenset[str]) -> None:
        if (name, extras) in self._asked:
            return
        self._asked.add((name, extras))
        for requirement in map(Requirement, asked):
            marker = requirement.marker
            if marker is not None and not any(marker.evaluate({"extra": extra}) for extra in extras or {""}):
                continue
            if canonicalize_name(requirement.name) == name:  # an extra of its own
                self._add(site, name, asked, frozenset(requirement.extras))
                continue
            found = distribution(requirement.name)
            assert requirement.specifier.contains(found.version), f"{requirement}: {found.version} is installed"
            known = canonicalize_name(requirement.name)
            if known not in self.distributions:
                _link(found, site)
            self._add(site, known, found.requires or [], frozenset(requirement.extras))

    def run(self, program: str, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
        """Run one of its programs, elsewhere than in the source tree."""
        return subprocess.run(
            [self.bin / program, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=PATIENCE
        )

    def python(self, code: str, cwd: Path) -> str:
        """What it prints; it must end with 0."""
        # Warnings are errors, and what the tests' own environment says is not asked.
        done = self.run("python", "-W", "error", "-I", "-c", code, cwd=cwd)
        assert done.returncode == 0, done.stderr
        return done.stdout


def _link(found: Distribution, site: Path) -> None:
    files = [file for file in found.files or [] if file.parts[0] != ".."]  # but for its programs
    # Of a folder that several share, as google is, each links its own files.
    packages = {file.parts[0] for file in files if len(file.parts) == 2 and file.name == "__init__.py"}
    for name in {file.parts[0] if file.parts[0] in packages else str(file) for file in files}:
        there = site / name
        there.parent.mkdir(parents=True, exist_ok=True)
        there.symlink_to(Path(str(found.locate_file(name))).resolve())
