"""The trainer's database: SQLite by default, PostgreSQL by URL; opened at the newest schema.

Owns connections, transactions and what a database that is away looks like (`DatabaseUnavailable`). Does not own the
tables (`schema`). All calls block; services make them in threads.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError
from sqlalchemy import Connection, Engine, create_engine, event, func, make_url, select, text
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session, sessionmaker

from trainer_service.core.errors import DatabaseUnavailable, InvalidDatabase

_MIGRATION_LOCK = 4703241  # any number that nobody else takes in this database
_POSTGRES: dict[str, Any] = {
    "connect_timeout": 5,
    # A server that vanished behind a network must become an error: a lease runs meanwhile.
    "tcp_user_timeout": 10_000,
    # idle_in_transaction: a service that freezes between two statements would hold its locks for ever, and with them the
    # others' queue and the jobs that they should take over. Shorter than the wait for a lock: who waits for it gets it.
    "options": "-c statement_timeout=20000 -c lock_timeout=10000 -c idle_in_transaction_session_timeout=5000 "
    "-c timezone=utc",
}


class Database:
    """A migrated database.

    Attributes:
        shared: several services may work on it at once; SQLite's file belongs to one.
    """

    def __init__(self, engine: Engine) -> None:
        """Takes over an engine; see `open_database`."""
        self._engine, self._sessions = engine, sessionmaker(engine)
        self.shared = engine.dialect.name != "sqlite"

    @contextmanager
    def begin(self) -> Iterator[Session]:
        """Opens a transaction; it is committed at the end of the block, and undone by any exception.

        Raises:
            DatabaseUnavailable: it does not answer, is full, or was locked for too long.
        """
        with _translated(), self._sessions.begin() as session:
            yield session

    def now(self, session: Session) -> datetime:
        """Returns the database's own time, naive UTC: the one clock that services on several machines have in common."""
        if not self.shared:
            return datetime.now(UTC).replace(tzinfo=None)
        at = session.execute(select(func.clock_timestamp())).scalar_one()
        assert isinstance(at, datetime)
        return at.astimezone(UTC).replace(tzinfo=None)

    def close(self) -> None:
        """Ends all connections."""
        self._engine.dispose()


def open_database(url: str) -> Database:
    """Connects and migrates.

    Args:
        url: `sqlite:///path` or `postgresql://user:password@host/name`.

    Raises:
        InvalidDatabase: the URL is none of these, or a newer version has worked on it.
        DatabaseUnavailable: it does not answer.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise InvalidDatabase("the database's URL is malformed; use postgresql://user:password@host/name") from None
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() == "sqlite":
        engine = create_engine(parsed)
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    elif parsed.drivername == "postgresql+psycopg":
        # pre_ping: after a restart of the server every pooled connection is dead.
        engine = create_engine(
            parsed, pool_pre_ping=True, pool_size=10, max_overflow=20, pool_timeout=10, connect_args=_POSTGRES
        )
    else:
        raise InvalidDatabase(f"{parsed.drivername} is not supported; use sqlite or postgresql")
    try:
        with _translated():
            migrate(engine)
    except CommandError as error:
        engine.dispose()
        raise InvalidDatabase(
            f"the jobs' database is of a newer version of Graftwork than this trainer ({error}): start that version, or "
            "restore the database from before the upgrade"
        ) from None
    return Database(engine)


def migrate(engine: Engine, revision: str = "head") -> None:
    """Brings the schema to a revision, in one transaction; of several services that start at once, one does."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (DBAPIError, PoolTimeout) as error:
        # A connection that the server ended, as those of a service that froze, comes under several names.
        if isinstance(error, DBAPIError) and not (
            error.connection_invalidated or isinstance(error, OperationalError | InterfaceError)
        ):
            raise
        # The driver's own words: SQLAlchemy's carry the statement and its values, a tenant's data.
        cause = str(getattr(error, "orig", None) or error).strip().split("\n")[0][:200]
        if "disk is full" in cause or "No space left" in cause:
            raise DatabaseUnavailable(
                "the disk of the jobs' database is full: free space there; jobs go on by themselves"
            ) from error
        raise DatabaseUnavailable(f"the jobs' database does not answer: {cause}") from error


def _prepare_sqlite(connection: Any, _: Any) -> None:
    # The driver's own BEGIN comes at the first write; a transaction that read before would then fail with "locked".
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=10000"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    # IMMEDIATE: takes the write lock now, which is what SELECT ... FOR UPDATE does elsewhere.
    connection.exec_driver_sql("BEGIN IMMEDIATE")
