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
)

// tailCmd prints events.
type tailCmd struct {
	streamFlags
	State     []string `help:"Only these states entered (repeat or separate by commas): ${stateNames}." placeholder:"STATE"`
	Lane      []string `help:"Only these lanes." placeholder:"LANE"`
	Namespace []string `help:"Only these namespaces." placeholder:"NAMESPACE"`
	Partition []uint16 `help:"Only these partitions." placeholder:"N"`
	Execution string   `help:"Only this execution, {fp:N}:<uuid>." placeholder:"ID"`
	Since     string   `help:"Begin with what was published since: a duration (10m) or a time. Without it, with what comes." placeholder:"WHEN"`
	Follow    bool     `help:"Go on with what comes; --follow=false ends at the stream's end." default:"true" negatable:""`
	JSON      bool     `name:"json" help:"One event a line, as it is stored."`
	Color     string   `help:"auto, always or never." default:"auto" enum:"auto,always,never"`
}

// filter is what of an event must match; an empty list matches all.
type filter struct {
	states, lanes, namespaces []string
	partitions                []uint16
	execution                 ffstream.ExecutionID // in the canonical form
}

func (c *tailCmd) filter() (filter, error) {
	f := filter{states: c.State, lanes: c.Lane, namespaces: c.Namespace, partitions: c.Partition}
	for _, s := range c.State {
		if s == string(ffstream.StatePurged) {
			continue
		}
		if _, err := ffstream.ParsePublicState(s); err != nil {
			return f, usagef("--state %q: want one of %s", s, stateNames())
		}
	}
	if c.Execution != "" {
		id, err := ffstream.ParseExecutionID(c.Execution)
		if err != nil {
			return f, usagef("--execution: %w", err)
		}
		f.execution = ffstream.NewExecutionID(id.Partition(), id.UUID())
		f.partitions = append(f.partitions, id.Partition())
	}
	return f, nil
}

// subject is the narrowest subject that holds everything the filter lets through.
func (f *filter) subject(prefix string) string {
	one := func(values []string) string {
		if len(values) != 1 {
			return "*"
		}
		return string(ffstream.AppendToken(nil, values[0]))
	}
	if len(f.states)+len(f.lanes)+len(f.namespaces)+len(f.partitions) == 0 {
		return prefix + ".>"
	}
	partition := "*"
	if len(f.partitions) == 1 {
		partition = strconv.Itoa(int(f.partitions[0]))
	}
	return strings.Join([]string{prefix, "exec", partition, one(f.namespaces), one(f.lanes), one(f.states)}, ".")
}

func (f *filter) match(e *ffstream.Event) bool {
	return matches(f.states, string(e.To)) && matches(f.lanes, e.LaneID) && matches(f.namespaces, e.Namespace) &&
		matches(f.partitions, e.ExecutionID.Partition()) && (f.execution.IsZero() || f.execution == e.ExecutionID)
}

func matches[T comparable](want []T, v T) bool {
	for _, w := range want {
		if w == v {
			return true
		}
	}
	return len(want) == 0
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
	cfg := jetstream.OrderedConsumerConfig{FilterSubjects: []string{f.subject(c.SubjectPrefix)}, DeliverPolicy: jetstream.DeliverNewPolicy}
	if c.Since != "" {
		since, err := parseSince(c.Since, time.Now())
		if err != nil {
			return err
		}
		cfg.DeliverPolicy, cfg.OptStartTime = jetstream.DeliverByStartTimePolicy, &since
	} else if !c.Follow {
		cfg.DeliverPolicy = jetstream.DeliverAllPolicy
	}
	nc, err := nats.Connect(c.NATSURL, nats.Name("ffstream tail"), nats.MaxReconnects(-1))
	if err != nil {
		return fmt.Errorf("connect to NATS: %w: start ffstream run, or name the server (--nats-url)", err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return fmt.Errorf("open JetStream: %w", err)
	}
	stream, err := js.Stream(ctx, c.Stream)
	if err != nil {
		return fmt.Errorf("open stream %s: %w", c.Stream, err)
	}
	out := printer{out: term.out, json: c.JSON, color: c.Color == "always" || c.Color == "auto" && isTerminal(term.out)}
	return c.print(ctx, stream, cfg, &f, &out)
}

func (c *tailCmd) print(ctx context.Context, stream jetstream.Stream, cfg jetstream.OrderedConsumerConfig, f *filter, out *printer) error {
	consumer, err := stream.OrderedConsumer(ctx, cfg)
	if err != nil {
		return fmt.Errorf("consume stream %s: %w", c.Stream, err)
	}
	if !c.Follow {
		info, err := consumer.Info(ctx)
		if err != nil {
			return fmt.Errorf("consume stream %s: %w", c.Stream, err)
		}
		if info.NumPending == 0 {
			return nil
		}
	}
	messages, err := consumer.Messages()
	if err != nil {
		return fmt.Errorf("consume stream %s: %w", c.Stream, err)
	}
	stop := context.AfterFunc(ctx, messages.Stop)
	defer stop()
	defer messages.Stop()
	for {
		m, err := messages.Next()
		if errors.Is(err, jetstream.ErrMsgIteratorClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("consume stream %s: %w", c.Stream, err)
		}
		e, err := ffstream.ParseEvent(m.Data())
		if err != nil {
			return fmt.Errorf("read message on %s: %w", m.Subject(), err)
		}
		if f.match(&e) {
			if err := out.print(&e, m.Data()); err != nil {
				return err
			}
		}
		if !c.Follow {
			meta, err := m.Metadata()
			if err != nil {
				return fmt.Errorf("read message on %s: %w", m.Subject(), err)
			}
			if meta.NumPending == 0 {
				return nil
			}
		}
	}
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
	}
	from := e.From
	if from == "" {
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
