"""The tables, as SQLAlchemy Core sees them. Migrations make them; a test holds the two together.

- `lead` has one row: who leads, and the counters that a turn moves. Its lock makes turns serial.
- `journal` is append-only: one line per event, `seq` without gaps.
- `jobs`, `requests`, `allocations`, `nodes`, `projects` are the state's rows. JSON bodies are made
  by `core.codec`; the columns beside them are there to be searched. A request is in a
  table of its own, so that no update writes it again; an allocation's `fixed` part is at least
  not encoded again.
- `holdings` says which member holds which device; `devices` is their sum, kept by triggers and
  checked by the database, so that no device can be promised twice whatever the code does.
- `tokens` holds digests only, and what their holders may do.
"""

import sqlalchemy as sa

SCHEMA = "0003"  # the newest migration's revision

metadata = sa.MetaData()

_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # INTEGER PRIMARY KEY is the rowid


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False)


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False)


def _partial(name: str, *columns: str, where: str, unique: bool = False) -> sa.Index:
    # Migrations make the index, on PostgreSQL too. A `postgresql_where` beside would say nothing
    # more, and make SQLAlchemy import that dialect for every SQLite ledger.
    return sa.Index(name, *columns, unique=unique, sqlite_where=sa.text(where))


lead = sa.Table(
    "lead",
    metadata,
    sa.Column("one", _KEY, primary_key=True, autoincrement=False),
    _number("epoch"),
    _text("holder"),
    _number("turns"),
    _number("last_seq"),
    _number("last_ms"),
    _number("last_n"),
    sa.CheckConstraint("one = 1", name="lead_is_one_row"),
)

journal = sa.Table(
    "journal",
    metadata,
    sa.Column("seq", _KEY, primary_key=True, autoincrement=False),
    _number("at_ms"),
    _text("kind"),
    sa.Column("job", sa.Text),
    sa.Column("node", sa.Text),
    _text("line"),
    _partial("journal_job", "job", "seq", where="job IS NOT NULL"),
    _partial("journal_node", "node", "seq", where="node IS NOT NULL"),
)

projects = sa.Table("projects", metadata, sa.Column("id", sa.Text, primary_key=True), _text("body"))

# What operators set, by kind (`core.settings.KINDS`, and `policy`).
settings = sa.Table(
    "settings",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    _text("kind"),
    _text("body"),
)
nodes = sa.Table(
    "nodes",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("row", sa.BigInteger, nullable=False, unique=True),
    _text("state"),
    _number("cordoned"),
    sa.Column("suspicion", sa.BigInteger, nullable=False, server_default="0"),
    _text("body"),
)

# `allocation` is the newest there was; `attached` whether the job still has it.
jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("n", _KEY, primary_key=True, autoincrement=False),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    _text("name"),
    sa.Column("project", sa.Text, sa.ForeignKey("projects.id"), nullable=False),
    _text("owner"),
    sa.Column("idempotency_key", sa.Text),
    _text("phase"),
    _number("live"),
    sa.Column("allocation", sa.Text),
    _number("attached"),
    sa.Column("nominated", sa.Text),
    _text("job"),
    _text("standing"),
    _text("memo"),
    sa.CheckConstraint("live IN (0, 1)", name="jobs_live_is_a_bit"),
    _partial("jobs_live", "n", where="live = 1"),
    sa.Index("jobs_phase", "phase", "n"),
    sa.Index("jobs_project", "project", "n"),
    sa.Index("jobs_owner", "owner", "n"),
    sa.Index("jobs_name", "name", "n"),
    _partial(
        "jobs_key", "owner", "idempotency_key", where="idempotency_key IS NOT NULL", unique=True
    ),
)

requests = sa.Table(
    "requests",
    metadata,
    sa.Column("n", _KEY, sa.ForeignKey("jobs.n"), primary_key=True, autoincrement=False),
    _text("request"),
)

allocations = sa.Table(
    "allocations",
    metadata,
    sa.Column("n", _KEY, primary_key=True, autoincrement=False),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    sa.Column("job", sa.Text, sa.ForeignKey("jobs.id"), nullable=False),
    _number("live"),
    _text("fixed"),
    _text("moving"),
    sa.CheckConstraint("live IN (0, 1)", name="allocations_live_is_a_bit"),
    sa.Index("allocations_job", "job", "n"),
    _partial("allocations_live", "n", where="live = 1"),
)

holdings = sa.Table(
    "holdings",
    metadata,
    sa.Column("allocation", sa.Text, sa.ForeignKey("allocations.id"), primary_key=True),
    sa.Column("rank", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("gpu", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("node", sa.Text, sa.ForeignKey("nodes.id"), nullable=False),
    _number("milli"),
    sa.CheckConstraint("milli BETWEEN 1 AND 1000", name="holdings_are_of_one_device"),
    _partial("holdings_whole", "node", "gpu", where="milli = 1000", unique=True),
)

devices = sa.Table(
    "devices",
    metadata,
    sa.Column("node", sa.Text, primary_key=True),
    sa.Column("gpu", sa.BigInteger, primary_key=True, autoincrement=False),
    _number("held_milli"),
    sa.CheckConstraint("held_milli BETWEEN 0 AND 1000", name="devices_are_held_once"),
)

tokens = sa.Table(
    "tokens",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("digest", sa.Text, nullable=False, unique=True),
    _number("made_ms"),
    sa.Column("role", sa.Text, nullable=False, server_default="owner"),
)
