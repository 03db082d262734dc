-- One statement, one round trip: rows that are new, their ledger entries, the balances.
-- {columns} and {fields} are the columns of tokenbudget_usage, bare and with their types; :rows is a JSON array of
-- objects. Every INSERT is ordered, so that concurrent writers lock in the same order.
WITH incoming AS (
    SELECT * FROM json_to_recordset(CAST(:rows AS json)) AS row ({fields})
),
added AS (
    INSERT INTO tokenbudget_usage ({columns})
    SELECT {columns} FROM incoming ORDER BY instance_id, sequence
    ON CONFLICT DO NOTHING
    RETURNING instance_id, sequence, account, cost_pico
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
    SELECT account, -SUM(amount_pico), :at FROM posted GROUP BY account ORDER BY account
    ON CONFLICT (account) DO UPDATE
    SET balance_pico = balance.balance_pico + excluded.balance_pico, updated_at = excluded.updated_at
)
SELECT COUNT(*) FROM added
