"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

_SQLITE_TRIGGERS = (
    """
    CREATE TRIGGER holdings_taken AFTER INSERT ON holdings BEGIN
        INSERT INTO devices (node, gpu, held_milli) VALUES (NEW.node, NEW.gpu, NEW.milli)
        ON CONFLICT (node, gpu) DO UPDATE SET held_milli = held_milli + excluded.held_milli;
    END
    """,
    """
    CREATE TRIGGER holdings_given AFTER DELETE ON holdings BEGIN
        UPDATE devices SET held_milli = held_milli - OLD.milli
        WHERE node = OLD.node AND gpu = OLD.gpu;
    END
    """,
    """
    CREATE TRIGGER holdings_kept BEFORE UPDATE ON holdings BEGIN
        SELECT RAISE(ABORT, 'a holding is taken or given, never changed');
    END
    """,
)

_POSTGRESQL_TRIGGERS = (
    """
    CREATE FUNCTION holdings_sum() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP = 'INSERT' THEN
            INSERT INTO devices AS d (node, gpu, held_milli)
            VALUES (NEW.node, NEW.gpu, NEW.milli)
            ON CONFLICT (node, gpu) DO UPDATE
            SET held_milli = d.held_milli + excluded.held_milli;
        ELSIF TG_OP = 'DELETE' THEN
            UPDATE devices SET held_milli = held_milli - OLD.milli
            WHERE node = OLD.node AND gpu = OLD.gpu;
        ELSE
            RAISE EXCEPTION 'a holding is taken or given, never changed'
            USING ERRCODE = 'integrity_constraint_violation';
        END IF;
        RETURN NULL;
    END
    $$
    """,
    """
    CREATE TRIGGER holdings_summed AFTER INSERT OR UPDATE OR DELETE ON holdings
    FOR EACH ROW EXECUTE FUNCTION holdings_sum()
    """,
)


def upgrade() -> None:
    _lead_and_journal()
    _jobs()
    _allocations()
    _tokens()
    sqlite = op.get_bind().dialect.name == "sqlite"
    for statement in _SQLITE_TRIGGERS if sqlite else _POSTGRESQL_TRIGGERS:
        op.execute(sa.text(statement))


def _lead_and_journal() -> None:
    lead = op.create_table(
        "lead",
        sa.Column("one", _KEY, primary_key=True, autoincrement=False),
        _number("epoch"),
        _text("holder"),
        _number("turns"),
        _number("last_seq"),
        _number("last_ms"),
        _number("last_n"),
        sa.CheckConstraint("one = 1", name="lead_is_one_row"),
    )
    nobody = {"epoch": 0, "holder": "", "turns": 0, "last_seq": 0, "last_ms": 0, "last_n": 0}
    op.bulk_insert(lead, [{"one": 1, **nobody}])
    op.create_table(
        "journal",
        sa.Column("seq", _KEY, primary_key=True, autoincrement=False),
        _number("at_ms"),
        _text("kind"),
        sa.Column("job", sa.Text),
        sa.Column("node", sa.Text),
        _text("line"),
    )
    _partial("journal_job", "journal", ["job", "seq"], "job IS NOT NULL")
    _partial("journal_node", "journal", ["node", "seq"], "node IS NOT NULL")


def _jobs() -> None:
    op.create_table("projects", sa.Column("id", sa.Text, primary_key=True), _text("body"))
    op.create_table(
        "nodes",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("row", sa.BigInteger, nullable=False, unique=True),
        _text("state"),
        _number("cordoned"),
        _text("body"),
    )
    op.create_table(
        "jobs",
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
    )
    _partial("jobs_live", "jobs", ["n"], "live = 1")
    for column in ("phase", "project", "owner", "name"):
        op.create_index(f"jobs_{column}", "jobs", [column, "n"])
    key = ["owner", "idempotency_key"]
    _partial("jobs_key", "jobs", key, "idempotency_key IS NOT NULL", unique=True)
    op.create_table(
        "requests",
        sa.Column("n", _KEY, sa.ForeignKey("jobs.n"), primary_key=True, autoincrement=False),
        _text("request"),
    )


def _allocations() -> None:
    op.create_table(
        "allocations",
        sa.Column("n", _KEY, primary_key=True, autoincrement=False),
        sa.Column("id", sa.Text, nullable=False, unique=True),
        sa.Column("job", sa.Text, sa.ForeignKey("jobs.id"), nullable=False),
        _number("live"),
        _text("fixed"),
        _text("moving"),
        sa.CheckConstraint("live IN (0, 1)", name="allocations_live_is_a_bit"),
    )
    op.create_index("allocations_job", "allocations", ["job", "n"])
    _partial("allocations_live", "allocations", ["n"], "live = 1")
    op.create_table(
        "holdings",
        sa.Column("allocation", sa.Text, sa.ForeignKey("allocations.id"), primary_key=True),
        sa.Column("rank", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("gpu", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("node", sa.Text, sa.ForeignKey("nodes.id"), nullable=False),
        _number("milli"),
        sa.CheckConstraint("milli BETWEEN 1 AND 1000", name="holdings_are_of_one_device"),
    )
    _partial("holdings_whole", "holdings", ["node", "gpu"], "milli = 1000", unique=True)
    op.create_table(
        "devices",
        sa.Column("node", sa.Text, primary_key=True),
        sa.Column("gpu", sa.BigInteger, primary_key=True, autoincrement=False),
        _number("held_milli"),
        sa.CheckConstraint("held_milli BETWEEN 0 AND 1000", name="devices_are_held_once"),
    )


def _tokens() -> None:
    op.create_table(
        "tokens",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("digest", sa.Text, nullable=False, unique=True),
        _number("made_ms"),
    )


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False)


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False)


def _partial(
    name: str, table: str, columns: list[str], where: str, *, unique: bool = False
) -> None:
    clause = sa.text(where)
    op.create_index(
        name, table, columns, unique=unique, sqlite_where=clause, postgresql_where=clause
    )
