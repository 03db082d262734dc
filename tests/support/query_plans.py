"""
How a database means to run a statement.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sqlalchemy import event, text

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection, Engine
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


def statements_of(engine: Engine, ask: Callable[[Engine], object]) -> list[tuple[str, Any]]:
    """
    The statements that *ask* runs, each with its values, or the first of many.
    """
    found: list[tuple[str, Any]] = []

    def note(_connection: object, _cursor: object, sql: str, values: Any, _context: object, is_many: bool) -> None:
        if sql.split(None, 1)[0] in ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH"):
            found.append((sql, values[0] if is_many else values))

    event.listen(engine, "before_cursor_execute", note)
    ask(engine)
    event.remove(engine, "before_cursor_execute", note)
    return found


def is_scan(engine: Engine, sql: str, values: Any) -> bool:
    """
    Whether a statement that ran reads a whole table.
    """
    name = engine.dialect.name
    verb = {"sqlite": "EXPLAIN QUERY PLAN", "postgresql": "EXPLAIN (FORMAT JSON)"}.get(name, "EXPLAIN FORMAT=JSON")
    with engine.connect() as connection:
        if name == "postgresql":
            connection.exec_driver_sql("SET enable_seqscan = off")
        found = json.dumps([list(row) for row in connection.exec_driver_sql(f"{verb} {sql}", values)])
    if name == "sqlite":
        return '"SCAN ' in found and "USING INDEX" not in found
    return "Seq Scan" in found or '\\"access_type\\": \\"ALL\\"' in found
