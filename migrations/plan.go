package migrations

import (
	"context"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

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
