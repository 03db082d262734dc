-- PostgreSQL: one statement deletes the oldest rows and keeps their sums. Gives the runs of their sequences, with counts.
-- {table} is the usage table or one of its partitions, {summed} are the columns of which sums are kept, {names} these sums, {sums} what they are, {added} what an
-- upsert sets. Rows are found again by where they are: by their ids, each would be a page of an index as large as memory.
WITH doomed AS (
    SELECT tableoid AS place, ctid AS spot FROM {table}
    WHERE created_at >= :since AND created_at < :before
    ORDER BY created_at LIMIT :size FOR UPDATE
),
gone AS (
    DELETE FROM {table} AS usage USING doomed
    WHERE usage.ctid = doomed.spot AND usage.tableoid = doomed.place
    RETURNING usage.instance_id, usage.sequence, created_at, account, response_model, request_model, {summed}
),
kept AS (
    INSERT INTO tokenbudget_purged_days AS purged (account, day, model, {names})
    SELECT
        COALESCE(gone.account, ''),
        DATE_TRUNC('day', created_at, 'UTC'),
        COALESCE(response_model, request_model, ''),
        {sums}
    FROM gone
    GROUP BY 1, 2, 3
    ORDER BY 1, 2, 3
    ON CONFLICT (account, day, model) DO UPDATE SET {added}
)
SELECT
    instance_id,
    MIN(sequence) AS first_sequence,
    MAX(sequence) AS last_sequence,
    COUNT(*) AS entries,
    MAX(created_at) AS newest
FROM (
    SELECT
        instance_id,
        sequence,
        created_at,
        sequence - ROW_NUMBER() OVER (PARTITION BY instance_id ORDER BY sequence) AS run
    FROM gone
) AS numbered
GROUP BY instance_id, run
