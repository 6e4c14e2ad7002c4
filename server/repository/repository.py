"""The models of one process: those of a folder that are served, what became of the others, and the changes to both."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog

from gatestream.server.backend.artifact import Artifact
from gatestream.server.config import ServerConfig
from gatestream.server.core.catalog import Catalog, Model, ModelState
from gatestream.server.core.migration import migrate, obstacle
from gatestream.server.core.model_control import ModelStatus
from gatestream.server.errors import Draining, ModelsFixed, NotFound, NotLoaded, Reason, ServerError, cut
from gatestream.server.loader import Loader
from gatestream.server.repository.adopting import Adopting
from gatestream.server.repository.folder import Folder, Place, Seen

_LONGEST: Final = 1000

_log = structlog.get_logger(__name__)

Key = tuple[str, str]
"""Name and version."""

Spawn = Callable[[Coroutine[Any, Any, None]], object]


@dataclass(slots=True)
class _Entry:
    """What is known of a version of a model in the folder.

    Attributes:
        model: that is served, or was last.
        error: why the latest load failed; empty: it did not.
        loading: it is being loaded.
        served: the files, as `model` was made from them.
    """

    model: Model | None = None
    error: str = ""
    loading: bool = False
    served: Seen | None = None

    @property
    def live(self) -> Model | None:
        """What is served of it and takes sessions."""
        return self.model if self.model is not None and self.model.state is ModelState.READY else None


class Repository:
    """The models of one process; its `ModelControl`, where it is the only one.

    Args:
        config: of the server.
        catalog: that models are found in.
        loader: that loads and retires them.
        adopting: makes artifacts of other files.
        spawn: begins a task that lives as long as the server.

    Raises:
        ConfigError: there is no such folder.
    """

    def __init__(self, config: ServerConfig, catalog: Catalog, loader: Loader, adopting: Adopting | None, spawn: Spawn):
        self._folder = None if config.models is None else Folder(config.models)
        self._root = Path() if self._folder is None else self._folder.root
        self._config = config
        self._catalog = catalog
        self._loader = loader
        self._adopting = adopting
        self._spawn = spawn
        self._entries: dict[Key, _Entry] = {}
        # The files, as nobody need look at them again.
        self._seen: dict[Key, Seen] = {}
        # One at a time: what a load takes of memory and of the CPU is bounded so.
        self._one = asyncio.Lock()
        # Called when a version is loaded, and when it is unloaded, with the threads of its runs.
        self.changed: Callable[[Key, bool, int], None] = lambda _key, _loaded, _threads: None
        # Called when `failures` are others.
        self.failing: Callable[[Sequence[str]], None] = lambda _lines: None

    # ---- At the start -------------------------------------------------------------------------

    async def begin(self, wanted: Iterable[Key] | None = None) -> None:
        """Load what is to be served from the start. What cannot be is logged, and listed.

        Args:
            wanted: what to load; None: of each model the newest version that can be served, or as its configuration
                says.
        """
        self._seen = await asyncio.to_thread(self._look)
        if wanted is not None:
            for key in wanted:
                await self._try(*key)
            return
        for name in [] if self._folder is None else await asyncio.to_thread(self._folder.names):
            await self._begin_with(name)

    async def _begin_with(self, name: str) -> None:
        assert self._folder is not None, "it has names"
        try:
            versions = await asyncio.to_thread(self._folder.versions, name)
        except NotFound:
            # A link that leaves the folder, or what has gone since.
            return
        try:
            config = await asyncio.to_thread(self._folder.config, name)
        except ServerError as error:
            for version in versions:
                self._failed((name, version), error)
            return
        newest, most = config.wanted(versions)
        loaded = 0
        for version in newest:
            if loaded < most:
                loaded += await self._try(name, version)

    async def _try(self, name: str, version: str) -> bool:
        """Load a version; whether it could be."""
        try:
            async with self._one:
                await self._load(name, version)
        except ServerError:
            return False
        return True

    @property
    def loaded(self) -> list[Key]:
        """What is served of the folder."""
        return [key for key, entry in self._entries.items() if entry.live is not None]

    @property
    def failures(self) -> list[str]:
        """What cannot be served, a line for each."""
        return [f"{name}/{version}: {entry.error}" for (name, version), entry in self._entries.items() if entry.error]

    # ---- What is asked ------------------------------------------------------------------------

    async def statuses(self) -> list[ModelStatus]:
        """As `ModelControl`."""
        found = [self._status(model) for model in self._catalog]
        served = {(status.name, status.version) for status in found}
        there = await asyncio.to_thread(self._there)
        for key in sorted(there | self._entries.keys()):
            entry = self._entries.get(key, _Entry())
            if entry.loading and entry.live is None:
                found.append(ModelStatus(*key, ModelState.LOADING))
            elif key not in served and (key in there or entry.error):
                state = ModelState.FAILED if entry.error else ModelState.UNLOADED
                found.append(ModelStatus(*key, state, entry.error))
        return in_order(found)

    async def load(self, name: str, version: str = "", *, migrate: bool = False) -> tuple[ModelStatus, int]:
        """As `ModelControl`."""
        model = await self.load_model(name, version)
        moved = await self.migrate(name, after=model.version) if migrate else 0
        return self._status(model), moved

    async def load_model(self, name: str, version: str = "", threads: int | None = None) -> Model:
        """As `load`.

        Args:
            name: of the model.
            version: of it; empty: the newest that there is.
            threads: of a run, where another worker has measured already.
        """
        if self._folder is None:
            raise ModelsFixed(f"cannot load {cut(name)!r}: the server has no folder of models (--models)")
        if self._catalog.draining:
            raise Draining("the server is about to stop, and loads no models")
        if not version:
            versions = await asyncio.to_thread(self._folder.versions, name)
            if not versions:
                raise NotFound(f"model {cut(name)!r} has no version under --models", Reason.MODEL_UNKNOWN)
            version = versions[-1]
        async with self._one:
            try:
                return await self._load(name, version, threads)
            except NotFound:
                raise
            except ServerError as error:
                why = self._entries[name, version].error
                raise NotLoaded(f"version {version} of model {name!r} was not loaded: {why}") from error

    async def unload(self, name: str, version: str = "", seconds: float | None = None) -> list[ModelStatus]:
        """As `ModelControl`."""
        keys = [key for key in self._entries if key[0] == name and version in ("", key[1])]
        found = [(key, entry) for key in keys if (entry := self._entries[key]).model is not None or entry.error]
        if not found:
            which = f"version {cut(version)!r} of model" if version else "model"
            raise NotFound(f"no {which} {cut(name)!r} of --models is loaded", Reason.MODEL_UNKNOWN)
        statuses = []
        for key, entry in found:
            self._note(entry, "")
            model = entry.model
            if model is None or model.state is ModelState.UNLOADED:
                statuses.append(ModelStatus(*key, ModelState.UNLOADED))
                continue
            await self._retire(model, self._config.unload_seconds if seconds is None else seconds)
            self.changed(key, False, 0)
            statuses.append(self._status(model))
        return statuses

    async def migrate(self, name: str, before: str = "", after: str = "") -> int:
        """As `ModelControl`."""
        # Nobody moves them back meanwhile, and nothing takes the place of what they are moved to.
        async with self._one:
            target = self._catalog.find(name, after)
            moved = 0
            for model in self._fitting(target, before):
                moved += await migrate(model, target)
        _log.info("sessions moved", model=target.name, to=target.version, sessions=moved)
        return moved

    def _fitting(self, target: Model, before: str) -> list[Model]:
        """The versions whose sessions can be moved to one of the same model.

        Args:
            target: that one.
            before: the version that is asked for; empty: any.

        Raises:
            NotFound: there is no such version.
            NotLoaded: none fits.
        """
        where = f"version {target.version!r} of model {target.name!r}"
        if target.state is not ModelState.READY:
            raise NotLoaded(f"{where} takes no sessions: it is {target.state.value}")
        others = [model for model in self._catalog.versions(target.name) if model is not target]
        if before:
            others = [model for model in others if model.version == before]
            if not others and before != target.version:
                # There is none, and this says so.
                self._catalog.find(target.name, before)
        obstacles = {model: obstacle(model.layout, target.layout) for model in others}
        fitting = [model for model, why in obstacles.items() if not why]
        if not fitting:
            for model, why in obstacles.items():
                if before or model.engine.sessions.taken:
                    raise NotLoaded(f"sessions of version {model.version!r} mean nothing to {where}: {why}")
        return fitting

    # ---- When files change --------------------------------------------------------------------

    async def watch(self) -> None:
        """Load what has come or changed in the folder, and unload what has gone, until cancelled."""
        before: dict[Key, Seen] = {}
        while True:
            await asyncio.sleep(self._config.watch_models)
            now = await asyncio.to_thread(self._look)
            for key, seen in now.items():
                # Of a file that is being written, the end is waited for.
                if seen == before.get(key) and seen != self._seen.get(key):
                    self._seen[key] = seen
                    await self._try(*key)
            # Gone for two looks: not just being replaced.
            for key in self._entries.keys() - now.keys() - before.keys():
                self._seen.pop(key, None)
                entry = self._entries[key]
                if entry.live is not None:
                    await self._retire(entry.live, self._config.unload_seconds)
                    self.changed(key, False, 0)
                elif entry.model is None or entry.model.state is ModelState.UNLOADED:
                    self._note(entry, "")
                    del self._entries[key]
            before = now

    def _look(self) -> dict[Key, Seen]:
        return {} if self._folder is None else {key: self._folder.seen(*key) for key in self._there()}

    def _there(self) -> set[Key]:
        folder = self._folder
        if folder is None:
            return set()
        found = set()
        for name in folder.names():
            try:
                found |= {(name, version) for version in folder.versions(name)}
            except NotFound:
                continue
        return found

    # ---- One version --------------------------------------------------------------------------

    async def _load(self, name: str, version: str, threads: int | None = None) -> Model:
        key = name, version
        entry = self._entries.get(key, _Entry())
        live = entry.live
        try:
            place = await asyncio.to_thread(self._place, key)
            self._entries[key] = entry
            if live is not None and entry.served == place.seen:
                return live
            entry.loading = True
            model = await self._serve(place, threads, again=entry.model is not None)
        except NotFound:
            raise
        except ServerError as error:
            self._failed(key, error)
            raise
        except Exception as error:
            # Whatever is wrong with a file, others are served on.
            _log.exception("loading failed", model=name, version=version)
            fault = NotLoaded(f"{type(error).__name__}: {cut(str(error))}")
            self._failed(key, fault)
            raise fault from error
        finally:
            entry.loading = False
        entry.model, entry.served = model, place.seen
        self._note(entry, "")
        if live is not None:
            await self._retire(live, self._config.unload_seconds)
        self.changed(key, True, model.measured.threads)
        return model

    def _place(self, key: Key) -> Place:
        assert self._folder is not None, "it is asked for what is in it"
        return self._folder.place(*key)

    async def _serve(self, place: Place, threads: int | None, *, again: bool) -> Model:
        if place.config.ignored:
            _log.warning(
                "fields of a config.pbtxt that mean nothing here", model=place.name, fields=place.config.ignored
            )
        path = place.path if self._adopting is None else await self._adopting.artifact(place)
        artifact = await asyncio.to_thread(Artifact.load, path)
        artifact = await asyncio.to_thread(place.config.applied, artifact)
        artifact = artifact.served_as(place.name, place.version)
        return await self._loader.serve(artifact, threads, again=again, most_rows=place.config.message.max_batch_size)

    def _failed(self, key: Key, error: ServerError) -> None:
        entry = self._entries.setdefault(key, _Entry())
        # Where the folder lies is nobody's business who sees what is in it.
        text = str(error).replace(f"{self._root}/", "")
        self._note(entry, cut(" ".join(text.split()), _LONGEST))
        _log.error("a model cannot be served", model=key[0], version=key[1], error=entry.error)

    def _note(self, entry: _Entry, error: str) -> None:
        """Note why an entry could not be loaded; empty: it could be, or nobody asks for it any more."""
        if entry.error != error:
            entry.error = error
            self.failing(self.failures)

    async def _retire(self, model: Model, seconds: float) -> None:
        """Have a model take no more sessions, and its end begun."""

        async def retire() -> None:
            try:
                await self._loader.retire(model, seconds)
            except Exception:
                _log.exception("unloading failed", model=model.name, version=model.version)

        self._spawn(retire())
        await asyncio.sleep(0)

    def _status(self, model: Model) -> ModelStatus:
        entry = self._entries.get((model.name, model.version))
        error = entry.error if entry is not None and entry.model is model else ""
        return ModelStatus(
            model.name,
            model.version,
            model.state,
            error,
            len(model.engine.sessions),
            model.layout.fingerprint,
            model.spec.form,
        )


def in_order(statuses: Iterable[ModelStatus]) -> list[ModelStatus]:
    """By name and version; versions that are numbers as such."""
    return sorted(
        statuses,
        key=lambda each: (each.name, each.version.isdecimal(), len(each.version), each.version, each.state.value),
    )
