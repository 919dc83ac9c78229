package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/client"
	"github.com/ffstream/ffstream/internal/publish"
)

// tailCmd prints events.
type tailCmd struct {
	streamFlags
	State     []string `help:"Only these states entered (repeat or separate by commas): ${stateNames}." placeholder:"STATE"`
	Lane      []string `help:"Only these lanes." placeholder:"LANE"`
	Namespace []string `help:"Only these namespaces." placeholder:"NAMESPACE"`
	Partition []uint16 `help:"Only these partitions." placeholder:"N"`
	Terminal  bool     `help:"Only steps into a terminal state."`
	Step      []string `help:"Only steps from one state to another, either left empty for any: active:failed, :completed, suspended: (repeat for more; a step whose from is not known meets only an empty FROM)." placeholder:"FROM:TO" sep:"none"`
	Tag       []string `help:"Only executions with this tag (repeat for more, which are wanted all)." placeholder:"KEY=VALUE" sep:"none"`
	Execution string   `help:"Only this execution, {fp:N}:<uuid>." placeholder:"ID"`
	Since     string   `help:"Begin with what was published since: a duration (10m) or a time. Without it, with what comes." placeholder:"WHEN"`
	Follow    bool     `help:"Go on with what comes; --follow=false ends at the stream's end." default:"true" negatable:""`
	JSON      bool     `name:"json" help:"One event a line, as it is stored."`
	Color     string   `help:"auto, always or never." default:"auto" enum:"auto,always,never"`
}

func (c *tailCmd) filter() (client.Filter, error) {
	f := client.Filter{Lanes: c.Lane, Namespaces: c.Namespace, Partitions: c.Partition, Terminal: c.Terminal}
	for _, s := range c.State {
		if !entered(s) {
			return f, usagef("--state %q: want one of %s", s, stateNames())
		}
		f.States = append(f.States, ffstream.PublicState(s))
	}
	for _, s := range c.Step {
		from, to, ok := strings.Cut(s, ":")
		_, err := ffstream.ParsePublicState(from)
		if !ok || from == "" && to == "" || from != "" && err != nil || to != "" && !entered(to) {
			return f, usagef("--step %q: want FROM:TO, of which one may be empty, each one of %s; nothing comes from %s", s, stateNames(), ffstream.StatePurged)
		}
		f.Steps = append(f.Steps, client.Step{From: ffstream.PublicState(from), To: ffstream.PublicState(to)})
	}
	for _, s := range c.Tag {
		key, value, ok := strings.Cut(s, "=")
		if !ok || key == "" {
			return f, usagef("--tag %q: want KEY=VALUE", s)
		}
		f.Tags = append(f.Tags, ffstream.Tag{Key: key, Value: value})
	}
	if c.Execution != "" {
		id, err := ffstream.ParseExecutionID(c.Execution)
		if err != nil {
			return f, usagef("--execution: %w", err)
		}
		f.Execution = id
	}
	return f, nil
}

// entered reports whether s is a state that an event can tell of.
func entered(s string) bool {
	_, err := ffstream.ParsePublicState(s)
	return err == nil || s == string(ffstream.StatePurged)
}

// everything reports that no flag narrows what is printed.
func (c *tailCmd) everything() bool {
	return len(c.State)+len(c.Lane)+len(c.Namespace)+len(c.Partition)+len(c.Step)+len(c.Tag) == 0 && !c.Terminal && c.Execution == ""
}

// Run prints until ctx ends or, without --follow, the stream's end is reached.
func (c *tailCmd) Run(ctx context.Context, term terminal, log *slog.Logger) error {
	if c.NATSURL == "" {
		c.NATSURL = nats.DefaultURL // where run's embedded server listens
	}
	if err := c.check(); err != nil {
		return err
	}
	f, err := c.filter()
	if err != nil {
		return err
	}
	out := printer{out: term.out, json: c.JSON, color: c.Color == "always" || c.Color == "auto" && isTerminal(term.out)}
	print := func(_ context.Context, m *client.Message) error { return out.print(&m.Event, m.Body) }
	cfg := client.Config{Stream: c.Stream, Prefix: c.SubjectPrefix, Filter: f, Ordered: true, UntilEnd: !c.Follow, Tries: 1, Snapshots: print}
	cfg.Waiting = func(cause error) { log.Warn("waiting for JetStream", "cause", cause) }
	if c.everything() {
		cfg.Control = print
	}
	if c.Since != "" {
		since, err := parseSince(c.Since, time.Now())
		if err != nil {
			return err
		}
		cfg.From = client.Since(since)
	} else if !c.Follow {
		cfg.From = client.All()
	}
	options, err := c.options(log)
	if err != nil {
		return err
	}
	options = append(options, nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})) // what matters, Run tells
	nc, err := nats.Connect(c.NATSURL, append(options, nats.Name("ffstream tail"), nats.MaxReconnects(-1), nats.IgnoreAuthErrorAbort())...)
	if errors.Is(err, nats.ErrNoServers) {
		return fmt.Errorf("connect to NATS: %w: start ffstream run, or name the server (--nats-url)", err)
	}
	if err != nil {
		return fmt.Errorf("connect to NATS: %w", publish.Refused(err))
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return fmt.Errorf("open JetStream: %w", err)
	}
	subscriber, err := client.New(js, cfg)
	if err != nil {
		return err
	}
	err = subscriber.Run(ctx, print)
	if errors.Is(err, nats.ErrPermissionViolation) { // with what mends it
		return fmt.Errorf("%w: %w", publish.ErrNotPermitted, err)
	}
	return publish.Refused(err)
}

// printer writes events for a reader or a machine.
type printer struct {
	out         io.Writer
	json, color bool
	line        []byte
}

func (p *printer) print(e *ffstream.Event, body []byte) error {
	if p.json {
		p.line = append(append(p.line[:0], body...), '\n')
	} else {
		p.line = p.appendLine(p.line[:0], e)
	}
	if _, err := p.out.Write(p.line); err != nil {
		return fmt.Errorf("print event: %w", err)
	}
	return nil
}

// appendLine renders time, lane, id, from -> to, attempt and worker in columns.
func (p *printer) appendLine(b []byte, e *ffstream.Event) []byte {
	b = e.Time.Local().AppendFormat(b, "15:04:05.000 ")
	switch e.Type {
	case ffstream.TypeCorrupt:
		return fmt.Appendf(b, "%-12s %s %s: '%s' is not a known value\n", e.LaneID, e.ExecutionID, e.Corrupt.Column, e.Corrupt.Literal)
	case ffstream.TypeTruncated:
		return append(b, "ff_exec_core was truncated: every execution is gone\n"...)
	case ffstream.TypeGap:
		return fmt.Appendf(b, "gap: %s\n", e.Gap.Detail)
	case ffstream.TypeBackfill:
		return fmt.Appendf(b, "backfill %s is %s: %d executions, %d published\n", e.Backfill.Run, e.Backfill.Status, e.Backfill.Executions, e.Backfill.Published)
	}
	from := e.From
	switch {
	case e.Type == ffstream.TypeSnapshotted:
		from = "(backfill)"
	case from == "":
		from = "-"
	}
	to := fmt.Sprintf("%-16s", e.To)
	if p.color {
		to = colorOf(e.To) + to + "\x1b[0m"
	}
	attempt, worker := "-", "-"
	if e.Attempt.OK {
		attempt = strconv.Itoa(int(e.Attempt.V.Index))
		if w := e.Attempt.V.WorkerID; w.OK {
			worker = w.V
		}
	}
	return fmt.Appendf(b, "%-12s %-45s %16s -> %s attempt %-3s %s\n", e.LaneID, e.ExecutionID, from, to, attempt, worker)
}

// colorOf is the terminal sequence of a state's colour.
func colorOf(s ffstream.PublicState) string {
	switch s {
	case ffstream.StateCompleted:
		return "\x1b[32m"
	case ffstream.StateFailed, ffstream.StateExpired:
		return "\x1b[31m"
	case ffstream.StateCancelled, ffstream.StateSkipped, ffstream.StatePurged:
		return "\x1b[35m"
	case ffstream.StateActive:
		return "\x1b[36m"
	default:
		return "\x1b[33m"
	}
}
