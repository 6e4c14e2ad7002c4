import re
from collections.abc import Iterator

import pytest

from gatestream.client import errors
from gatestream.client.errors import GatestreamError, from_reason
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb


def tree(root: type[Exception]) -> Iterator[type[Exception]]:
    yield root
    for child in root.__subclasses__():
        yield from tree(child)


@pytest.mark.parametrize("reason", pb.Reason.values(), ids=pb.Reason.Name)
def test_every_reason_has_a_class_of_its_own(reason: pb.Reason) -> None:
    error = from_reason(reason, "why", retry_after=0.25)
    name = pb.Reason.Name(reason).removeprefix("REASON_").title().replace("_", "")
    assert type(error).__name__ == ("RefusedError" if reason == pb.REASON_UNSPECIFIED else f"{name}Error")
    assert error.reason == reason
    assert str(error).startswith("why")
    assert getattr(error, "retry_after", 0.25) == 0.25


def test_a_reason_of_a_later_server_is_said() -> None:
    error = from_reason(999, "why")  # type: ignore[arg-type]
    assert type(error) is errors.RefusedError
    assert str(error) == "why (reason 999)"


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn = re.findall(r"^([│ ├└─]*)(\w+Error)\b", errors.__doc__ or "", re.MULTILINE)
    parents: list[str] = []
    found = {}
    for indent, name in drawn:
        depth = len(indent) // 4
        parents[depth:] = [name]
        found[name] = parents[depth - 1] if depth else "Exception"
    expected = {
        kind.__name__: next(base.__name__ for base in kind.__mro__[1:] if issubclass(base, Exception))
        for kind in tree(GatestreamError)
    }
    assert found == expected


def test_builtin_kinds() -> None:
    assert issubclass(errors.DeadlineExceededError, TimeoutError)
    assert issubclass(errors.InputError, ValueError)
