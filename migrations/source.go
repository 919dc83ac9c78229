package migrations

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
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

// state is what the catalog says.
type state struct {
	schema      string              // of ff_exec_core; empty when it does not exist
	columns     map[string][]string // by table
	publication *publication
	leaves      []leaf
}

type publication struct {
	viaRoot, insert, update, remove, truncate bool
	columns                                   map[string][]string // by table, those published
	filtered                                  bool                // some table has a row filter
}

// leaf is a partition of ff_exec_core.
type leaf struct {
	schema, name string
	identity     string // relreplident: d, n, f, i
	identityName string // of the identity's index
	hasIndex     bool   // an index of our name exists
	valid        bool   // and is valid
}

func (l leaf) quoted() string { return pgx.Identifier{l.schema, l.name}.Sanitize() }
func (l leaf) index() string  { return indexName(l.name) }

// indexName is the name of a leaf's index, within Postgres's 63 bytes.
func indexName(leaf string) string { return leaf[:min(len(leaf), 63-len(indexSuffix))] + indexSuffix }

func (l leaf) ready() bool { return l.identity == "i" && l.identityName == l.index() && l.valid }

// inspect reads the catalog in four queries.
func inspect(ctx context.Context, q Querier, cfg Config) (*state, error) {
	s := &state{columns: make(map[string][]string)}
	err := each(ctx, q, `SELECT n.nspname, c.relname, a.attname FROM pg_class c
		JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid
		WHERE c.oid = ANY (ARRAY[to_regclass('ff_exec_core'), to_regclass('ff_attempt')]::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
		ORDER BY c.relname, a.attnum`, nil, func(r pgx.Rows) error {
		var schema, table, column string
		err := r.Scan(&schema, &table, &column)
		s.schema = schema
		s.columns[table] = append(s.columns[table], column)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read tables: %w", err)
	}
	err = each(ctx, q, `SELECT pubviaroot, pubinsert, pubupdate, pubdelete, pubtruncate FROM pg_publication WHERE pubname = $1`,
		[]any{cfg.Publication}, func(r pgx.Rows) error {
			p := &publication{columns: make(map[string][]string)}
			s.publication = p
			return r.Scan(&p.viaRoot, &p.insert, &p.update, &p.remove, &p.truncate)
		})
	if err != nil {
		return nil, fmt.Errorf("read publication %s: %w", cfg.Publication, err)
	}
	if s.publication != nil {
		err = each(ctx, q, `SELECT tablename, attnames::text[], rowfilter IS NOT NULL FROM pg_publication_tables WHERE pubname = $1`,
			[]any{cfg.Publication}, func(r pgx.Rows) error {
				var table string
				var columns []string
				var filtered bool
				err := r.Scan(&table, &columns, &filtered)
				s.publication.columns[table] = columns
				s.publication.filtered = s.publication.filtered || filtered
				return err
			})
		if err != nil {
			return nil, fmt.Errorf("read publication %s: %w", cfg.Publication, err)
		}
	}
	if len(s.columns[coreTable]) == 0 {
		return s, nil
	}
	err = each(ctx, q, `SELECT n.nspname, c.relname, c.relreplident::text, coalesce(ic.relname, ''), own.indexrelid IS NOT NULL, coalesce(own.indisvalid, false)
		FROM pg_partition_tree('ff_exec_core') t
		JOIN pg_class c ON c.oid = t.relid JOIN pg_namespace n ON n.oid = c.relnamespace
		LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisreplident LEFT JOIN pg_class ic ON ic.oid = i.indexrelid
		LEFT JOIN LATERAL (SELECT x.indexrelid, x.indisvalid FROM pg_index x JOIN pg_class xc ON xc.oid = x.indexrelid
			WHERE x.indrelid = c.oid AND xc.relname = left(c.relname, $1) || $2) own ON true
		WHERE t.isleaf ORDER BY length(c.relname), c.relname`, []any{63 - len(indexSuffix), indexSuffix}, func(r pgx.Rows) error {
		var l leaf
		err := r.Scan(&l.schema, &l.name, &l.identity, &l.identityName, &l.hasIndex, &l.valid)
		s.leaves = append(s.leaves, l)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read replica identity: %w", err)
	}
	return s, nil
}

func each(ctx context.Context, q Querier, sql string, args []any, f func(pgx.Rows) error) error {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := f(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

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

// Step is one statement that is missing, and why.
type Step struct {
	SQL  string
	Note string
}

// Plan returns the statements that prepare the source, in order: the publication
// first, which covers the identity's columns, because an identity that a
// published column list does not cover makes the application's updates fail;
// then, leaf by leaf, an index built without blocking writes and the switch to
// it. An index that an interrupted build left invalid is dropped first.
func Plan(ctx context.Context, q Querier, cfg Config) ([]Step, error) {
	s, err := inspect(ctx, q, cfg)
	if err != nil {
		return nil, err
	}
	if err := s.checkTables(); err != nil {
		return nil, err
	}
	steps := s.planPublication(cfg)
	if !cfg.Identity {
		return steps, nil
	}
	for _, l := range s.leaves {
		steps = append(steps, planLeaf(l)...)
	}
	return steps, nil
}

func (s *state) planPublication(cfg Config) []Step {
	name := pgx.Identifier{cfg.Publication}.Sanitize()
	wanted := s.wanted()
	var tables []string
	same := s.publication != nil && !s.publication.filtered && len(s.publication.columns) == len(wanted)
	for _, table := range []string{coreTable, attemptTable} {
		tables = append(tables, pgx.Identifier{s.schema, table}.Sanitize()+" ("+strings.Join(wanted[table], ", ")+")")
		if same {
			have := slices.Sorted(slices.Values(s.publication.columns[table]))
			same = slices.Equal(have, slices.Sorted(slices.Values(wanted[table])))
		}
	}
	list := "TABLE " + strings.Join(tables, ", ")
	const options = "publish_via_partition_root = true, publish = 'insert, update, delete, truncate'"
	if s.publication == nil {
		return []Step{{"CREATE PUBLICATION " + name + " FOR " + list + " WITH (" + options + ")", "publish both tables under their own names, without payloads and results"}}
	}
	var steps []Step
	if !same {
		steps = append(steps, Step{"ALTER PUBLICATION " + name + " SET " + list, "publish the columns that events need and no others"})
	}
	if p := s.publication; !p.viaRoot || !p.insert || !p.update || !p.remove || !p.truncate {
		steps = append(steps, Step{"ALTER PUBLICATION " + name + " SET (" + options + ")", "publish everything under the names of the partitioned tables"})
	}
	return steps
}

func planLeaf(l leaf) []Step {
	if l.ready() {
		return nil
	}
	var steps []Step
	index := pgx.Identifier{l.index()}.Sanitize()
	if l.hasIndex && !l.valid {
		steps = append(steps, Step{"DROP INDEX CONCURRENTLY " + pgx.Identifier{l.schema, l.index()}.Sanitize(), "an interrupted build left it invalid"})
	}
	if !l.hasIndex || !l.valid {
		steps = append(steps, Step{"CREATE UNIQUE INDEX CONCURRENTLY " + index + " ON " + l.quoted() + " (" + strings.Join(identityColumns, ", ") + ")", "key, state and lane of " + l.name})
	}
	return append(steps, Step{"ALTER TABLE " + l.quoted() + " REPLICA IDENTITY USING INDEX " + index, "log the old state when it changes"})
}

// Progress is how far Apply has come.
type Progress struct {
	Done, Total int
	Step        Step
	Retry       error // set while a statement is tried again because it got no lock
}

// Apply runs the statements of Plan one by one, each in a transaction of its
// own. One that gets no lock within LockTimeout is tried again until ctx ends. It
// can be interrupted and run again at any time.
func Apply(ctx context.Context, conn *pgx.Conn, cfg Config, steps []Step, progress func(Progress)) error {
	if cfg.LockTimeout == 0 {
		cfg.LockTimeout = defaultLockTimeout
	}
	if _, err := conn.Exec(ctx, fmt.Sprintf("SET lock_timeout = %d", cfg.LockTimeout.Milliseconds())); err != nil {
		return fmt.Errorf("set lock_timeout: %w", err)
	}
	for i, step := range steps {
		progress(Progress{Done: i, Total: len(steps), Step: step})
		for {
			_, err := conn.Exec(ctx, step.SQL)
			if err == nil {
				break
			}
			if !lockFailure(err) {
				return fmt.Errorf("apply %q: %w", step.SQL, err)
			}
			progress(Progress{Done: i, Total: len(steps), Step: step, Retry: err})
			if err := dropInvalid(ctx, conn, step); err != nil {
				return err
			}
			select {
			case <-time.After(cfg.LockTimeout / 2): // the application's turn
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	progress(Progress{Done: len(steps), Total: len(steps)})
	return nil
}

// dropInvalid removes what a CREATE INDEX CONCURRENTLY that got no lock leaves.
func dropInvalid(ctx context.Context, conn *pgx.Conn, step Step) error {
	rest, ok := strings.CutPrefix(step.SQL, "CREATE UNIQUE INDEX CONCURRENTLY ")
	if !ok {
		return nil
	}
	index, on, _ := strings.Cut(rest, " ON ")
	schema, _, _ := strings.Cut(on, ".")
	for {
		_, err := conn.Exec(ctx, "DROP INDEX CONCURRENTLY IF EXISTS "+schema+"."+index)
		if err == nil {
			return nil
		}
		if !lockFailure(err) {
			return fmt.Errorf("drop invalid index: %w", err)
		}
	}
}

// lockFailure: no lock within lock_timeout, or a deadlock that this lost.
func lockFailure(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && (pg.Code == "55P03" || pg.Code == "40P01")
}

// PlanDown returns the statements that remove what Apply added and nothing else.
// A replica identity that is not ours stays.
func PlanDown(ctx context.Context, q Querier, cfg Config) ([]Step, error) {
	s, err := inspect(ctx, q, cfg)
	if err != nil {
		return nil, err
	}
	var steps []Step
	for _, l := range s.leaves {
		if l.identity == "i" && l.identityName == l.index() {
			steps = append(steps, Step{"ALTER TABLE " + l.quoted() + " REPLICA IDENTITY DEFAULT", "log the key alone"})
		}
		if l.hasIndex {
			steps = append(steps, Step{"DROP INDEX CONCURRENTLY " + pgx.Identifier{l.schema, l.index()}.Sanitize(), "the identity of " + l.name})
		}
	}
	if s.publication != nil {
		steps = append(steps, Step{"DROP PUBLICATION " + pgx.Identifier{cfg.Publication}.Sanitize(), "nothing is published any more"})
	}
	return steps, nil
}
