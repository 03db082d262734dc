-- Keeps what the rows of {table} add up to. {names} are the figures that are kept, {sums} their sums, {added} what an upsert sets.
INSERT INTO tokenbudget_purged_days AS purged (account, day, model, {names})
SELECT
    COALESCE(account, ''),
    DATE_TRUNC('day', created_at, 'UTC'),
    COALESCE(response_model, request_model, ''),
    {sums}
FROM {table}
GROUP BY 1, 2, 3
ORDER BY 1, 2, 3
ON CONFLICT (account, day, model) DO UPDATE SET {added}
