-- One statement, one round trip: rows that are new, their ledger entries, the balances, the rollups.
-- {columns} are those of tokenbudget_usage, {fields} those of the JSON with their types, {values} made of these; {figures},
-- {bounds} are those of latencies, {sums}, {totals} and {added} are what a rollup adds up: names, sums over rows, sums of those, what an upsert sets.
-- :rows is a JSON array of objects, in UTF-8. Every INSERT is ordered, so that concurrent writers lock in the same order: that of the
-- code points, as Python sorts, because a re-rating and a repair lock the same balances and rollups.
WITH incoming AS (
    SELECT * FROM ROWS FROM (json_to_recordset(CAST(CONVERT_FROM(:rows, 'UTF8') AS json)) AS ({fields})) WITH ORDINALITY
),
-- Reads nothing: it takes the lock for which a purge that is under way makes this statement wait, and then look again.
purge_lock AS (
    SELECT id FROM tokenbudget_purged_ranges WHERE FALSE FOR KEY SHARE
),
added AS (
    INSERT INTO tokenbudget_usage ({columns}, write_id)
    SELECT {values}, :write_id FROM incoming
    WHERE NOT EXISTS (
        SELECT FROM tokenbudget_purged_ranges AS purged
        WHERE purged.instance_id = incoming.instance_id
            AND incoming.sequence BETWEEN purged.first_sequence AND purged.last_sequence
    )
    ORDER BY instance_id, sequence, ordinality
    ON CONFLICT DO NOTHING
    RETURNING *
),
sums AS (
    SELECT
        account,
        instance_id,
        SUM(cost_pico) AS amount_pico,
        MIN(sequence) AS first_sequence,
        MAX(sequence) AS last_sequence,
        COUNT(*) AS entries,
        'usage:' || instance_id || ':' || MIN(sequence) || ':' || account AS source_id
    FROM added
    WHERE account IS NOT NULL AND cost_pico > 0
    GROUP BY account, instance_id
),
posted AS (
    INSERT INTO tokenbudget_ledger (
        id, account, contra, amount_pico, kind, source_id,
        write_id, instance_id, first_sequence, last_sequence, entries, created_at
    )
    SELECT
        MD5(source_id), account, :contra, amount_pico, 'usage', source_id,
        :write_id, instance_id, first_sequence, last_sequence, entries, :at
    FROM sums
    ORDER BY account, instance_id
    RETURNING account, amount_pico
),
taken AS (
    INSERT INTO tokenbudget_balances AS balance (account, balance_pico, updated_at)
    SELECT account, -SUM(amount_pico), :at FROM posted GROUP BY account ORDER BY account COLLATE "C"
    ON CONFLICT (account) DO UPDATE
    SET balance_pico = balance.balance_pico + excluded.balance_pico, updated_at = excluded.updated_at
    RETURNING account, balance_pico
),
fresh AS (
    SELECT
        DATE_TRUNC('day', created_at, 'UTC') AS day,
        DATE_TRUNC('hour', created_at, 'UTC') AS hour,
        COALESCE(added.account, '') AS account,
        COALESCE(added.key_id, '') AS key_id,
        COALESCE(response_model, request_model, '') AS model,
        COALESCE(added.route, '') AS route,
        {sums}
    FROM added
    GROUP BY 1, 2, 3, 4, 5, 6
),
by_subject AS (
    INSERT INTO tokenbudget_rollup_subjects AS rollup (account, day, key_id, model, {figures})
    SELECT account, day, key_id, model, {totals} FROM fresh GROUP BY 1, 2, 3, 4
    ORDER BY account COLLATE "C", day, key_id COLLATE "C", model COLLATE "C"
    ON CONFLICT (account, day, key_id, model) DO UPDATE SET {added}
),
by_hour AS (
    INSERT INTO tokenbudget_rollup_hours AS rollup (hour, model, route, {figures})
    SELECT hour, model, route, {totals} FROM fresh GROUP BY 1, 2, 3
    ORDER BY hour, model COLLATE "C", route COLLATE "C"
    ON CONFLICT (hour, model, route) DO UPDATE SET {added}
),
by_day AS (
    INSERT INTO tokenbudget_rollup_days AS rollup (day, model, route, {figures})
    SELECT day, model, route, {totals} FROM fresh GROUP BY 1, 2, 3
    ORDER BY day, model COLLATE "C", route COLLATE "C"
    ON CONFLICT (day, model, route) DO UPDATE SET {added}
),
timed AS (
    SELECT
        DATE_TRUNC('day', created_at, 'UTC') AS day,
        DATE_TRUNC('hour', created_at, 'UTC') AS hour,
        COALESCE(added.route, '') AS route,
        ({bounds})[LEAST(WIDTH_BUCKET(duration_us - 1, {bounds}) + 1, {last_bound})] AS up_to_us,
        COUNT(*) AS requests
    FROM added
    GROUP BY 1, 2, 3, 4
),
latency_by_hour AS (
    INSERT INTO tokenbudget_latency_hours AS latency (hour, route, up_to_us, requests)
    SELECT hour, route, up_to_us, SUM(requests) FROM timed GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
    ON CONFLICT (hour, route, up_to_us) DO UPDATE SET requests = latency.requests + excluded.requests
),
latency_by_day AS (
    INSERT INTO tokenbudget_latency_days AS latency (day, route, up_to_us, requests)
    SELECT day, route, up_to_us, SUM(requests) FROM timed GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
    ON CONFLICT (day, route, up_to_us) DO UPDATE SET requests = latency.requests + excluded.requests
)
SELECT
    (SELECT COUNT(*) FROM added),
    -- told to listeners when the transaction commits, once for each time that a balance is used up
    (
        SELECT COUNT(PG_NOTIFY('tokenbudget_depleted', account))
        FROM taken JOIN (SELECT account, SUM(amount_pico) AS spent FROM posted GROUP BY account) AS charged USING (account)
        WHERE balance_pico <= 0 AND balance_pico + spent > 0
    )
