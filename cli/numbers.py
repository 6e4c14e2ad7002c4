"""Numbers that commands take. Each has a range with two ends: NaN, infinity and slips of the pen are refused."""

import math
from typing import Any

import click


class Number(click.FloatRange):
    """A number within a range, which NaN is not."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """As click's, whose comparisons NaN passes."""
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{number} is no number; expected one from {self.min:g} to {self.max:g}", param, ctx)
        return number


SECONDS = Number(0, 1e6, min_open=True)
"""How long to wait."""

SEED = click.IntRange(0, 2**64 - 1)
"""What torch takes."""

THREADS = click.IntRange(1, 1024)
"""Many more end in a segmentation fault of the OpenMP library."""
