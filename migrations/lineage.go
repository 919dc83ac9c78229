package migrations

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// A publication decides by the catalog of each moment what is sent: rows that
// were written while a table was out of it are gone without a trace when it is
// back. What the catalog cannot tell afterwards its row versions can, and the
// publication's comment says which of them followed another without a break.

// lineagePrefix begins the comment that Apply gives a publication.
const lineagePrefix = "ffstream: unbroken since "

// lineageLength is how many editions a comment names: as many upgrades of the
// engine may pass while the service is down.
const lineageLength = 8

// editionSQL names an edition of the publication: its own row in the catalog and
// those of our tables in it, by oid and version. A table that is taken out and put
// back has other rows then, and options that are changed and changed back
// another version.
const editionSQL = `SELECT substr(md5(p.oid || '.' || p.xmin || coalesce((
			SELECT string_agg(r.oid || '.' || r.prrelid || '.' || r.xmin, ',' ORDER BY r.oid) FROM pg_publication_rel r
			WHERE r.prpubid = p.oid AND r.prrelid IN (to_regclass($2), to_regclass($3))), '') || coalesce((
			SELECT string_agg(n.oid || '.' || n.xmin, ',' ORDER BY n.oid) FROM pg_publication_namespace n WHERE n.pnpubid = p.oid), '')), 1, 12),
		coalesce(obj_description(p.oid, 'pg_publication'), '')
	FROM pg_publication p WHERE p.pubname = $1`

// Lineage returns the editions of the publication that followed each other
// without a break, the present one last; more than one only where Apply made
// the later ones. Nil: there is no such publication.
func Lineage(ctx context.Context, q Querier, cfg Config) ([]string, error) {
	var edition, comment string
	found := false
	err := each(ctx, q, editionSQL, []any{cfg.Publication, coreTable, attemptTable}, func(r pgx.Rows) error {
		found = true
		return r.Scan(&edition, &comment)
	})
	if err != nil || !found {
		return nil, err
	}
	text, ours := strings.CutPrefix(comment, lineagePrefix)
	line := strings.Fields(text)
	if !ours || !slices.Contains(line, edition) {
		return []string{edition}, nil
	}
	return line[:slices.Index(line, edition)+1], nil
}

// edit changes the publication and notes in its comment what it followed, if that
// served: rows that were written under one that did not are lost.
func edit(ctx context.Context, conn *pgx.Conn, cfg Config, sql string) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		before, err := inspect(ctx, tx, cfg)
		if err != nil {
			return err
		}
		var line []string
		if before.publication != nil && before.checkPublication(cfg) == nil {
			if line, err = Lineage(ctx, tx, cfg); err != nil {
				return err
			}
		}
		if _, err := tx.Exec(ctx, sql); err != nil {
			return err
		}
		now, err := Lineage(ctx, tx, cfg)
		if err != nil || len(now) == 0 {
			return err
		}
		line = append(line, now[len(now)-1])
		line = line[max(0, len(line)-lineageLength):]
		_, err = tx.Exec(ctx, fmt.Sprintf("COMMENT ON PUBLICATION %s IS '%s%s'", pgx.Identifier{cfg.Publication}.Sanitize(), lineagePrefix, strings.Join(line, " ")))
		return err
	})
}
