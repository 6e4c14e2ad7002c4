"""What the server has, from its answer to Describe, and what to ask when opening a session of it."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal

from gatestream.client.columns import Constants, Layout, array_of, layout_of
from gatestream.client.errors import InputError, ModelError, ModelUnknownError
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.layout import Column, ModelLayout

OpenMode = Literal["either", "create", "resume"]
"""Take up the session if it is there, else make it; only make it; only take it up."""

_MODES: dict[OpenMode, pb.OpenMode] = {
    "either": pb.OPEN_MODE_EITHER,
    "create": pb.OPEN_MODE_CREATE,
    "resume": pb.OPEN_MODE_RESUME,
}


class Specs(dict[str, pb.ModelSpec]):
    """The specs of models by name; printed, a line for each model: what it takes, gives and carries."""

    def __repr__(self) -> str:
        return "\n".join(map(_line, self.values())) or "no models"


class Models:
    """The models that a server has."""

    def __init__(self, described: pb.DescribeResponse) -> None:
        self.specs = Specs()
        self._versions: dict[tuple[str, str], pb.ModelSpec] = {}
        self._layouts: dict[tuple[str, bool, bool], Layout] = {}
        self.learn(described)

    def learn(self, described: pb.DescribeResponse) -> None:
        """Know what the server has now. What is known of versions that it has no more is kept."""
        self.limits = described.limits
        # Of the versions of a model the last one is that which new sessions go to.
        self.specs = Specs({served.spec.name: served.spec for served in described.models})
        for served in described.models:
            spec = served.spec
            if self._versions.get((spec.name, spec.version)) != spec:
                self._versions[spec.name, spec.version] = spec
                # It may be another file than before.
                self._layouts = {key: each for key, each in self._layouts.items() if each.key != _key(spec)}

    def find(self, name: str, version: str = "") -> pb.ModelSpec:
        """The spec of a model (no name: the only one) in a version (none: the one that new sessions go to).

        Raises:
            ModelUnknownError: no such model or version, or no name where there are several.
        """
        spec = self._find(name)
        if not version:
            return spec
        if (found := self._versions.get((spec.name, version))) is None:
            there = ", ".join(f"'{each}'" for model, each in self._versions if model == spec.name)
            raise ModelUnknownError(f"the server has no version '{version}' of model '{spec.name}'; it has {there}")
        return found

    def of_state(self, name: str, fingerprint: str, fits: Callable[[ModelLayout], bool]) -> pb.ModelSpec | None:
        """The spec of a version of a model that a state is of; None: of none that is known.

        Args:
            name: of the model.
            fingerprint: of the weights that made the state.
            fits: whether it is one of a model of these columns.
        """
        versions = [spec for (model, _), spec in self._versions.items() if model == name]
        same = (each for each in versions if each.weights_fingerprint == fingerprint and fits(layout_of(each)))
        return next(same, None)

    def _find(self, name: str) -> pb.ModelSpec:
        known = ", ".join(f"'{each}'" for each in self.specs)
        if name:
            if name not in self.specs:
                raise ModelUnknownError(f"the server has no model '{name}'; it has {known}")
            return self.specs[name]
        if len(self.specs) != 1:
            raise ModelUnknownError(f"the server has {len(self.specs)} models; name one of {known}")
        return next(iter(self.specs.values()))

    def layout(self, spec: pb.ModelSpec, *, outputs: bool, gates: bool) -> Layout:
        """The columns of a session: one object for all sessions with the same."""
        key = (_key(spec), outputs, gates)
        if key not in self._layouts:
            self._layouts[key] = Layout(spec, outputs=outputs, gates=gates)
        return self._layouts[key]


def opens(
    spec: pb.ModelSpec,
    ids: Sequence[str],
    mode: OpenMode,
    *,
    outputs: bool,
    gates: bool,
    version: str = "",
    constants: Constants | None = None,
) -> list[pb.Open]:
    """A request for each session.

    Args:
        spec: of the model.
        ids: of the sessions.
        mode: of all of them.
        outputs: they are to come back.
        gates: so are they.
        version: of the model; empty: the server's choice.
        constants: of all sessions alike, or [sessions, ...] with one for each.

    Raises:
        InputError: no session, no such mode, or a constant that does not fit the model.
    """
    if mode not in _MODES:
        raise InputError(f"mode: {mode!r} came; 'either', 'create' or 'resume' was expected")
    for each in ids:
        if not isinstance(each, str):
            raise InputError(f"id: {each!r} came; a string was expected")
    if not ids:
        raise InputError("a group of no sessions was asked for; one or more were expected")
    wanted = pb.OUTPUTS_EVERY_STEP if outputs else pb.OUTPUTS_NONE
    requests = [
        pb.Open(session_id=each, model=spec.name, version=version, mode=_MODES[mode], outputs=wanted, gates=gates)
        for each in ids
    ]
    if constants:
        _add(constants, spec, requests)
    return requests


def unlike(versions: set[str], name: str) -> ModelError:
    """Why a group cannot step together: its members were opened on several versions of a model."""
    return ModelError(
        f"sessions of one group were opened on versions {', '.join(sorted(versions))} of '{name}'; name a version, or "
        "make a group for each"
    )


def _line(spec: pb.ModelSpec) -> str:
    layout = layout_of(spec)
    columns: dict[str, Sequence[Column]] = {
        "takes": layout.inputs,
        "is given once": layout.constants,
        "carries": [each for each in layout.states if not each.constant],
        "gives": layout.outputs,
        "shows": layout.gates,
    }
    said = [f"{what} {', '.join(map(_column, some))}" for what, some in columns.items() if some]
    return f"{spec.name} {spec.version}: {'; '.join(said)}"


def _column(column: Column) -> str:
    return f"{column.name} {column.dtype.name}{list(column.shape)}"


def _key(spec: pb.ModelSpec) -> str:
    return f"{spec.name}\0{spec.version}"


def _add(constants: Constants, spec: pb.ModelSpec, requests: Sequence[pb.Open]) -> None:
    known = {each.name: each for each in layout_of(spec).constants}
    for name, value in constants.items():
        if name not in known:
            has = ", ".join(f"'{each}'" for each in known) or "none"
            raise InputError(f"constant '{name}' of '{spec.name}' came; it has {has}")
        said = f"constant '{name}' of '{spec.name}'"
        array = array_of(said, known[name], value, sessions=len(requests))
        rows = array if array.shape != known[name].shape else [array] * len(requests)
        for request, row in zip(requests, rows, strict=True):
            request.constant.add(name=name, value=row.tobytes())


def member_ids(sessions: int | Sequence[str]) -> Sequence[str]:
    """The ids of a group's members: empty, for the server to make, where only their number is given.

    Raises:
        InputError: one is there twice, or it is one id.
    """
    if isinstance(sessions, int):
        return [""] * sessions
    if isinstance(sessions, str):
        raise InputError(f"sessions: {sessions!r} came; how many, or a list of ids, was expected")
    if twice := [each for each, count in Counter(sessions).items() if each and count > 1]:
        raise InputError(f"sessions: {twice[0]!r} came more than once; each member is a session of its own")
    return sessions
