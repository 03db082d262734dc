"""
SQL with which a migration fills rollups, and counts of latencies, from usage rows that an older version wrote.
"""

from __future__ import annotations

from tokenbudget_mw.database.latencies import BOUNDS

__all__ = ["fill_latencies", "fill_rollups"]

# No colon may follow a space or a quote here: Alembic would take it for a parameter.
_STARTS = {
    "sqlite": {
        "day": "SUBSTR(created_at, 1, 11) || '00:00:00.000000'",
        "hour": "SUBSTR(created_at, 1, 14) || '00:00.000000'",
    },
    "postgresql": {
        "day": "DATE_TRUNC('day', created_at, 'UTC')",
        "hour": "DATE_TRUNC('hour', created_at, 'UTC')",
    },
    "mysql": {
        "day": "CAST(DATE(created_at) AS DATETIME(6))",
        "hour": "CAST(DATE(created_at) AS DATETIME(6)) + INTERVAL HOUR(created_at) HOUR",
    },
}

_MODEL = "COALESCE(response_model, request_model, '')"
_KEYS = {
    "tokenbudget_rollup_subjects": {
        "day": None,
        "account": "COALESCE(account, '')",
        "key_id": "COALESCE(key_id, '')",
        "model": _MODEL,
    },
    "tokenbudget_rollup_hours": {"hour": None, "model": _MODEL, "route": "COALESCE(route, '')"},
    "tokenbudget_rollup_days": {"day": None, "model": _MODEL, "route": "COALESCE(route, '')"},
}

_FIGURES = {
    "requests": "COUNT(*)",
    "refused": "SUM(CASE WHEN decision = 'refused' THEN 1 ELSE 0 END)",
    "errors": "SUM(CASE WHEN status >= 500 THEN 1 ELSE 0 END)",
    "input_tokens": "SUM(input_tokens)",
    "output_tokens": "SUM(output_tokens)",
    "cache_read_tokens": "SUM(cache_read_tokens)",
    "cache_write_tokens": "SUM(cache_write_tokens)",
    "cache_write_1h_tokens": "SUM(cache_write_1h_tokens)",
    "reasoning_tokens": "SUM(reasoning_tokens)",
    "duration_us": "SUM(duration_us)",
    "cost_pico": "SUM(cost_pico)",
}


def fill_rollups(dialect: str) -> list[str]:
    """
    Return the statements that fill the rollups, in the SQL of *dialect*.

    They empty them first, so they may run again, in one transaction, where they were broken off, or where newer rows are in.
    """
    starts = _STARTS["mysql" if dialect == "mariadb" else dialect]
    return [
        statement
        for table, keys in _KEYS.items()
        for statement in (_empty(table), _fill(table, {name: sql or starts[name] for name, sql in keys.items()}))
    ]


def _empty(table: str) -> str:
    return f"DELETE FROM {table}"  # noqa: S608 - a name of our own


def _fill(table: str, keys: dict[str, str]) -> str:
    names = ", ".join([*keys, *_FIGURES])
    values = ", ".join([*keys.values(), *_FIGURES.values()])
    groups = ", ".join(str(number) for number in range(1, len(keys) + 1))
    # names and expressions are all from above; the rows of a day lie together, as if they had been written that day
    return (
        f"INSERT INTO {table} ({names}) SELECT {values} FROM tokenbudget_usage "  # noqa: S608
        f"GROUP BY {groups} ORDER BY {groups}"
    )


def fill_latencies(dialect: str) -> list[str]:
    """
    Return the statements that fill the tables of latencies, in the SQL of *dialect*, as `fill_rollups` does.
    """
    starts = _STARTS["mysql" if dialect == "mariadb" else dialect]
    return [
        statement
        for start in ("hour", "day")
        for table in (f"tokenbudget_latency_{start}s",)
        for statement in (_empty(table), _fill_latency(table, start, starts[start]))
    ]


def _fill_latency(table: str, start: str, sql: str) -> str:
    bounds = " ".join(f"WHEN duration_us <= {bound} THEN {bound}" for bound in BOUNDS)
    return (
        f"INSERT INTO {table} ({start}, route, up_to_us, requests) "  # noqa: S608 - as above
        f"SELECT {sql}, COALESCE(route, ''), CASE {bounds} ELSE {BOUNDS[-1]} END, COUNT(*) "
        "FROM tokenbudget_usage GROUP BY 1, 2, 3"
    )
