package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/schollz/progressbar/v3"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/backfill"
	"github.com/ffstream/ffstream/internal/publish"
	"github.com/ffstream/ffstream/internal/read"
)

// backfillCmd orders a backfill and follows it. The service that holds the slot
// runs it; all that this command needs is the broker, and for a filter the database.
type backfillCmd struct {
	Start  backfillStart  `cmd:"" default:"withargs" help:"Order one: the state of every execution that exists, or of those that the flags name, comes into the stream."`
	Status backfillStatus `cmd:"" help:"Say how far the latest is."`
	Pause  backfillPause  `cmd:"" help:"Hold the one that is open, for any time."`
	Resume backfillResume `cmd:"" help:"Go on with it, where it stopped."`
	Cancel backfillCancel `cmd:"" help:"End it. What it published stays in the stream."`
}

// orders connects to the bucket of orders. The caller calls the returned function
// at the end.
func (f *streamFlags) orders(ctx context.Context, log *slog.Logger) (*backfill.Store, func(), error) {
	if f.NATSURL == "" {
		f.NATSURL = nats.DefaultURL // where run's embedded server listens
	}
	if err := f.check(); err != nil {
		return nil, nil, err
	}
	nc, err := connectNATS(f.NATSURL, &f.natsAuth, log, nats.RetryOnFailedConnect(false))
	if err != nil {
		return nil, nil, fmt.Errorf("connect to NATS: %w", publish.Refused(err))
	}
	js, err := jetstream.New(nc.Conn)
	if err == nil {
		var store *backfill.Store
		if store, err = backfill.Open(ctx, js, publish.Bucket(f.Stream)); err == nil {
			return store, nc.Close, nil
		}
	}
	nc.Close()
	return nil, nil, err
}

// backfillStart orders a backfill.
type backfillStart struct {
	databaseFlags
	streamFlags
	Lane      []string `help:"Only these lanes." placeholder:"LANE"`
	Namespace []string `help:"Only these namespaces." placeholder:"NAMESPACE"`
	State     []string `help:"Only executions in these states: ${rowStateNames}." placeholder:"STATE"`
	Partition []uint16 `help:"Only these partitions." placeholder:"N"`
	Since     string   `help:"Only executions created since: a duration (24h) or a time." placeholder:"WHEN"`
	Rate      int      `help:"Most executions read in a second; 0 for what the service has in --backfill-rate." default:"0"`
	Force     bool     `help:"Ask the database nothing beforehand: order it for lanes without executions too, and for a filter that no index serves, for which a big table is read whole."`
	Wait      bool     `help:"Follow it to its end."`
	JSON      bool     `name:"json" help:"Print the order as JSON."`
}

// bigTable is the number of executions from which a filter that no index serves
// needs --force.
const bigTable = 1_000_000

func (c *backfillStart) filter() (backfill.Filter, error) {
	f := backfill.Filter{Lanes: c.Lane, Namespaces: c.Namespace, Partitions: c.Partition}
	for _, s := range c.State {
		state, err := ffstream.ParsePublicState(s)
		if err != nil {
			return f, usagef("--state %q: want one of the states in which an execution can be: a row that is gone cannot be read", s)
		}
		f.States = append(f.States, state)
	}
	if c.Since != "" {
		since, err := parseSince(c.Since, time.Now())
		if err != nil {
			return f, err
		}
		f.Since = since.UTC()
	}
	if c.Rate < 0 {
		return f, usagef("--rate %d: want 0 or more", c.Rate)
	}
	return f, nil
}

// Run orders, and with --wait follows.
func (c *backfillStart) Run(ctx context.Context, term terminal, log *slog.Logger) error {
	filter, err := c.filter()
	if err != nil {
		return err
	}
	store, end, err := c.orders(ctx, log)
	if err != nil {
		return err
	}
	defer end()
	any, err := c.look(ctx, &filter, term)
	if err != nil || !any {
		return err
	}
	order, err := store.Place(ctx, backfill.Order{Filter: filter, Rate: c.Rate})
	if err != nil {
		return err
	}
	if c.JSON {
		err = json.NewEncoder(term.out).Encode(order)
	} else {
		_, err = fmt.Fprintf(term.out, "Backfill %s is ordered; the service that holds the slot runs it: ffstream backfill status\n", order.Run)
	}
	if err != nil || !c.Wait {
		return err
	}
	return follow(ctx, store, order.Run, term)
}

// look compares the filter with the tables, for which alone a database is needed.
// False says that nothing can match.
func (c *backfillStart) look(ctx context.Context, f *backfill.Filter, term terminal) (bool, error) {
	if f.Whole() || c.Force {
		return true, nil
	}
	database, err := c.config()
	if err != nil {
		return false, err
	}
	conn, err := connect(ctx, database)
	if err != nil {
		return false, err
	}
	defer func() { _ = conn.Close(ctx) }()
	var found []string
	for _, lane := range f.Lanes {
		has, err := read.HasLane(ctx, conn, lane)
		if err != nil {
			return false, err
		}
		if has {
			found = append(found, lane)
			continue
		}
		if _, err := fmt.Fprintf(term.err, "warning: no execution is in lane %q\n", lane); err != nil {
			return false, err
		}
	}
	if len(f.Lanes) > 0 && len(found) == 0 {
		_, err := fmt.Fprintln(term.out, "0 executions match: nothing is ordered.")
		return false, err
	}
	f.Lanes = found
	unserved := c.unserved(f)
	if unserved == "" {
		return true, nil
	}
	n, err := read.Estimate(ctx, conn)
	if err != nil {
		return false, err
	}
	if n >= bigTable {
		return false, usagef("%s: no index serves it, so all of about %d executions would be read: name lanes (--lane) or partitions (--partition) too, or insist (--force)", unserved, n)
	}
	return true, nil
}

// unserved names the filters for which everything has to be read.
func (c *backfillStart) unserved(f *backfill.Filter) string {
	if len(f.Lanes)+len(f.Partitions) > 0 {
		return ""
	}
	var flags []string
	for _, one := range []struct {
		flag string
		set  bool
	}{{"--namespace", len(f.Namespaces) > 0}, {"--state", len(f.States) > 0}, {"--since", !f.Since.IsZero()}} {
		if one.set {
			flags = append(flags, one.flag)
		}
	}
	return strings.Join(flags, ", ")
}

// backfillStatus says how far the latest backfill is.
type backfillStatus struct {
	streamFlags
	Watch bool `help:"Follow it to its end."`
	JSON  bool `name:"json" help:"Print order and report as JSON."`
}

// Run prints, and with --watch follows.
func (c *backfillStatus) Run(ctx context.Context, term terminal, log *slog.Logger) error {
	store, end, err := c.orders(ctx, log)
	if err != nil {
		return err
	}
	defer end()
	order, report, found, err := store.Current(ctx)
	if err != nil {
		return err
	}
	switch {
	case c.JSON && found:
		return json.NewEncoder(term.out).Encode(struct {
			Order  backfill.Order  `json:"order"`
			Report backfill.Report `json:"report"`
		}{order, report})
	case c.JSON:
		_, err = fmt.Fprintln(term.out, "null")
		return err
	case !found:
		_, err = fmt.Fprintln(term.out, "No backfill was ever ordered for this stream.")
		return err
	case c.Watch && !report.State.Ended():
		return follow(ctx, store, order.Run, term)
	}
	return describe(term.out, &report)
}

// describe prints a report for people.
func describe(out io.Writer, r *backfill.Report) error {
	text := fmt.Sprintf("Backfill %s is %s: %d executions read", r.Run, r.State, r.Executions)
	if r.Total > 0 {
		text += fmt.Sprintf(" of about %d", r.Total)
	}
	text += fmt.Sprintf(", %d published, %d superseded by transitions, %d chunks", r.Published, r.Superseded, r.Chunks)
	if left, ok := r.Remaining(); ok && !r.State.Ended() {
		text += fmt.Sprintf(", %.0f a second, about %s left", r.Rate, left.Round(time.Second))
	}
	if r.Waiting != "" {
		text += "; it waits for " + r.Waiting
	}
	if r.Error != "" {
		text += "; it tries again after: " + r.Error
	}
	_, err := fmt.Fprintln(out, text+".")
	return err
}

// followInterval is how often the report is read while a run is followed.
const followInterval = 500 * time.Millisecond

var errRunCancelled = errors.New("the backfill was cancelled")

// follow shows a run until it ends: as a bar on a terminal, else by its last
// words.
func follow(ctx context.Context, store *backfill.Store, run string, term terminal) error {
	bar := progressbar.NewOptions64(-1, progressbar.OptionSetWriter(term.err), progressbar.OptionSetVisibility(isTerminal(term.err)),
		progressbar.OptionShowCount(), progressbar.OptionShowIts(), progressbar.OptionSetItsString("executions"), progressbar.OptionClearOnFinish(),
		progressbar.OptionSetPredictTime(true), progressbar.OptionFullWidth())
	tick := time.NewTicker(followInterval)
	defer tick.Stop()
	for {
		order, report, found, err := store.Current(ctx)
		if err != nil {
			return err
		}
		if !found || order.Run != run {
			return fmt.Errorf("follow backfill %s: another was ordered", run)
		}
		if report.Total > 0 {
			bar.ChangeMax64(int64(max(report.Total, report.Executions)))
		}
		bar.Describe(fmt.Sprintf("%s, %d chunks", report.State, report.Chunks))
		_ = bar.Set64(int64(report.Executions)) // drawing is no reason to stop
		if report.State.Ended() {
			_ = bar.Finish()
			if err := describe(term.out, &report); err != nil || report.State == backfill.Completed {
				return err
			}
			return errRunCancelled
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil // the run goes on
		}
	}
}

// backfillPause holds a backfill.
type backfillPause struct{ streamFlags }

// Run asks for it.
func (c *backfillPause) Run(ctx context.Context, term terminal, log *slog.Logger) error {
	return c.ask(ctx, term, log, backfill.Pause)
}

// backfillResume goes on with a backfill.
type backfillResume struct{ streamFlags }

// Run asks for it.
func (c *backfillResume) Run(ctx context.Context, term terminal, log *slog.Logger) error {
	return c.ask(ctx, term, log, backfill.Run)
}

// backfillCancel ends a backfill.
type backfillCancel struct{ streamFlags }

// Run asks for it.
func (c *backfillCancel) Run(ctx context.Context, term terminal, log *slog.Logger) error {
	return c.ask(ctx, term, log, backfill.Cancel)
}

func (f *streamFlags) ask(ctx context.Context, term terminal, log *slog.Logger, w backfill.Wish) error {
	store, end, err := f.orders(ctx, log)
	if err != nil {
		return err
	}
	defer end()
	order, err := store.Ask(ctx, w)
	if errors.Is(err, backfill.ErrNone) {
		return fmt.Errorf("%w: order one: ffstream backfill", err)
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(term.out, "Backfill %s is asked to %s; the service obeys within a chunk: ffstream backfill status\n", order.Run, w)
	return err
}
