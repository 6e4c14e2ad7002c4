"""Which models are served by the several workers of one server: what is asked of one is done by all."""

from collections.abc import Iterable, Mapping
from dataclasses import astuple, replace
from typing import Final

from gatestream.server.core.catalog import ModelState
from gatestream.server.core.model_control import ModelStatus
from gatestream.server.errors import NotLoaded, ServerError
from gatestream.server.process.link import Command, Reply, Worker
from gatestream.server.repository.repository import Repository, in_order

# Of several workers' states the first one of these counts.
_WORST_FIRST: Final = (
    ModelState.FAILED,
    ModelState.LOADING,
    ModelState.DRAINING,
    ModelState.UNLOADED,
    ModelState.READY,
)


class SharedControl:
    """The `ModelControl` of a server with several workers, as one of them has it.

    Args:
        own: the models of this worker.
        worker: this one's side of the link.
    """

    def __init__(self, own: Repository, worker: Worker):
        self._own = own
        self._worker = worker
        worker.do = self._do

    async def statuses(self) -> list[ModelStatus]:
        """As `ModelControl`."""
        replies = await self._worker.ask(Command("statuses"))
        others = {number: _statuses(reply) for number, reply in replies.items()}
        return merged({self._worker.number: await self._own.statuses(), **others})

    async def load(self, name: str, version: str = "", *, migrate: bool = False) -> tuple[ModelStatus, int]:
        """As `ModelControl`: here first, so that what cannot be served is tried once."""
        model = await self._own.load_model(name, version)
        version = model.version
        replies = await self._worker.ask(Command("load", name, version, threads=model.measured.threads))
        _check(replies, f"version {version} of model {name!r} was loaded here, and not everywhere")
        moved = await self.migrate(name, after=version) if migrate else 0
        statuses = [each for each in await self.statuses() if (each.name, each.version) == (name, version)]
        return next(each for each in statuses if each.state is ModelState.READY), moved

    async def unload(self, name: str, version: str = "", seconds: float | None = None) -> list[ModelStatus]:
        """As `ModelControl`."""
        own = await self._own.unload(name, version, seconds)
        replies = await self._worker.ask(Command("unload", name, version, seconds=seconds))
        return merged({self._worker.number: own, **{number: _statuses(reply) for number, reply in replies.items()}})

    async def migrate(self, name: str, before: str = "", after: str = "") -> int:
        """As `ModelControl`."""
        moved = await self._own.migrate(name, before, after)
        replies = await self._worker.ask(Command("migrate", name, after, before))
        _check(replies, f"sessions of model {name!r} were moved here, and not everywhere")
        return moved + sum(reply.count for reply in replies.values())

    async def _do(self, command: Command) -> Reply:
        """Do what was asked of another worker."""
        own = self._own
        try:
            match command.kind:
                case "statuses":
                    return _reply(await own.statuses())
                case "load":
                    await own.load_model(command.name, command.version, command.threads)
                case "unload":
                    return _reply(await own.unload(command.name, command.version, command.seconds))
                case "migrate":
                    return Reply(count=await own.migrate(command.name, command.before, command.version))
        except ServerError as error:
            return Reply(error=str(error))
        return Reply()


def merged(by_worker: Mapping[int, Iterable[ModelStatus]]) -> list[ModelStatus]:
    """What all workers say together: of each version the state that most is to be done about, and all sessions.

    Args:
        by_worker: what each says, by its number.
    """
    found: dict[tuple[str, str, bool], dict[int, ModelStatus]] = {}
    for worker, statuses in by_worker.items():
        for status in statuses:
            # One that is being replaced is listed beside the one that replaces it.
            key = status.name, status.version, status.state is ModelState.DRAINING
            there = found.setdefault(key, {})
            there[worker] = (
                replace(status, sessions=status.sessions + there[worker].sessions) if worker in there else status
            )
    return in_order(_together(each) for each in found.values())


def _together(by_worker: Mapping[int, ModelStatus]) -> ModelStatus:
    worst = min(by_worker.values(), key=lambda each: _WORST_FIRST.index(each.state))
    errors = {worker: each.error for worker, each in by_worker.items() if each.error}
    everywhere = len(errors) == len(by_worker) and len(set(errors.values())) == 1
    return replace(
        worst,
        error=worst.error if everywhere else "; ".join(f"worker {k}: {errors[k]}" for k in sorted(errors)),
        sessions=sum(each.sessions for each in by_worker.values()),
    )


def _check(replies: Mapping[int, Reply], what: str) -> None:
    errors = [f"worker {number}: {reply.error}" for number, reply in sorted(replies.items()) if reply.error]
    if errors:
        raise NotLoaded(f"{what}: {'; '.join(errors)}")


def _reply(statuses: Iterable[ModelStatus]) -> Reply:
    return Reply(statuses=tuple(astuple(each) for each in statuses))


def _statuses(reply: Reply) -> list[ModelStatus]:
    return [ModelStatus(*values) for values in reply.statuses]
