-- What `ffstream migrate` needs, for whom does not want to run it as the owner of
-- the engine's tables or as a superuser. A superuser runs it in the engine's
-- database:
--
--   psql -d flowfabric -f deploy/postgres/migrate.sql
--
-- Afterwards the role may go: DROP OWNED BY would take the publication with it, so
-- hand that on first: REASSIGN OWNED BY ffstream_migrate TO the tables' owner.

DO $$
BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'ffstream_migrate') THEN
    CREATE ROLE ffstream_migrate;
  END IF;
END $$;

ALTER ROLE ffstream_migrate LOGIN INHERIT NOSUPERUSER NOREPLICATION;

DO $$
BEGIN
  -- To make the publication.
  EXECUTE format('GRANT CONNECT, CREATE ON DATABASE %I TO ffstream_migrate', current_database());
  -- To publish the tables, to index their leaves and to set replica identities:
  -- Postgres leaves that to the tables' owner, whose member the role becomes. The
  -- owner must still have CREATE on the tables' schema, where the indexes are made.
  EXECUTE format('GRANT %I TO ffstream_migrate', (SELECT tableowner FROM pg_tables WHERE schemaname = 'public' AND tablename = 'ff_exec_core'));
END $$;
