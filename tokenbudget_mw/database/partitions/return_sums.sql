-- Takes what the rows of {table} add up to out of what is kept, and gives how many rows it was kept of.
WITH back AS (
    SELECT
        COALESCE(account, '') AS account,
        DATE_TRUNC('day', created_at, 'UTC') AS day,
        COALESCE(response_model, request_model, '') AS model,
        {sums}
    FROM {table}
    GROUP BY 1, 2, 3
),
taken AS (
    UPDATE tokenbudget_purged_days AS purged SET {taken} FROM back
    WHERE purged.account = back.account AND purged.day = back.day AND purged.model = back.model AND {enough}
    RETURNING back.requests
)
SELECT COALESCE(SUM(requests), 0) FROM taken
