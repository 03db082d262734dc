"""
How a database means to run a statement.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.sql import Executable


def plan(connection: Connection, statement: Executable) -> Any:
    sql = statement.compile(connection, compile_kwargs={"literal_binds": True})
    if connection.dialect.name == "sqlite":
        return [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}")]
    if connection.dialect.name == "postgresql":
        connection.execute(text("SET enable_seqscan = off"))
        return connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {sql}").scalar_one()
    return json.loads(connection.exec_driver_sql(f"EXPLAIN FORMAT=JSON {sql}").scalar_one())


def scans(found: Any) -> bool:
    """
    Whether the plan reads a whole table (of PostgreSQL: has no index to choose).
    """
    shown = json.dumps(found)
    return '"SCAN ' in shown or "Seq Scan" in shown or '"access_type": "ALL"' in shown
