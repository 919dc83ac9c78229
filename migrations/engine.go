package migrations

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"

	_ "github.com/jackc/pgx/v5/stdlib" // the database/sql driver that goose needs
	"github.com/pressly/goose/v3"
)

// EngineVersion is a shape of the engine's tables.
type EngineVersion int64

// The shapes of the engine's tables that ffstream works with.
const (
	Engine011    EngineVersion = 1 // v0.11
	EngineNewest EngineVersion = 2 // v0.12 and newer: started_at_ms, lease_reclaim_count
)

//go:embed engine/*.sql
var engineFiles embed.FS

// engineTable is where goose records which shape it made. The engine's own
// ledger has another name.
const engineTable = "ffstream_engine_schema"

// engineTables are those that the first shape makes.
var engineTables = []string{
	"ff_exec_core", "ff_attempt", "ff_completion_event", "ff_lease_event", "ff_lane_registry", "ff_partition_config",
}

// ErrEngineSchema says that the tables are there and are not ours to touch.
var ErrEngineSchema = errors.New("the engine's tables exist and were not made by ffstream")

// EngineSchema makes the engine's tables in the shape of a version, or brings
// tables that it made earlier there; never back to an older shape. Tables that
// something else made, any of the six, are left alone and give ErrEngineSchema.
func EngineSchema(ctx context.Context, url string, version EngineVersion) (err error) {
	db, err := sql.Open("pgx", url)
	if err != nil {
		return fmt.Errorf("open database: %w", err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	theirs, err := foreignTables(ctx, db)
	if err != nil {
		return fmt.Errorf("look for the engine's tables: %w", err)
	}
	if theirs {
		return ErrEngineSchema
	}
	files, err := fs.Sub(engineFiles, "engine")
	if err != nil {
		return fmt.Errorf("open migrations: %w", err)
	}
	provider, err := goose.NewProvider(goose.DialectPostgres, db, files, goose.WithTableName(engineTable))
	if err != nil {
		return fmt.Errorf("open migrations: %w", err)
	}
	if _, err := provider.UpTo(ctx, int64(version)); err != nil {
		return fmt.Errorf("make the engine's tables: %w", err)
	}
	return nil
}

// foreignTables reports whether one of the tables is there and our record does
// not say that we made it. The record outlives an attempt that failed, so that
// it exists says nothing.
func foreignTables(ctx context.Context, db *sql.DB) (bool, error) {
	var tables, record, made bool
	err := db.QueryRowContext(ctx, `SELECT bool_or(to_regclass(name) IS NOT NULL), to_regclass($1) IS NOT NULL FROM unnest($2::text[]) name`,
		engineTable, engineTables).Scan(&tables, &record)
	if err != nil || !tables || !record {
		return tables, err
	}
	err = db.QueryRowContext(ctx, "SELECT EXISTS (SELECT FROM "+engineTable+" WHERE version_id > 0 AND is_applied)").Scan(&made)
	return !made, err
}
