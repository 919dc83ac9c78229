package migrations

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// Config says how a source is to be prepared.
type Config struct {
	Publication string
	Identity    bool // with a replica identity index on each leaf of ff_exec_core
	// LockTimeout bounds how long a statement waits for a table's lock, since
	// the application queues behind it. Default 2 s.
	LockTimeout time.Duration
}

const defaultLockTimeout = 2 * time.Second

// Querier is a connection, pool or transaction of pgx.
type Querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// The columns of the publication, those that are absent in some version last.
var (
	coreColumns = []string{
		"partition_key", "execution_id", "flow_id", "lane_id", "attempt_index", "lifecycle_phase", "ownership_state",
		"eligibility_state", "public_state", "attempt_state", "blocking_reason", "cancellation_reason", "cancelled_by",
		"priority", "created_at_ms", "terminal_at_ms", "raw_fields", "started_at_ms",
	}
	attemptColumns = []string{
		"partition_key", "execution_id", "attempt_index", "worker_id", "worker_instance_id", "lease_epoch",
		"lease_expires_at_ms", "started_at_ms", "terminal_at_ms", "outcome",
	}
	// identityColumns are the replica identity: the key, the state, and the lane
	// that a deletion's subject needs. All are NOT NULL, which Postgres demands.
	identityColumns = []string{
		"partition_key", "execution_id", "lifecycle_phase", "ownership_state", "eligibility_state", "public_state",
		"attempt_state", "lane_id",
	}
)

const (
	coreTable      = "ff_exec_core"
	attemptTable   = "ff_attempt"
	optionalColumn = "started_at_ms"
	indexSuffix    = "_ffstream_identity"
)

// Faults of a source, for errors.Is on what Check returns.
var (
	ErrTables      = errors.New("the engine's tables are missing")
	ErrPublication = errors.New("publication does not serve")
	ErrIdentity    = errors.New("replica identity is missing")
)

// Check looks at the source as a service that follows it must: the error names
// the first thing that is wrong, the rule, and the command that mends it. It
// wraps ErrTables, ErrPublication or ErrIdentity; other errors are the
// connection's.
func Check(ctx context.Context, q Querier, cfg Config) error {
	s, err := inspect(ctx, q, cfg)
	if err != nil {
		return err
	}
	if err := s.checkTables(); err != nil {
		return err
	}
	if err := s.checkPublication(cfg); err != nil {
		return err
	}
	if !cfg.Identity {
		return nil
	}
	missing := slices.DeleteFunc(slices.Clone(s.leaves), leaf.ready)
	if len(missing) > 0 {
		return fmt.Errorf("%w: %d of the %d leaves of %s (the first is %s) do not log the old state: run: ffstream migrate, or choose --replica-identity=none",
			ErrIdentity, len(missing), len(s.leaves), coreTable, missing[0].name)
	}
	return nil
}

func (s *state) checkTables() error {
	for _, table := range []string{coreTable, attemptTable} {
		if len(s.columns[table]) == 0 {
			return fmt.Errorf("%w: no table %s on the search path: name the database that the engine uses; for development, run: ffstream migrate --engine-schema", ErrTables, table)
		}
	}
	return nil
}

func (s *state) checkPublication(cfg Config) error {
	p := s.publication
	const remedy = "run: ffstream migrate"
	if p == nil {
		return fmt.Errorf("%w: publication %s does not exist: %s", ErrPublication, cfg.Publication, remedy)
	}
	if !p.viaRoot {
		return fmt.Errorf("%w: publication %s has publish_via_partition_root off, so changes would come under the names of 512 leaves: %s", ErrPublication, cfg.Publication, remedy)
	}
	if !p.insert || !p.update || !p.remove || !p.truncate {
		return fmt.Errorf("%w: publication %s leaves out inserts, updates, deletes or truncates: %s", ErrPublication, cfg.Publication, remedy)
	}
	if p.filtered {
		return fmt.Errorf("%w: publication %s has a row filter, which hides transitions: %s", ErrPublication, cfg.Publication, remedy)
	}
	for table, want := range s.wanted() {
		have, ok := p.columns[table]
		if !ok {
			return fmt.Errorf("%w: publication %s lacks table %s: %s", ErrPublication, cfg.Publication, table, remedy)
		}
		for _, column := range want {
			if !slices.Contains(have, column) && column != optionalColumn {
				return fmt.Errorf("%w: publication %s lacks column %s of table %s, which events need: %s", ErrPublication, cfg.Publication, column, table, remedy)
			}
		}
	}
	return nil
}

// wanted is what the publication has to hold, by table.
func (s *state) wanted() map[string][]string {
	core := slices.Clone(coreColumns)
	if !slices.Contains(s.columns[coreTable], optionalColumn) {
		core = core[:len(core)-1]
	}
	return map[string][]string{coreTable: core, attemptTable: attemptColumns}
}
