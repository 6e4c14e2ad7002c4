"""How a contender that is a server tells the harness where it listens."""

import sys


def announce(port: int) -> None:
    """One line on standard output, which the harness waits for."""
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
