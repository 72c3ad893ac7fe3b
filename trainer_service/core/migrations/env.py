"""Alembic's entry: migrates on the connection it is given, inside the caller's transaction."""

from alembic import context

from trainer_service.core.schema import Base

context.configure(connection=context.config.attributes["connection"], target_metadata=Base.metadata)
with context.begin_transaction():
    context.run_migrations()
