"""What some commands need beyond a plain install."""

from collections.abc import Iterator
from contextlib import contextmanager

import click


@contextmanager
def needing(doing: str, install: str) -> Iterator[None]:
    """Imports for which more has to be installed, and if it is not: what.

    Args:
        doing: what needs them.
        install: what to tell pip.

    Raises:
        ClickException: one of another project's modules is not there.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "gatestream":
            raise
        raise click.ClickException(
            f"{doing} needs {error.name}, which is not installed: pip install {install}"
        ) from error


SERVING = "'gatestream[cpu]', or 'gatestream[cuda]' for an NVIDIA GPU"
ADOPTING = "'gatestream[cpu,adopt]'"
EXPORTING = "'gatestream[cpu,train]'"
TRAINING = "'gatestream[train]'"
