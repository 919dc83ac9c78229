package migrations

import (
	"context"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
)

// state is what the catalog says.
type state struct {
	tables      [2]table     // ff_exec_core, ff_attempt
	publication *publication // nil: there is none of that name
}

func (s *state) core() *table { return &s.tables[0] }

// table is one of the engine's tables. It does not exist when it has no columns.
type table struct {
	oid          uint32
	schema, name string
	columns      []string
	wanted       []string // the columns that the publication has to hold
	leaves       []*leaf
}

func (t *table) quoted() string { return pgx.Identifier{t.schema, t.name}.Sanitize() }

// publication is one that has the configured name, whoever made it.
type publication struct {
	oid                                       uint32
	viaRoot, insert, update, remove, truncate bool
	filtered                                  bool                // one of our tables has a row filter
	columns                                   map[string][]string // by name of our tables, those published
	others                                    []string            // what it publishes beside our tables
}

// options reports whether everything is published, under the roots' names.
func (p *publication) options() bool {
	return p.viaRoot && p.insert && p.update && p.remove && p.truncate
}

// leaf is a table that holds rows of one of the engine's tables.
type leaf struct {
	schema, name string
	identity     string   // relreplident: d, n, f, i
	logged       []string // the columns of the identity; nil when it has none or its index was dropped
	marked       string   // name of the index that is the identity
	own          *index   // the index that has our name, whoever made it
}

func (l *leaf) quoted() string { return pgx.Identifier{l.schema, l.name}.Sanitize() }

// quotedIndex is the name of our index with its schema.
func (l *leaf) quotedIndex() string {
	return pgx.Identifier{l.schema, indexName(l.name)}.Sanitize()
}

// index is one of a leaf's.
type index struct {
	name    string
	valid   bool
	plain   bool // a unique B-tree of columns alone, of all rows, checked at once
	columns []string
}

// ours reports whether migrate could have made the index: its name alone does
// not tell.
func (x *index) ours() bool { return x != nil && x.plain && slices.Equal(x.columns, identityColumns) }

// marksOurs reports whether our index is the leaf's identity.
func (l *leaf) marksOurs() bool {
	return l.identity == "i" && l.own.ours() && l.marked == l.own.name
}

// dangling: the index that was the identity has been dropped, so the leaf logs
// nothing, and an update of it fails once it is published.
func (l *leaf) dangling() bool { return l.identity == "i" && l.marked == "" }

func (l *leaf) ready() bool { return l.marksOurs() && l.own.valid }

const maxName = 63 // bytes of an identifier in Postgres

// indexName is the name of a leaf's index. One that would be too long is cut at
// a character and told apart by a checksum.
func indexName(leaf string) string {
	if len(leaf)+len(indexSuffix) <= maxName {
		return leaf + indexSuffix
	}
	suffix := fmt.Sprintf("_%08x%s", crc32.ChecksumIEEE([]byte(leaf)), indexSuffix)
	n := maxName - len(suffix)
	for !utf8.RuneStart(leaf[n]) {
		n--
	}
	return leaf[:n] + suffix
}

// inspect reads the catalog. It locks no table, so that it can be read while
// somebody else holds one.
func inspect(ctx context.Context, q Querier, cfg Config) (*state, error) {
	s := &state{tables: [2]table{{name: coreTable}, {name: attemptTable}}}
	for i := range s.tables {
		if err := s.tables[i].read(ctx, q); err != nil {
			return nil, fmt.Errorf("read table %s: %w", s.tables[i].name, err)
		}
	}
	s.tables[0].wanted, s.tables[1].wanted = coreColumns, attemptColumns
	if !slices.Contains(s.core().columns, optionalColumn) {
		s.core().wanted = without(coreColumns, optionalColumn)
	}
	if err := s.readPublication(ctx, q, cfg.Publication); err != nil {
		return nil, fmt.Errorf("read publication %s: %w", cfg.Publication, err)
	}
	return s, nil
}

func without(all []string, one string) []string {
	return slices.DeleteFunc(slices.Clone(all), func(s string) bool { return s == one })
}

const (
	tableSQL = `SELECT c.oid, n.nspname, array_agg(a.attname::text ORDER BY a.attnum)
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid
		WHERE c.oid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped GROUP BY c.oid, n.nspname`
	// indexesSQL has a row for each leaf and index of it that matters.
	leavesSQL = `WITH RECURSIVE tree AS (SELECT $1::oid AS oid UNION ALL SELECT i.inhrelid FROM tree JOIN pg_inherits i ON i.inhparent = tree.oid)
		SELECT c.oid, n.nspname, c.relname, c.relreplident::text,
			coalesce(x.relname, ''), coalesce(x.indisreplident, false), coalesce(x.indisprimary, false), coalesce(x.indisvalid, false), coalesce(x.plain, false), x.columns
		FROM tree JOIN pg_class c ON c.oid = tree.oid AND c.relkind <> 'p' JOIN pg_namespace n ON n.oid = c.relnamespace
		LEFT JOIN LATERAL (SELECT xc.relname, i.indisreplident, i.indisprimary, i.indisvalid,
				i.indisunique AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL AND i.indnatts = i.indnkeyatts
					AND xc.relam = (SELECT oid FROM pg_am WHERE amname = 'btree') AS plain,
				ARRAY(SELECT a.attname::text FROM unnest(i.indkey::int2[]) WITH ORDINALITY k (attnum, nr)
					JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum ORDER BY k.nr) AS columns
			FROM pg_index i JOIN pg_class xc ON xc.oid = i.indexrelid
			WHERE i.indrelid = c.oid AND (i.indisreplident OR i.indisprimary OR right(xc.relname, $2) = $3)) x ON true
		ORDER BY length(c.relname), c.relname, c.oid`
)

// read fills in what the catalog has of the table that the search path finds.
func (t *table) read(ctx context.Context, q Querier) error {
	err := each(ctx, q, tableSQL, []any{t.name}, func(r pgx.Rows) error { return r.Scan(&t.oid, &t.schema, &t.columns) })
	if err != nil || len(t.columns) == 0 {
		return err
	}
	var last uint32
	return each(ctx, q, leavesSQL, []any{t.oid, len(indexSuffix), indexSuffix}, func(r pgx.Rows) error {
		var l leaf
		var x index
		var oid uint32
		var marked, primary bool
		if err := r.Scan(&oid, &l.schema, &l.name, &l.identity, &x.name, &marked, &primary, &x.valid, &x.plain, &x.columns); err != nil {
			return err
		}
		if oid != last || len(t.leaves) == 0 {
			t.leaves = append(t.leaves, &l)
			last = oid
		}
		t.leaves[len(t.leaves)-1].add(&x, marked, primary, t.columns)
		return nil
	})
}

// add notes an index of the leaf; one without a name stands for none.
func (l *leaf) add(x *index, marked, primary bool, columns []string) {
	if l.identity == "f" {
		l.logged = columns
	}
	if x.name == "" {
		return
	}
	if l.identity == "i" && marked {
		l.marked, l.logged = x.name, x.columns
	}
	if l.identity == "d" && primary {
		l.logged = x.columns
	}
	if x.name == indexName(l.name) {
		l.own = x
	}
}

const (
	publicationSQL = `SELECT oid, pubviaroot, pubinsert, pubupdate, pubdelete, pubtruncate, puballtables FROM pg_publication WHERE pubname = $1`
	publishedSQL   = `SELECT r.prrelid, format('%I.%I', n.nspname, c.relname), r.prqual IS NOT NULL,
			ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
				AND (r.prattrs IS NULL OR a.attnum = ANY (r.prattrs::int2[])) ORDER BY a.attnum)
		FROM pg_publication_rel r JOIN pg_class c ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE r.prpubid = $1 ORDER BY c.relname, n.nspname`
	publishedSchemasSQL = `SELECT n.nspname FROM pg_publication_namespace p JOIN pg_namespace n ON n.oid = p.pnnspid WHERE p.pnpubid = $1 ORDER BY 1`
)

func (s *state) readPublication(ctx context.Context, q Querier, name string) error {
	var p publication
	var all bool
	err := each(ctx, q, publicationSQL, []any{name}, func(r pgx.Rows) error {
		s.publication = &p
		return r.Scan(&p.oid, &p.viaRoot, &p.insert, &p.update, &p.remove, &p.truncate, &all)
	})
	if err != nil || s.publication == nil {
		return err
	}
	p.columns = make(map[string][]string)
	if all {
		p.others = append(p.others, "all tables of the database")
		s.publishWhole("")
	}
	err = each(ctx, q, publishedSchemasSQL, []any{p.oid}, func(r pgx.Rows) error {
		var schema string
		if err := r.Scan(&schema); err != nil {
			return err
		}
		p.others = append(p.others, "the tables of schema "+schema)
		s.publishWhole(schema)
		return nil
	})
	if err != nil {
		return err
	}
	return each(ctx, q, publishedSQL, []any{p.oid}, func(r pgx.Rows) error { return s.publish(r) })
}

// publishWhole notes that our tables in a schema, or in any, are published with
// all of their columns.
func (s *state) publishWhole(schema string) {
	for i := range s.tables {
		if t := &s.tables[i]; schema == "" || t.schema == schema {
			s.publication.columns[t.name] = t.columns
		}
	}
}

// publish notes one table of the publication.
func (s *state) publish(r pgx.Rows) error {
	var oid uint32
	var name string
	var filtered bool
	var columns []string
	if err := r.Scan(&oid, &name, &filtered, &columns); err != nil {
		return err
	}
	for i := range s.tables {
		if t := &s.tables[i]; t.oid == oid {
			s.publication.columns[t.name] = columns
			s.publication.filtered = s.publication.filtered || filtered
			return nil
		}
	}
	s.publication.others = append(s.publication.others, "table "+name)
	return nil
}

// each calls f for each row of a query.
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

// list renders up to three names.
func list(names []string) string {
	if more := len(names) - 3; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:3], ", "), more)
	}
	return strings.Join(names, ", ")
}
