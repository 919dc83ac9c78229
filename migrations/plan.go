package migrations

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Step is one statement that is missing, and why.
type Step struct {
	SQL  string
	Note string
	undo string // removes what an attempt that failed leaves; empty when that is nothing
	edit string // the publication that the statement makes or changes, see Lineage; empty: none

	indexes int // how many indexes the statement adds, negative for one that it drops
}

// Plan returns the statements that prepare the source, in order: the publication
// first, which covers the identity's columns, because an identity that a
// published column list does not cover makes the application's updates fail;
// then, leaf by leaf, an index built without blocking writes and the switch to
// it. An index that an interrupted build left invalid is dropped first.
//
// What something else set up and may need is not taken from it: a publication
// with more than the two tables, a leaf with another replica identity, an index
// that has our name alone. Where that is in the way the error says so; it wraps
// ErrPublication or ErrIdentity, or ErrTables.
func Plan(ctx context.Context, q Querier, cfg Config) ([]Step, error) {
	s, err := inspect(ctx, q, cfg)
	if err != nil {
		return nil, err
	}
	if err := s.checkTables(); err != nil {
		return nil, err
	}
	if err := s.checkForeign(cfg); err != nil {
		return nil, err
	}
	steps := s.planRepair()
	steps = append(steps, s.planPublication(cfg)...)
	if !cfg.Identity {
		return steps, nil
	}
	for _, l := range s.core().leaves {
		steps = append(steps, planLeaf(l)...)
	}
	return steps, nil
}

// checkForeign refuses to overwrite what is not ours, and to publish a leaf that
// cannot be updated once it is.
func (s *state) checkForeign(cfg Config) error {
	if p := s.publication; p != nil && len(p.others) > 0 && s.checkPublication(cfg) != nil {
		return fmt.Errorf("%w: publication %s publishes %s too, and ffstream's own has %s and %s alone: choose another name (--publication)",
			ErrPublication, cfg.Publication, list(p.others), coreTable, attemptTable)
	}
	for _, l := range s.core().leaves {
		if !cfg.Identity {
			break
		}
		if l.own != nil && !l.own.ours() {
			return fmt.Errorf("%w: index %s of leaf %s has the name of ffstream's and is another: rename or drop it, then %s", ErrIdentity, l.own.name, l.name, remedy)
		}
		if l.identity != "d" && !l.marksOurs() && !l.dangling() {
			return fmt.Errorf("%w: leaf %s of %s has %s, which something else chose: when nothing needs it any more, run: ALTER TABLE %s REPLICA IDENTITY DEFAULT",
				ErrIdentity, l.name, coreTable, l.describe(), l.quoted())
		}
	}
	for i := range s.tables {
		if err := s.tables[i].checkCovered(s.tables[i].wanted, false); err != nil {
			return err
		}
	}
	return nil
}

// planRepair gives leaves whose index was dropped or broke their key back, so
// that publishing them does no harm.
func (s *state) planRepair() []Step {
	var steps []Step
	for _, l := range s.core().leaves {
		if l.dangling() || l.marksOurs() && !l.own.valid {
			steps = append(steps, Step{SQL: "ALTER TABLE " + l.quoted() + " REPLICA IDENTITY DEFAULT", Note: "the index that it names is gone or invalid"})
		}
	}
	return steps
}

func (s *state) planPublication(cfg Config) []Step {
	name := pgx.Identifier{cfg.Publication}.Sanitize()
	p := s.publication
	if p != nil && len(p.others) > 0 {
		return nil // somebody else's, and it serves
	}
	var tables []string
	same := p != nil && !p.filtered
	for i := range s.tables {
		t := &s.tables[i]
		tables = append(tables, t.quoted()+" ("+strings.Join(t.wanted, ", ")+")")
		same = same && slices.Equal(slices.Sorted(slices.Values(p.columns[t.name])), slices.Sorted(slices.Values(t.wanted)))
	}
	list := "TABLE " + strings.Join(tables, ", ")
	const options = "publish_via_partition_root = true, publish = 'insert, update, delete, truncate'"
	if p == nil {
		return []Step{{
			SQL:  "CREATE PUBLICATION " + name + " FOR " + list + " WITH (" + options + ")",
			Note: "publish both tables under their own names, without payloads and results",
			edit: cfg.Publication,
		}}
	}
	var steps []Step
	// Postgres takes column lists of partitioned tables only under the roots' names.
	if !p.options() {
		steps = append(steps, Step{SQL: "ALTER PUBLICATION " + name + " SET (" + options + ")", Note: "publish everything under the names of the partitioned tables", edit: cfg.Publication})
	}
	if !same {
		steps = append(steps, Step{SQL: "ALTER PUBLICATION " + name + " SET " + list, Note: "publish the columns that events need and no others", edit: cfg.Publication})
	}
	return steps
}

func planLeaf(l *leaf) []Step {
	if l.ready() {
		return nil
	}
	var steps []Step
	name := pgx.Identifier{indexName(l.name)}.Sanitize()
	if l.own != nil && !l.own.valid {
		steps = append(steps, Step{SQL: "DROP INDEX CONCURRENTLY " + l.quotedIndex(), Note: "an interrupted build left it invalid", indexes: -1})
	}
	if l.own == nil || !l.own.valid {
		steps = append(steps, Step{
			SQL:  "CREATE UNIQUE INDEX CONCURRENTLY " + name + " ON " + l.quoted() + " (" + strings.Join(identityColumns, ", ") + ")",
			Note: "key, state and lane of " + l.name,
			undo: "DROP INDEX CONCURRENTLY IF EXISTS " + l.quotedIndex(), indexes: 1,
		})
	}
	return append(steps, Step{SQL: "ALTER TABLE " + l.quoted() + " REPLICA IDENTITY USING INDEX " + name, Note: "log the old state when it changes"})
}

// PlanDown returns the statements that remove what Apply added and nothing else:
// a replica identity or an index that is not ours stays, and so does a
// publication that something else uses too.
func PlanDown(ctx context.Context, q Querier, cfg Config) ([]Step, error) {
	s, err := inspect(ctx, q, cfg)
	if err != nil {
		return nil, err
	}
	var steps []Step
	for _, l := range s.core().leaves {
		if l.marksOurs() || l.dangling() {
			steps = append(steps, Step{SQL: "ALTER TABLE " + l.quoted() + " REPLICA IDENTITY DEFAULT", Note: "log the key alone"})
		}
		if l.own.ours() {
			steps = append(steps, Step{SQL: "DROP INDEX CONCURRENTLY " + l.quotedIndex(), Note: "the identity of " + l.name, indexes: -1})
		}
	}
	if s.publication != nil && len(s.publication.others) == 0 {
		steps = append(steps, Step{SQL: "DROP PUBLICATION " + pgx.Identifier{cfg.Publication}.Sanitize(), Note: "nothing is published any more"})
	}
	return steps, nil
}
