"""
The schema of a database whose usage table is made of partitions, to compare it with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import BigInteger, Column, MetaData, Table, UniqueConstraint

from tokenbudget_mw.database import tables
from tokenbudget_mw.database.partitions.catalog import EVENTS, is_partitioned
from tokenbudget_mw.database.types import varchar

if TYPE_CHECKING:
    from sqlalchemy import Connection

__all__ = ["metadata_of", "partitioned"]


def partitioned() -> MetaData:
    """
    Return `tables.metadata` as it is with partitions: events are unique in a table of their own.
    """
    metadata = MetaData()
    for table in tables.metadata.sorted_tables:
        copy = table.to_metadata(metadata)
        if table is tables.usage:
            copy.constraints -= {found for found in copy.constraints if isinstance(found, UniqueConstraint)}
    Table(
        EVENTS,
        metadata,
        Column("id", varchar(36), primary_key=True),
        Column("instance_id", varchar(36), nullable=False),
        Column("sequence", BigInteger, nullable=False),
        UniqueConstraint("instance_id", "sequence", name=f"{EVENTS}_uq"),
    )
    return metadata


def metadata_of(connection: Connection) -> MetaData:
    """
    Return the schema that the database of *connection* should have.
    """
    return partitioned() if is_partitioned(connection) else tables.metadata
