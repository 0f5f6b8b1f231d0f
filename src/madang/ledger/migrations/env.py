"""Alembic's way in: runs the migrations on the connection that `opening.py` hands over."""

from alembic import context

from madang.ledger.schema import metadata

# The connection is in a transaction already: all steps of an upgrade happen, or none.
context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
)
context.run_migrations()
