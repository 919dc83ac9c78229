package migrations

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
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
