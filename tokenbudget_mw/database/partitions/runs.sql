-- The runs of sequences in {table}.
SELECT instance_id, MIN(sequence), MAX(sequence)
FROM (
    SELECT instance_id, sequence, sequence - ROW_NUMBER() OVER (PARTITION BY instance_id ORDER BY sequence) AS run FROM {table}
) AS numbered
GROUP BY instance_id, run
