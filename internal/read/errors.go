package read

import (
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/ffstream/ffstream"
)

// explain gives a read's error its context; nil stays nil. A corruption names the
// execution itself.
func explain(op string, id ffstream.ExecutionID, err error) error {
	if err == nil {
		return nil
	}
	var corrupt *ffstream.CorruptionError
	if errors.As(err, &corrupt) {
		return fmt.Errorf("%s: %w", op, err)
	}
	return fmt.Errorf("%s of %s: %w", op, id, remedy(err))
}

// The SQLSTATEs that an operator has to mend.
const (
	undefinedTable        = "42P01"
	undefinedColumn       = "42703"
	insufficientPrivilege = "42501"
)

// remedy says of a fault of the database what it means and how to mend it.
func remedy(err error) error {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return err
	}
	switch pg.Code {
	case undefinedTable:
		return fmt.Errorf("no table %s on the search path: name the database and schema that the engine uses: "+
			"the engine's own migrations create it, ffstream migrate is not what creates it: %w", table(pg), err)
	case undefinedColumn:
		return fmt.Errorf("the engine's tables lack a column that every version known to this ffstream has: upgrade ffstream: %w", err)
	case insufficientPrivilege:
		return fmt.Errorf("the role may not read %s: run: GRANT SELECT ON ff_exec_core, ff_attempt TO its name (and USAGE on their schema): %w", table(pg), err)
	}
	return err
}

// table is the one of the two that a message names. The server's language may be
// any, the name stands in it all the same.
func table(pg *pgconn.PgError) string {
	for _, name := range []string{"ff_exec_core", "ff_attempt"} {
		if strings.Contains(pg.Message, name) {
			return name
		}
	}
	return "ff_exec_core or ff_attempt"
}
