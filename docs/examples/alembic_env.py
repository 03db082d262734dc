"""The env.py of an app that lets Alembic write its migrations."""

from sqlalchemy import Column, Integer, MetaData, Table, create_engine

metadata = MetaData()
orders = Table("orders", metadata, Column("id", Integer, primary_key=True))  # stands for the app's own tables

# in your env.py
from alembic import context  # noqa: E402

import tokenbudget_mw_alembic  # noqa: E402

engine = create_engine(context.config.get_main_option("sqlalchemy.url"))
with engine.connect() as connection:
    context.configure(
        connection=connection,
        target_metadata=metadata,
        include_name=tokenbudget_mw_alembic.include_name(),
    )
    with context.begin_transaction():
        context.run_migrations()
engine.dispose()
