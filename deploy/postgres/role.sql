-- What `ffstream run`, `doctor` and `resume` may do in the engine's database, and
-- nothing more. A superuser runs it in that database, once; running it again does
-- no harm:
--
--   psql -d flowfabric -f deploy/postgres/role.sql
--
-- The role has no password yet: \password ffstream, or a client certificate. The
-- engine's tables are taken to be in schema public.

DO $$
BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'ffstream') THEN
    CREATE ROLE ffstream;
  END IF;
END $$;

-- To hold a slot.
ALTER ROLE ffstream LOGIN REPLICATION NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS;

DO $$
BEGIN
  EXECUTE format('GRANT CONNECT ON DATABASE %I TO ffstream', current_database());
END $$;

GRANT USAGE ON SCHEMA public TO ffstream;

-- The key, and the columns that the log does not repeat when they are long and
-- unchanged: `run` looks them up. Payloads and results are not among them.
GRANT SELECT (partition_key, execution_id, raw_fields, blocking_reason, cancellation_reason, cancelled_by)
  ON public.ff_exec_core TO ffstream;

-- The states: `doctor` looks for literals that no rule knows in a sample of rows.
GRANT SELECT (attempt_index, lifecycle_phase, ownership_state, eligibility_state, public_state, attempt_state)
  ON public.ff_exec_core TO ffstream;
GRANT SELECT (partition_key, execution_id, attempt_index, outcome)
  ON public.ff_attempt TO ffstream;

-- The rest of what an event has: a backfill reads it. (xmax and tableoid tell rows
-- that somebody is changing.)
GRANT SELECT (flow_id, lane_id, priority, created_at_ms, terminal_at_ms, xmax, tableoid)
  ON public.ff_exec_core TO ffstream;
GRANT SELECT (worker_id, worker_instance_id, lease_epoch, lease_expires_at_ms, started_at_ms, terminal_at_ms)
  ON public.ff_attempt TO ffstream;
DO $$
BEGIN
  IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'public.ff_exec_core'::regclass AND attname = 'started_at_ms') THEN
    GRANT SELECT (started_at_ms) ON public.ff_exec_core TO ffstream; -- since the engine's migration 0016
  END IF;
END $$;

-- The engine's ledger of migrations: `doctor` tells the schema's version.
DO $$
BEGIN
  IF to_regclass('public._sqlx_migrations') IS NOT NULL THEN
    GRANT SELECT ON public._sqlx_migrations TO ffstream;
  END IF;
END $$;

-- Heartbeats and a backfill's watermarks, where EXECUTE was taken from PUBLIC.
DO $$
DECLARE f regprocedure;
BEGIN
  FOR f IN SELECT oid FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace AND proname = 'pg_logical_emit_message' LOOP
    EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO ffstream', f);
  END LOOP;
END $$;

-- Slots, settings and the log's positions are shown to every role: no membership
-- in pg_monitor is needed. Point reads (`ffstream read`, package reader) belong to
-- the roles of the applications that make them, and need more:
--   GRANT SELECT ON public.ff_exec_core, public.ff_attempt TO some_application;
