"""What hostile clients do, against real servers with a watched neighbour: `python -m tests.hostile`."""
