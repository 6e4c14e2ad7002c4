"""`python -m benchmarks.tables`: how long a table takes to read, and how much memory, each in a process of its own."""

import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

BYTES = 30_000_000
# Seconds and MB that a plain table of `BYTES` may take.
BOUNDS = (1.0, 200.0)


def _rows(row: Callable[[random.Random], str]) -> str:
    source = random.Random(1)
    block = "".join(row(source) for _ in range(2_000))
    return block * (BYTES // len(block) + 1)


def _plain(source: random.Random) -> str:
    return (
        f"{source.uniform(-100, 100):.4f},{source.random():.5f},{source.randrange(10_000)},{source.gauss(0, 1):.6f}\n"
    )


def _german(source: random.Random) -> str:
    return _plain(source).replace(",", ";").replace(".", ",")


def _dated(source: random.Random) -> str:
    return f"2024-01-{source.randrange(1, 29):02} 10:00,{_plain(source)}"


def _quoted(source: random.Random) -> str:
    return f'"a note, in quotes",{_plain(source)}'


KINDS: dict[str, tuple[str, Callable[[random.Random], str]]] = {
    "four columns of numbers": ("a,b,c,d\n", _plain),
    "semicolons and decimal commas": ("a;b;c;d\n", _german),
    "a column of dates before them": ("at,a,b,c,d\n", _dated),
    "a column of quoted text before them": ("note,a,b,c,d\n", _quoted),
}


def _measure(path: Path) -> None:
    from gatestream.cli.rows.options import TableOptions
    from gatestream.cli.rows.table import read_table

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, cpu = time.perf_counter(), time.process_time()
    table = read_table(path, TableOptions())
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"{len(table.values):>9,} rows {wall:6.2f} s {cpu:6.2f} s CPU {more:6.0f} MB more")


def main() -> None:
    """Make the files, and have each read."""
    print(
        f"files of {BYTES / 1e6:.0f} MB; a table of numbers is to take less than {BOUNDS[0]:g} s and {BOUNDS[1]:g} MB"
    )
    with tempfile.TemporaryDirectory() as folder:
        for name, (header, row) in KINDS.items():
            path = Path(folder, "table.csv")
            path.write_text(header + _rows(row))
            print(f"{name:<37}", end="", flush=True)
            subprocess.run([sys.executable, "-m", "benchmarks.tables", str(path)], check=True)


if __name__ == "__main__":
    _measure(Path(sys.argv[1])) if len(sys.argv) > 1 else main()
