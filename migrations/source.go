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

// The columns of the publication.
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
	optionalColumn = "started_at_ms" // of ff_exec_core, since the engine's migration 0016
	indexSuffix    = "_ffstream_identity"
)

// Faults of a source, for errors.Is on what Check, Plan and Apply return.
var (
	ErrTables      = errors.New("the engine's tables are missing")
	ErrPublication = errors.New("publication does not serve")
	ErrIdentity    = errors.New("replica identity does not serve")
)

const remedy = "run: ffstream migrate"

// Check looks at the source as a service that follows it must: the error names
// the first thing that is wrong, the rule, and the command that mends it. It
// wraps ErrTables, ErrPublication or ErrIdentity; other errors are the
// connection's. It waits for no lock of a table.
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
	for i := range s.tables {
		if err := s.tables[i].checkCovered(s.publication.columns[s.tables[i].name], true); err != nil {
			return err
		}
	}
	if !cfg.Identity {
		return nil
	}
	leaves := s.core().leaves
	missing := slices.DeleteFunc(slices.Clone(leaves), (*leaf).ready)
	if len(missing) > 0 {
		return fmt.Errorf("%w: %d of the %d leaves of %s (the first is %s) do not log the old state: %s, or choose --replica-identity=none",
			ErrIdentity, len(missing), len(leaves), coreTable, missing[0].name, remedy)
	}
	return nil
}

func (s *state) checkTables() error {
	for i := range s.tables {
		t := &s.tables[i]
		if len(t.columns) == 0 {
			return fmt.Errorf("%w: no table %s on the search path: name the database that the engine uses; for development, run: ffstream migrate --engine-schema", ErrTables, t.name)
		}
		for _, column := range t.wanted {
			if !slices.Contains(t.columns, column) {
				return fmt.Errorf("%w: table %s has no column %s, which events need: name the database of an engine of version 0.11 or newer", ErrTables, t.name, column)
			}
		}
	}
	return nil
}

func (s *state) checkPublication(cfg Config) error {
	p := s.publication
	if p == nil {
		return fmt.Errorf("%w: publication %s does not exist: %s", ErrPublication, cfg.Publication, remedy)
	}
	if !p.viaRoot {
		return fmt.Errorf("%w: publication %s has publish_via_partition_root off, so changes would come under the names of leaves: %s", ErrPublication, cfg.Publication, remedy)
	}
	if !p.options() {
		return fmt.Errorf("%w: publication %s leaves out inserts, updates, deletes or truncates: %s", ErrPublication, cfg.Publication, remedy)
	}
	if p.filtered {
		return fmt.Errorf("%w: publication %s has a row filter, which hides transitions: %s", ErrPublication, cfg.Publication, remedy)
	}
	for i := range s.tables {
		t := &s.tables[i]
		have, ok := p.columns[t.name]
		if !ok {
			return fmt.Errorf("%w: publication %s lacks table %s: %s", ErrPublication, cfg.Publication, t.name, remedy)
		}
		for _, column := range t.wanted {
			// An engine that was upgraded just now has a column more: no reason to stop.
			if !slices.Contains(have, column) && (t.name != coreTable || column != optionalColumn) {
				return fmt.Errorf("%w: publication %s lacks column %s of table %s, which events need: %s", ErrPublication, cfg.Publication, column, t.name, remedy)
			}
		}
	}
	return nil
}

// checkCovered refuses a leaf whose replica identity a publication of some
// columns does not cover: Postgres then fails the application's updates and
// deletes. A dropped index of ff_exec_core was ours, and is no fault when
// migrate is about to mend it.
func (t *table) checkCovered(published []string, dangling bool) error {
	for _, l := range t.leaves {
		covered := l.logged != nil && !slices.ContainsFunc(l.logged, func(c string) bool { return !slices.Contains(published, c) })
		if covered || t.name == coreTable && l.dangling() && !dangling {
			continue
		}
		remedy := remedy
		if t.name != coreTable || !l.dangling() {
			remedy = "run: ALTER TABLE " + l.quoted() + " REPLICA IDENTITY DEFAULT"
		}
		return fmt.Errorf("%w: leaf %s of %s has %s, which a publication of the columns that events need does not cover, so that the application's updates of it fail: %s",
			ErrIdentity, l.name, t.name, l.describe(), remedy)
	}
	return nil
}

// describe names a replica identity.
func (l *leaf) describe() string {
	switch {
	case l.identity == "f":
		return "replica identity FULL"
	case l.identity == "n":
		return "replica identity NOTHING"
	case l.dangling():
		return "a replica identity whose index was dropped"
	case l.identity == "i":
		return "the index " + l.marked + " as replica identity"
	default:
		return "no primary key to be its replica identity"
	}
}
