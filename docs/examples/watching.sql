-- who is connected, and what has run for longer than a second
SELECT pid, usename, state, wait_event_type, now() - xact_start AS age, left(query, 60) AS query
FROM pg_stat_activity
WHERE datname = current_database() AND (state <> 'idle' OR now() - state_change > interval '1 hour')
ORDER BY age DESC NULLS LAST;

-- who waits for whom; nobody should, for longer than a batch takes
SELECT blocked.pid, left(blocked.query, 40) AS waits, blocking.pid AS blocking_pid, left(blocking.query, 40) AS holds
FROM pg_stat_activity AS blocked
CROSS JOIN LATERAL unnest(pg_blocking_pids(blocked.pid)) AS holder (pid)
JOIN pg_stat_activity AS blocking ON blocking.pid = holder.pid;

-- size, dead rows and the last vacuum of each of our tables
SELECT
    relname,
    pg_size_pretty(pg_total_relation_size(relid)) AS size,
    n_live_tup,
    n_dead_tup,
    round(100.0 * n_dead_tup / greatest(n_live_tup + n_dead_tup, 1), 1) AS dead_percent,
    last_autovacuum
FROM pg_stat_user_tables
WHERE relname LIKE 'tokenbudget\_%'
ORDER BY pg_total_relation_size(relid) DESC;

-- rows that were found by reading whole tables; of the large ones only `verify` does that
SELECT relname, seq_scan, seq_tup_read, idx_scan
FROM pg_stat_user_tables
WHERE relname LIKE 'tokenbudget\_%'
ORDER BY seq_tup_read DESC;

-- how much is read from memory; below 0.99 on a busy server, `shared_buffers` or the memory is small
SELECT round(blks_hit / greatest(blks_hit + blks_read, 1)::numeric, 4) AS from_memory, deadlocks, temp_files
FROM pg_stat_database
WHERE datname = current_database();
