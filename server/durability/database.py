"""The file of a SQLite store: made, opened, checked, and opened again when it was damaged or replaced."""

import os
import sqlite3
from pathlib import Path
from typing import Final, Literal
from urllib.parse import quote

from gatestream.server.durability.presence import Presence

Synchronous = Literal["NORMAL", "FULL"]

# "gstr": no other program's file is taken for ours.
_APPLICATION: Final = 0x67737472
_VERSION: Final = 2
# Seconds to wait for another process' transaction.
_PATIENCE: Final = 5.0
_WAL_BYTES: Final = 64 * 2**20

SLOTS: Final = ("checkpoints_zero", "checkpoints_one")
"""Tables of checkpoints. A session's have its id; `zero` and `one` of `sessions` say at which sequence they are, null
that there is none, as there is none of a closed session. The state that a write leaves in its place is so never copied,
and the pages of sessions that are written together hold nothing else."""

_CHECKPOINTS: Final = """
create table {}(
  id integer primary key, sequence integer not null, position integer not null, checksum integer not null,
  state blob not null
);
"""
_SCHEMA: Final = (
    "".join(map(_CHECKPOINTS.format, SLOTS))
    + """
create table owners(id integer primary key autoincrement, name text not null unique, beat real not null);
create table meanings(
  id integer primary key, fingerprint text not null, states text not null, version text not null,
  unique(fingerprint, states, version)
);
create table sessions(
  id integer primary key autoincrement, tenant text not null, model text not null, name text not null,
  epoch integer not null, owner integer not null, wanted integer not null, meaning integer not null,
  written real not null, live integer not null, bytes integer not null, zero integer, one integer,
  unique(tenant, model, name)
);
create index owned on sessions(owner) where owner != 0;
create index wanted on sessions(owner) where wanted = 1;
create index parked on sessions(written) where owner = 0 and live = 1;
create index closed on sessions(written) where live = 0;
create table tenants(tenant text primary key, sessions integer not null, bytes integer not null) without rowid;
create trigger came after insert on sessions when new.live begin
  insert into tenants values (new.tenant, 1, new.bytes)
    on conflict do update set sessions = sessions + 1, bytes = bytes + excluded.bytes;
end;
create trigger changed after update of live, bytes on sessions when (old.live, old.bytes) != (new.live, new.bytes) begin
  insert into tenants values (new.tenant, new.live - old.live, new.bytes - old.bytes)
    on conflict do update set sessions = sessions + excluded.sessions, bytes = bytes + excluded.bytes;
  delete from tenants where tenant = new.tenant and sessions = 0;
end;
create trigger went after delete on sessions when old.live begin
  update tenants set sessions = sessions - 1, bytes = bytes - old.bytes where tenant = old.tenant;
  delete from tenants where tenant = old.tenant and sessions = 0;
end;
"""
)
# What a transaction is about, read once from JSON; `target` is the slot that a checkpoint gets.
_ASKED: Final = """
create temp table asked(
  k integer primary key, id integer, epoch integer, sequence integer, position integer, acknowledged integer,
  checksum integer, only_one integer, target integer
)
"""

_REMOVED: Final = "it was removed: put it back, or start the server again for a new one"


class Unusable(Exception):
    """The file cannot be used now; the message says why, for the log."""


class Database:
    """A SQLite file that several processes of one machine share. For one thread.

    Args:
        path: of the file.
        create: make it where it is not there.
        synchronous: NORMAL: a power cut may take the latest commits; FULL: none.
    """

    def __init__(self, path: Path, create: bool, synchronous: Synchronous):
        self.path = path
        self._create = create
        self._was_there = False
        self._synchronous = synchronous
        self._open: tuple[sqlite3.Connection, Presence, tuple[int, int]] | None = None

    def use(self) -> tuple[sqlite3.Connection, Presence]:
        """The open file, and who of its owners is present.

        Raises:
            Unusable: it was removed, or is none of ours.
            sqlite3.Error, OSError: it cannot be read.
        """
        if self._open is not None:
            _, _, inode = self._open
            try:
                same = _inode(self.path) == inode
            except FileNotFoundError:
                raise Unusable(_REMOVED) from None
            if not same:
                self.close()
        if self._open is None:
            self._open = self._opened()
        return self._open[0], self._open[1]

    def abandon(self, keep: bool) -> None:
        """Give a transaction up.

        Args:
            keep: the file is well; else it is opened again when it is next used, and may be mended by then.
        """
        if self._open is not None and keep:
            if self._open[0].in_transaction:
                self._open[0].execute("rollback")
        else:
            self.close()

    def close(self) -> None:
        """Close it, if it is open."""
        if self._open is not None:
            connection, presence, _ = self._open
            self._open = None
            presence.close()
            connection.close()

    def _opened(self) -> tuple[sqlite3.Connection, Presence, tuple[int, int]]:
        if self._was_there and not self.path.exists():
            raise Unusable(_REMOVED)
        uri = f"file:{quote(str(self.path.absolute()))}?mode={'rwc' if self._create else 'rw'}"
        connection = sqlite3.connect(uri, _PATIENCE, isolation_level=None, check_same_thread=False, uri=True)
        # Of a damaged name something is read, and it is no session's.
        connection.text_factory = lambda text: text.decode("utf-8", "replace")
        try:
            self._prepare(connection)
            inode = _inode(self.path)
            presence = Presence(self.path.with_name(self.path.name + "-owners"))
        except BaseException:
            connection.close()
            raise
        # It is not made again: whoever removed it is told.
        self._create, self._was_there = False, True
        return connection, presence, inode

    def _prepare(self, connection: sqlite3.Connection) -> None:
        [mode] = connection.execute("pragma journal_mode = wal").fetchone()
        if mode != "wal":
            raise Unusable(f"its folder takes no write-ahead log (journal mode {mode}): is it on a network?")
        connection.execute(f"pragma synchronous = {self._synchronous}")
        connection.execute("pragma temp_store = memory")
        connection.execute("pragma wal_autocheckpoint = 8000")
        connection.execute(f"pragma journal_size_limit = {_WAL_BYTES}")
        connection.execute("begin immediate")
        try:
            [application] = connection.execute("pragma application_id").fetchone()
            [version] = connection.execute("pragma user_version").fetchone()
            [tables] = connection.execute("select count(*) from sqlite_schema").fetchone()
            if not tables and not application:
                for statement in _statements(_SCHEMA):
                    connection.execute(statement)
                connection.execute(f"pragma application_id = {_APPLICATION}")
                connection.execute(f"pragma user_version = {_VERSION}")
            elif application != _APPLICATION:
                raise Unusable("it is a SQLite database, and none of gatestream's sessions")
            elif version != _VERSION:
                raise Unusable(f"it has version {version} of the format; expected {_VERSION}")
            connection.execute("commit")
        finally:
            if connection.in_transaction:
                connection.execute("rollback")
        connection.execute(_ASKED)


def _inode(path: Path) -> tuple[int, int]:
    found = os.stat(path)  # noqa: PTH116 (for each transaction: a Path's takes twice as long)
    return found.st_dev, found.st_ino


def _statements(script: str) -> list[str]:
    found, rest = [], ""
    for part in script.split(";"):
        rest += f"{part};"
        if sqlite3.complete_statement(rest):
            found.append(rest)
            rest = ""
    return found
