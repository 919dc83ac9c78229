-- +goose Up
-- The engine's migrations 0016 and 0017: two columns of ff_exec_core, the first
-- filled from the started attempt with the smallest index.

-- +goose StatementBegin
ALTER TABLE ff_exec_core ADD COLUMN started_at_ms bigint;
UPDATE ff_exec_core c SET started_at_ms = a.started_at_ms
FROM (
    SELECT DISTINCT ON (partition_key, execution_id) partition_key, execution_id, started_at_ms
    FROM ff_attempt WHERE started_at_ms IS NOT NULL
    ORDER BY partition_key, execution_id, attempt_index
) a
WHERE a.partition_key = c.partition_key AND a.execution_id = c.execution_id AND c.started_at_ms IS NULL;
ALTER TABLE ff_exec_core ADD COLUMN lease_reclaim_count integer NOT NULL DEFAULT 0;
-- +goose StatementEnd

-- +goose Down
ALTER TABLE ff_exec_core DROP COLUMN lease_reclaim_count;
ALTER TABLE ff_exec_core DROP COLUMN started_at_ms;
