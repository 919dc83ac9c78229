package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/nats-io/nats.go"

	"github.com/ffstream/ffstream/internal/doctor"
	"github.com/ffstream/ffstream/internal/publish"
	"github.com/ffstream/ffstream/internal/repl"
	"github.com/ffstream/ffstream/internal/shard"
	"github.com/ffstream/ffstream/migrations"
)

// doctorCmd says what is wrong with both ends and what mends it.
type doctorCmd struct {
	serviceFlags
	JSON    bool          `name:"json" help:"Print the findings as a JSON array."`
	Timeout time.Duration `help:"How long all looks may take; those that had no time are reported." default:"1m"`
}

// brokerTimeout bounds all looks at the broker.
const brokerTimeout = 15 * time.Second

// Run looks and prints; a fault is an error, a warning is not.
func (c *doctorCmd) Run(ctx context.Context, term terminal) error {
	database, err := c.check()
	if err != nil {
		return err
	}
	if c.Timeout <= 0 {
		return usagef("--timeout %s: want more than 0", c.Timeout)
	}
	cautious(database, "ffstream doctor")
	looking, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	findings := c.sink(looking, database, c.source(looking, database))
	if ctx.Err() != nil {
		return ctx.Err()
	}
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

// cautious makes the connections that are made with database harmless to a
// production primary: they write nothing and hold nothing up.
func cautious(database *pgconn.Config, name string) {
	for key, value := range map[string]string{
		"default_transaction_read_only": "on", "statement_timeout": "2s", "lock_timeout": "100ms", "idle_in_transaction_session_timeout": "10s",
		"application_name": name,
	} {
		database.RuntimeParams[key] = value
	}
}

func (c *doctorCmd) source(ctx context.Context, database *pgconn.Config) []doctor.Finding {
	conn, err := connect(ctx, database)
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "08P01" { // PgBouncer takes no parameter that it does not know
		return []doctor.Finding{{ID: "pooler", Severity: doctor.Fault, Found: oneLine(err), Why: "a connection pooler stands between, and poolers pass no replication: name the server itself in --database-url"}}
	}
	if err != nil {
		return []doctor.Finding{{ID: "postgres", Severity: doctor.Fault, Found: err.Error(), Why: "nothing of the source can be looked at"}}
	}
	defer func() { _ = conn.Close(ctx) }()
	return doctor.Source(ctx, conn, doctor.Config{
		Config: migrations.Config{Publication: c.Publication, Identity: c.ReplicaIdentity == identityIndex}, Slot: c.Slot,
	})
}

// sink adds the looks at the broker, when one is named: the embedded one is the
// service's own, and there is none while no service runs.
func (c *doctorCmd) sink(ctx context.Context, database *pgconn.Config, findings []doctor.Finding) []doctor.Finding {
	if c.NATSURL == "" {
		return append(findings, doctor.Finding{
			ID: "nats", Severity: doctor.OK, Found: "no NATS URL is given, so run serves JetStream itself, and what it stores was not looked at: that takes a run and its address as --nats-url",
		})
	}
	if ctx.Err() != nil {
		return append(findings, doctor.Unseen("nats"))
	}
	ctx, cancel := context.WithTimeout(ctx, brokerTimeout)
	defer cancel()
	fault := func(id, why string, err error) []doctor.Finding {
		return append(findings, doctor.Finding{ID: id, Severity: doctor.Fault, Found: oneLine(err), Why: why})
	}
	nc, err := connectNATS(c.NATSURL, &c.natsAuth, slog.New(slog.DiscardHandler), nats.RetryOnFailedConnect(false))
	if err != nil {
		return fault("nats", "nothing of the stream can be looked at", publish.Refused(err))
	}
	defer nc.Close()
	cfg, closeSource := c.shard(database, slog.New(slog.DiscardHandler))
	defer closeSource()
	cfg.Sink.Refusal, cfg.Sink.Slot = nc.refusal, c.Slot
	source, err := repl.Open(ctx, cfg.Source)
	if err != nil {
		return fault("replication", "the service cannot follow the slot, and whose stream it is cannot be told", err)
	}
	cfg.Sink.SystemID = source.System().ID
	findings = append(findings, doctor.Stream(ctx, nc.Conn, cfg.Sink)...)
	if err := source.Close(ctx); err != nil && !errors.Is(err, context.Canceled) {
		findings = fault("replication", "the connection broke", err)
	}
	err = shard.Examine(ctx, nc.Conn, cfg)
	if errors.Is(err, shard.ErrGap) {
		return doctor.WithContinuity(findings, errors.New(oneLine(err)), nil)
	}
	return doctor.WithContinuity(findings, nil, err)
}

func (c *doctorCmd) print(w io.Writer, findings []doctor.Finding) error {
	if c.JSON {
		return json.NewEncoder(w).Encode(findings)
	}
	for i := range findings {
		if _, err := io.WriteString(w, describeFinding(&findings[i])); err != nil {
			return err
		}
	}
	return nil
}

func describeFinding(f *doctor.Finding) string {
	text := fmt.Sprintf("%-7s %s: %s\n", f.Severity, f.ID, f.Found)
	if f.Why != "" {
		text += "        why: " + f.Why + "\n"
	}
	remedy := f.Remedy
	if f.Command != "" { // hundreds of statements, which --json lists
		remedy, text = nil, text+"        $ "+f.Command+"\n"
	}
	for _, sql := range remedy {
		text += "        " + sql + ";\n"
	}
	if f.Restart {
		text += "        and restart Postgres\n"
	}
	for _, command := range f.Run {
		text += "        $ " + command + "\n"
	}
	return text
}
