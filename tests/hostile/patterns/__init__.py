"""Every pattern, by what it is sent through; importing this puts all of them on the list."""

from tests.hostile.patterns import connections, control, logs, open_inference, own_wire, races, tenants
from tests.hostile.target import PATTERNS

__all__ = ["PATTERNS", "connections", "control", "logs", "open_inference", "own_wire", "races", "tenants"]
