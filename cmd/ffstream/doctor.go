package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/ffstream/ffstream/internal/doctor"
	"github.com/ffstream/ffstream/migrations"
)

// doctorCmd says what is wrong with the source database and what mends it.
type doctorCmd struct {
	databaseFlags
	publicationFlags
	JSON bool `name:"json" help:"Print the findings as a JSON array."`
}

// Run looks and prints; a fault is an error, a warning is not.
func (c *doctorCmd) Run(ctx context.Context, term terminal) error {
	database, err := c.config()
	if err != nil {
		return err
	}
	if err := c.check(); err != nil {
		return err
	}
	conn, err := connect(ctx, database)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	cfg := migrations.Config{Publication: c.Publication, Identity: c.ReplicaIdentity == identityIndex}
	findings := doctor.Source(ctx, conn, cfg)
	if err := c.print(term.out, findings); err != nil {
		return fmt.Errorf("print findings: %w", err)
	}
	faults := 0
	for _, f := range findings {
		if f.Severity == doctor.Fault {
			faults++
		}
	}
	if faults > 0 {
		return fmt.Errorf("%d of %d checks found a fault", faults, len(findings))
	}
	return nil
}

func (c *doctorCmd) print(w io.Writer, findings []doctor.Finding) error {
	if c.JSON {
		return json.NewEncoder(w).Encode(findings)
	}
	for _, f := range findings {
		if _, err := fmt.Fprintf(w, "%-7s %s: %s\n", f.Severity, f.ID, f.Found); err != nil {
			return err
		}
		if f.Why != "" {
			if _, err := fmt.Fprintf(w, "        why: %s\n", f.Why); err != nil {
				return err
			}
		}
		for _, sql := range f.Remedy {
			if _, err := fmt.Fprintf(w, "        %s;\n", sql); err != nil {
				return err
			}
		}
	}
	return nil
}
