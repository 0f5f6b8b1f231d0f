"""What the holder of a token may do. Until now everyone might do everything: they stay owners."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tokens", sa.Column("role", sa.Text, nullable=False, server_default="owner"))


def downgrade() -> None:
    op.drop_column("tokens", "role")
