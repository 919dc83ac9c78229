-- +goose Up
-- The tables of engine 0.11 that ffstream follows, and those that the engine
-- writes beside them, in the engine's shape. For development and tests only.

-- +goose StatementBegin
CREATE TABLE ff_lane_registry (
    lane_id text PRIMARY KEY,
    registered_at_ms bigint NOT NULL,
    registered_by text NOT NULL
);
CREATE TABLE ff_partition_config (
    singleton_lock boolean PRIMARY KEY DEFAULT true CHECK (singleton_lock = true),
    num_flow_partitions integer NOT NULL,
    num_budget_partitions integer NOT NULL,
    num_quota_partitions integer NOT NULL,
    ff_version text NOT NULL
);
INSERT INTO ff_partition_config VALUES (true, 256, 256, 256, '0.7.0');

CREATE TABLE ff_exec_core (
    partition_key smallint NOT NULL,
    execution_id uuid NOT NULL,
    flow_id uuid,
    lane_id text NOT NULL,
    required_capabilities text[] NOT NULL DEFAULT '{}',
    attempt_index integer NOT NULL DEFAULT 0,
    lifecycle_phase text NOT NULL,
    ownership_state text NOT NULL,
    eligibility_state text NOT NULL,
    public_state text NOT NULL,
    attempt_state text NOT NULL,
    blocking_reason text,
    cancellation_reason text,
    cancelled_by text,
    priority integer NOT NULL DEFAULT 0,
    created_at_ms bigint NOT NULL,
    terminal_at_ms bigint,
    deadline_at_ms bigint,
    payload bytea,
    result bytea,
    policy jsonb,
    raw_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    PRIMARY KEY (partition_key, execution_id)
) PARTITION BY HASH (partition_key);

CREATE TABLE ff_attempt (
    partition_key smallint NOT NULL,
    execution_id uuid NOT NULL,
    attempt_index integer NOT NULL,
    worker_id text,
    worker_instance_id text,
    lease_epoch bigint NOT NULL DEFAULT 0,
    lease_expires_at_ms bigint,
    started_at_ms bigint,
    terminal_at_ms bigint,
    outcome text,
    usage jsonb,
    policy jsonb,
    raw_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    PRIMARY KEY (partition_key, execution_id, attempt_index)
) PARTITION BY HASH (partition_key);

CREATE TABLE ff_completion_event (
    event_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    partition_key smallint NOT NULL,
    execution_id uuid NOT NULL,
    flow_id uuid,
    outcome text NOT NULL,
    namespace text,
    instance_tag text,
    occurred_at_ms bigint NOT NULL
);
CREATE TABLE ff_lease_event (
    event_id bigserial PRIMARY KEY,
    execution_id text NOT NULL,
    lease_id text,
    event_type text NOT NULL,
    partition_key integer NOT NULL,
    namespace text,
    instance_tag text,
    occurred_at_ms bigint NOT NULL
);

DO $$
BEGIN
    FOR i IN 0..255 LOOP
        EXECUTE format('CREATE TABLE ff_exec_core_p%s PARTITION OF ff_exec_core FOR VALUES WITH (MODULUS 256, REMAINDER %s)', i, i);
        EXECUTE format('CREATE TABLE ff_attempt_p%s PARTITION OF ff_attempt FOR VALUES WITH (MODULUS 256, REMAINDER %s)', i, i);
    END LOOP;
END $$;

CREATE INDEX ff_exec_core_lane_phase_idx ON ff_exec_core (partition_key, lane_id, lifecycle_phase);
CREATE INDEX ff_exec_core_caps_gin_idx ON ff_exec_core USING gin (required_capabilities);
CREATE INDEX ff_exec_core_flow_idx ON ff_exec_core (partition_key, flow_id) WHERE flow_id IS NOT NULL;
CREATE INDEX ff_exec_core_deadline_idx ON ff_exec_core (partition_key, deadline_at_ms) WHERE deadline_at_ms IS NOT NULL;
CREATE INDEX ff_attempt_lease_expiry_idx ON ff_attempt (partition_key, lease_expires_at_ms) WHERE lease_expires_at_ms IS NOT NULL;
CREATE INDEX ff_attempt_worker_idx ON ff_attempt (partition_key, worker_id) WHERE worker_id IS NOT NULL;
-- +goose StatementEnd

-- +goose Down
DROP TABLE ff_exec_core, ff_attempt, ff_completion_event, ff_lease_event, ff_lane_registry, ff_partition_config;
