"""The SQLite file behind a project: its layout, its versions, and opening one that may be anything at all.

A file is refused before the first byte of it is changed. One connection holds the file exclusively, so that a
second window or program gets a sentence and not a race; the lock goes away with the process, however it ends.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from app.project.errors import ProjectError, explain

APPLICATION_ID = 0x514D5331
"""``QMS1``, in the file's header: says that a SQLite file is a project of ours."""
SCHEMA_VERSION = 1

_TABLES = {
    "meta": "key TEXT PRIMARY KEY, value TEXT NOT NULL",
    "video": """id INTEGER PRIMARY KEY CHECK (id = 1), path TEXT NOT NULL, relative_path TEXT,
        width INTEGER NOT NULL, height INTEGER NOT NULL, fps REAL NOT NULL,
        frame_count INTEGER NOT NULL, size_bytes INTEGER NOT NULL,
        fingerprint TEXT NOT NULL, timestamps BLOB""",
    "classes": "class_id INTEGER PRIMARY KEY, name TEXT NOT NULL, color TEXT NOT NULL",
    "objects": """object_id INTEGER PRIMARY KEY, name TEXT NOT NULL, class_id INTEGER, color TEXT NOT NULL,
        visible INTEGER NOT NULL, locked INTEGER NOT NULL, z_order INTEGER NOT NULL""",
    "prompts": """object_id INTEGER NOT NULL, frame INTEGER NOT NULL, data TEXT NOT NULL, mask BLOB,
        PRIMARY KEY (object_id, frame)""",
    "masks": """object_id INTEGER NOT NULL, frame INTEGER NOT NULL, counts BLOB NOT NULL,
        area INTEGER NOT NULL, score REAL NOT NULL, presence REAL NOT NULL,
        source INTEGER NOT NULL, reviewed INTEGER NOT NULL,
        PRIMARY KEY (object_id, frame)""",
}
_INDEXES = {"masks_by_frame": "masks (frame)"}

Migration = Callable[[sqlite3.Connection], None]
MIGRATIONS: Mapping[int, Migration] = {}
"""From version N to N + 1; runs inside one transaction."""

_MAX_VALUE_BYTES = 256 << 20
_HEADER = struct.Struct(">16s44xI4xI28x")


def build(path: Path, fill: Callable[[sqlite3.Connection], None]) -> None:
    """Write a new project file at ``path``, which appears complete or not at all.

    Raises:
        ProjectError: the file exists, or its folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.new")
    try:
        if path.exists():
            raise ProjectError(f"“{path.name}” exists already.")
        temporary.unlink(missing_ok=True)
        connection = sqlite3.connect(temporary, isolation_level=None)
        try:
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute("BEGIN IMMEDIATE")
            for name, columns in _TABLES.items():
                connection.execute(f"CREATE TABLE {name} ({columns})")
            for name, target in _INDEXES.items():
                connection.execute(f"CREATE INDEX {name} ON {target}")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            fill(connection)
            connection.execute("COMMIT")
        finally:
            connection.close()
        temporary.rename(path)
    except (sqlite3.Error, OSError) as error:
        with suppress(OSError):
            temporary.unlink()
        raise explain(error, path) from error


def connect(path: Path, read_only: bool = False) -> sqlite3.Connection:
    """Open an existing project file, bring it to the current version and hold it exclusively.

    Args:
        path: the project file.
        read_only: refuse every write; also works on media that cannot be written.

    Raises:
        ProjectError: it is not a project, newer than this program, damaged, or open elsewhere.
    """
    version = _check_header(path)
    connection: sqlite3.Connection | None = None
    try:
        connection = _open(path, read_only)
        _check_content(connection, path)
        if version < SCHEMA_VERSION and not read_only:
            migrate(connection, version, SCHEMA_VERSION, MIGRATIONS)
    except (sqlite3.Error, OSError) as error:
        if connection is not None:
            connection.close()
        raise explain(error, path) from error
    except BaseException:
        if connection is not None:
            connection.close()
        raise
    return connection


def migrate(
    connection: sqlite3.Connection, version: int, target: int, migrations: Mapping[int, Migration]
) -> None:
    """Bring a file from ``version`` to ``target`` in one transaction: it arrives there or stays as it was."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        for step in range(version, target):
            migrations[step](connection)
        connection.execute(f"PRAGMA user_version = {target}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite has already rolled back when, for one, the disk was full
            connection.execute("ROLLBACK")
        raise
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _check_header(path: Path) -> int:
    """The schema version, read from the file's first bytes without SQLite."""
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER.size)
    except FileNotFoundError as error:
        raise ProjectError(f"There is no project “{path.name}” in “{path.parent}”.") from error
    except OSError as error:
        raise explain(error, path) from error
    if len(header) < _HEADER.size:
        raise ProjectError(f"“{path.name}” is not a project of this program.")
    magic, version, application = _HEADER.unpack(header)
    if magic != b"SQLite format 3\0" or application != APPLICATION_ID:
        raise ProjectError(f"“{path.name}” is not a project of this program.")
    if version > SCHEMA_VERSION:
        raise ProjectError(f"“{path.name}” was made by a newer version of this program.")
    if version < 1:
        raise ProjectError(f"“{path.name}” is damaged.")
    return int(version)


def _open(path: Path, read_only: bool) -> sqlite3.Connection:
    uri = path.resolve().as_uri()
    if read_only and not _may_write(path):
        if path.with_name(path.name + "-wal").exists():
            raise ProjectError(
                f"“{path.name}” was not closed properly and has to be opened once where it can be written."
            )
        connection = sqlite3.connect(
            f"{uri}?mode=ro&immutable=1", uri=True, isolation_level=None, check_same_thread=False
        )
        _harden(connection)
        return connection
    connection = sqlite3.connect(
        f"{uri}?mode=rw", uri=True, isolation_level=None, check_same_thread=False, timeout=0
    )
    try:
        _harden(connection)
        # Exclusive before the first read: SQLite then keeps the WAL's index in its own memory (no -shm file,
        # safe on network drives) and nobody else gets in.
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if read_only:
            connection.execute("PRAGMA query_only = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def _harden(connection: sqlite3.Connection) -> None:
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MAX_VALUE_BYTES)
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")
    connection.execute("PRAGMA mmap_size = 0")


def prepare_writing(connection: sqlite3.Connection) -> None:
    """Switch to write-ahead logging, every commit on the disk before it returns."""
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA journal_size_limit = {16 << 20}")


def _check_content(connection: sqlite3.Connection, path: Path) -> None:
    expected = {("table", name) for name in _TABLES} | {("index", name) for name in _INDEXES}
    found = {
        (str(kind), str(name))
        for kind, name in connection.execute("SELECT type, name FROM sqlite_master LIMIT 1000")
        if not (kind == "index" and str(name).startswith("sqlite_autoindex_"))
    }
    # Nothing but our tables: a trigger or view in a file from elsewhere would run with our rights.
    if found != expected:
        raise ProjectError(f"“{path.name}” is damaged.")
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise ProjectError(f"“{path.name}” is damaged.")


def _may_write(path: Path) -> bool:
    probe = path.with_name(f".{path.name}.probe")
    try:
        with path.open("r+b"):
            pass
        probe.touch()
        probe.unlink()
    except OSError:
        return False
    return True
