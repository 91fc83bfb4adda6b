"""The journal in an SQL database: a SQLite file by default, any database SQLAlchemy knows where controllers share one.

Rule: rows are only ever added to `events`; each carries the epoch of the lease under which it was written, and the
lease is checked in the same transaction.
"""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sql
import sqlalchemy.event as sql_event
import sqlalchemy.exc
from cattrs import Converter
from cattrs.strategies import configure_tagged_union
from sqlalchemy.engine import Connection

from migrator.core.vocabulary import Event, MigrationRequest
from migrator.ports.journal import Entry, LeaseLost, NoPlace
from migrator.wire.messages import Reply

LEASE_S = 20.0
TRIES = 5
NOT_SERIALIZABLE = "40001"
"""SQLSTATE of a transaction that would not have been the same one after the other."""
_TABLES = sql.MetaData()
_MIGRATIONS = sql.Table(
    "migrations",
    _TABLES,
    sql.Column("migration", sql.String(64), primary_key=True),
    sql.Column("ve", sql.String(64), nullable=False, index=True),
    sql.Column("source", sql.String(64), nullable=False),
    sql.Column("target", sql.String(64), nullable=False),
    sql.Column("request", sql.Text, nullable=False),
    sql.Column("began_unix_s", sql.Float, nullable=False, index=True),
    sql.Column("ended", sql.String(32), nullable=False, default=""),
    sql.Column("holder", sql.String(128), nullable=False),
    sql.Column("epoch", sql.Integer, nullable=False),
    sql.Column("leased_until_unix_s", sql.Float, nullable=False),
)
_EVENTS = sql.Table(
    "events",
    _TABLES,
    sql.Column("migration", sql.String(64), sql.ForeignKey("migrations.migration"), primary_key=True),
    sql.Column("number", sql.Integer, primary_key=True),
    sql.Column("epoch", sql.Integer, nullable=False),
    sql.Column("at_unix_s", sql.Float, nullable=False),
    sql.Column("kind", sql.String(32), nullable=False),
    sql.Column("body", sql.Text, nullable=False),
)

_WISHES = sql.Table(
    "wishes",
    _TABLES,
    sql.Column("migration", sql.String(64), primary_key=True),
    sql.Column("who", sql.String(128), nullable=False),
    sql.Column("at_unix_s", sql.Float, primary_key=True),
)


def _converter() -> Converter:
    converter = Converter()
    converter.register_unstructure_hook(bytes, lambda value: base64.b64encode(value).decode())
    converter.register_structure_hook(bytes, lambda value, _: base64.b64decode(value))
    configure_tagged_union(Reply, converter, tag_name="type")
    configure_tagged_union(Event, converter, tag_name="event")
    return converter


_PLAIN = _converter()
_EVENT: Any = Event


def to_plain(value: Any, kind: Any = None) -> Any:
    """Any value of the story as plain dicts, lists and scalars, fit for JSON."""
    return _PLAIN.unstructure(value, kind)


class JournalError(Exception):
    """There can be no journal at this place."""


def without_password(where: str) -> str:
    """A journal's place as it may be shown: a database URL's password is hidden."""
    try:
        return sql.make_url(where).render_as_string(hide_password=True) if "://" in where else where
    except sqlalchemy.exc.ArgumentError:
        return "(no database URL)"


class SqlJournal:
    """See `migrator.ports.journal.Journal`."""

    def __init__(self, url: str) -> None:
        """`url` as SQLAlchemy writes it. Makes the tables if they are not there. Raises JournalError."""
        try:
            self._engine = sql.create_engine(url)
        except ModuleNotFoundError as error:
            raise JournalError(f"that kind of database needs the Python package {error.name}") from error
        if self._engine.dialect.name == "sqlite":
            sql_event.listen(self._engine, "connect", _careful_sqlite)
        self._make_tables()

    @classmethod
    def at(cls, path: Path) -> "SqlJournal":
        """A SQLite file. Raises JournalError."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise JournalError(f"{error.filename}: {error.strerror}") from error
        return cls(f"sqlite:///{path}")

    def _make_tables(self) -> None:
        """Several controllers may be the first at once: who comes second finds the tables there when it looks again."""
        for left in reversed(range(TRIES)):
            try:
                _TABLES.create_all(self._engine)
                return
            except sqlalchemy.exc.DatabaseError:
                if not left:
                    raise

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()

    # --- the lease -------------------------------------------------------------------------------

    def begin(
        self, request: MigrationRequest, now_unix_s: float, holder: str, most: Mapping[str, int] | None = None
    ) -> int:
        """A new migration, leased; counted among the others in the same transaction."""
        row = {
            "migration": request.migration,
            "ve": request.ve,
            "source": request.source,
            "target": request.target,
            "request": json.dumps(to_plain(request)),
            "began_unix_s": now_unix_s,
            "ended": "",
            "holder": holder,
            "epoch": 1,
            "leased_until_unix_s": now_unix_s + LEASE_S,
        }
        limits = {host: limit for host, limit in (most or {}).items() if host in (request.source, request.target)}
        for left in reversed(range(TRIES)):
            try:
                self._enter(row, limits, now_unix_s)
                break
            except sqlalchemy.exc.DBAPIError as error:
                if getattr(error.orig, "sqlstate", "") != NOT_SERIALIZABLE or not left:
                    raise
        return 1

    def _enter(self, row: Mapping[str, object], limits: Mapping[str, int], now_unix_s: float) -> None:
        """A new row, if its hosts have a place; the count holds although others begin in the same moment."""
        with self._engine.connect().execution_options(isolation_level="SERIALIZABLE") as connection, connection.begin():
            connection.execute(_MIGRATIONS.insert().values(row))  # SQLite: nobody else writes from here on
            for host, limit in limits.items():
                if self._driven(connection, host, now_unix_s) > limit:
                    raise NoPlace(host, limit)

    @staticmethod
    def _driven(connection: Connection, host: str, now_unix_s: float) -> int:
        """How many migrations of a host are driven by somebody."""
        here = sql.or_(_MIGRATIONS.c.source == host, _MIGRATIONS.c.target == host)
        held = sql.and_(_MIGRATIONS.c.ended == "", _MIGRATIONS.c.leased_until_unix_s > now_unix_s)
        return int(connection.scalar(sql.select(sql.func.count()).where(here, held)) or 0)

    def lease(self, migration: str, now_unix_s: float, holder: str) -> int:
        """Take it over, if nobody holds it. Raises KeyError for one that there is not."""
        with self._engine.begin() as connection:
            taken = connection.execute(
                _MIGRATIONS.update()
                .where(_MIGRATIONS.c.migration == migration, _MIGRATIONS.c.leased_until_unix_s <= now_unix_s)
                .values(holder=holder, epoch=_MIGRATIONS.c.epoch + 1, leased_until_unix_s=now_unix_s + LEASE_S)
            )
            row = self._row(connection, migration)
            if not taken.rowcount:
                raise LeaseLost(migration, row.holder)
            return int(row.epoch)

    def renew(self, migration: str, epoch: int, now_unix_s: float) -> None:
        """Longer."""
        with self._held(migration, epoch) as connection:
            self._set(connection, migration, leased_until_unix_s=now_unix_s + LEASE_S)

    def give_up(self, migration: str, epoch: int) -> None:
        """Let it go; nothing happens if it is another's by now."""
        with self._engine.begin() as connection:
            connection.execute(
                _MIGRATIONS.update()
                .where(_MIGRATIONS.c.migration == migration, _MIGRATIONS.c.epoch == epoch)
                .values(leased_until_unix_s=0.0)
            )

    # --- the story -------------------------------------------------------------------------------

    def append(self, migration: str, epoch: int, event: Event, now_unix_s: float) -> None:
        """One more event."""
        with self._held(migration, epoch) as connection:
            last = connection.scalar(sql.select(sql.func.max(_EVENTS.c.number)).where(_EVENTS.c.migration == migration))
            connection.execute(
                _EVENTS.insert().values(
                    migration=migration,
                    number=(last or 0) + 1,
                    epoch=epoch,
                    at_unix_s=now_unix_s,
                    kind=type(event).__name__,
                    body=json.dumps(to_plain(event, Event)),
                )
            )
            self._set(connection, migration, leased_until_unix_s=now_unix_s + LEASE_S)

    def end(self, migration: str, epoch: int, phase: str) -> None:
        """The end."""
        with self._held(migration, epoch) as connection:
            self._set(connection, migration, ended=phase, leased_until_unix_s=0.0)

    def wish(self, migration: str, who: str, now_unix_s: float) -> None:
        """Abort it, please."""
        with self._engine.begin() as connection:
            connection.execute(_WISHES.insert().values(migration=migration, who=who, at_unix_s=now_unix_s))

    def wished(self, migration: str) -> str:
        """The last who did."""
        query = sql.select(_WISHES.c.who).where(_WISHES.c.migration == migration).order_by(_WISHES.c.at_unix_s.desc())
        with self._engine.connect() as connection:
            return str(connection.scalar(query.limit(1)) or "")

    # --- reading ---------------------------------------------------------------------------------

    def read(self, migration: str) -> Entry | None:
        """By its id."""
        found = self._entries(_MIGRATIONS.c.migration == migration, limit=1)
        return found[0] if found else None

    def unfinished(self) -> Sequence[Entry]:
        """Oldest first."""
        return self._entries(_MIGRATIONS.c.ended == "", limit=10_000)[::-1]

    def history(self, limit: int, ve: str = "") -> Sequence[Entry]:
        """Newest first."""
        return self._entries(_MIGRATIONS.c.ve == ve if ve else sql.true(), limit=limit)

    def _entries(self, which: Any, limit: int) -> list[Entry]:
        with self._engine.connect() as connection:
            query = sql.select(_MIGRATIONS).where(which).order_by(_MIGRATIONS.c.began_unix_s.desc()).limit(limit)
            return [self._entry(connection, row) for row in connection.execute(query).all()]

    def _entry(self, connection: Connection, row: Any) -> Entry:
        query = sql.select(_EVENTS.c.body).where(_EVENTS.c.migration == row.migration).order_by(_EVENTS.c.number)
        events = tuple(_PLAIN.structure(json.loads(body), _EVENT) for (body,) in connection.execute(query))
        request = _PLAIN.structure(json.loads(row.request), MigrationRequest)
        return Entry(request, row.began_unix_s, events, row.ended, row.holder, row.leased_until_unix_s)

    # --- steps -----------------------------------------------------------------------------------

    @contextmanager
    def _held(self, migration: str, epoch: int) -> Iterator[Connection]:
        """A transaction that only whoever holds the lease gets through."""
        with self._engine.begin() as connection:
            held = connection.execute(
                _MIGRATIONS.update()
                .where(_MIGRATIONS.c.migration == migration, _MIGRATIONS.c.epoch == epoch)
                .values(epoch=epoch)
            )
            if not held.rowcount:
                raise LeaseLost(migration, self._row(connection, migration).holder)
            yield connection

    @staticmethod
    def _row(connection: Connection, migration: str) -> Any:
        row = connection.execute(sql.select(_MIGRATIONS).where(_MIGRATIONS.c.migration == migration)).one_or_none()
        if row is None:
            raise KeyError(migration)
        return row

    @staticmethod
    def _set(connection: Connection, migration: str, **values: object) -> None:
        connection.execute(_MIGRATIONS.update().where(_MIGRATIONS.c.migration == migration).values(**values))


def _careful_sqlite(connection: Any, _: object) -> None:
    """Durable at each commit, and several controllers may wait for each other."""
    for pragma in ("busy_timeout=15000", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")
