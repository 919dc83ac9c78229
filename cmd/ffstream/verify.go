package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/schollz/progressbar/v3"

	"github.com/ffstream/ffstream/internal/backfill"
	"github.com/ffstream/ffstream/internal/publish"
	"github.com/ffstream/ffstream/internal/verify"
)

// verifyCmd compares the stream with the tables.
type verifyCmd struct {
	databaseFlags
	streamFlags
	Partition     []uint16      `help:"Only these partitions." placeholder:"N"`
	Sample        float64       `help:"Part of the executions that is looked at, above 0 and at most 1." default:"1"`
	Seed          uint64        `help:"Which part: the same seed takes the same executions." default:"0"`
	IgnoreMissing bool          `help:"Executions that the stream never told of are not judged: they existed before it. Those that may have aged out of it never are."`
	Timeout       time.Duration `help:"How long the stream may take to get to where the tables are, and a row that somebody is changing to settle." default:"30s"`
	Repair        bool          `help:"Order a backfill of just what differs: its events say what the stream told when it was compared."`
	JSON          bool          `name:"json" help:"Print each difference and, last, the summary as a JSON object a line."`
}

var (
	errUntrue   = errors.New("the stream does not tell what the tables say")
	errUnjudged = errors.New("not everything could be judged")
)

// beside adds what the broker refused: it is why the rest failed, but for a verdict on
// what had been compared before, which stands.
func beside(err, refused error) error {
	switch {
	case refused == nil:
		return err
	case errors.Is(err, errUntrue), errors.Is(err, errUnjudged):
		return fmt.Errorf("%w; %w", err, refused)
	}
	return refused
}

// maxRepair bounds what one repair is about; beyond it everything is repaired.
const maxRepair = 100_000

func (c *verifyCmd) check() error {
	switch {
	case !(c.Sample > 0 && c.Sample <= 1): // also what is no number
		return usagef("--sample %v: want a part above 0 and at most 1", c.Sample)
	case c.Timeout <= 0:
		return usagef("--timeout %s: want more than 0", c.Timeout)
	}
	if c.NATSURL == "" {
		c.NATSURL = nats.DefaultURL // where run's embedded server listens
	}
	return c.streamFlags.check()
}

// Run compares and prints; a difference is an error.
func (c *verifyCmd) Run(ctx context.Context, term terminal, log *slog.Logger) (err error) {
	if err := c.check(); err != nil {
		return err
	}
	database, err := c.config()
	if err != nil {
		return err
	}
	cautious(database, "ffstream verify")
	// A statement reads a page of rows, which a busy server may have to fetch first.
	database.RuntimeParams["statement_timeout"] = strconv.FormatInt(max(1, c.Timeout.Milliseconds()), 10)
	database.RuntimeParams["plan_cache_mode"] = "force_custom_plan" // a generic one looks at all 256 leaves
	nc, err := connectNATS(c.NATSURL, &c.natsAuth, log, nats.RetryOnFailedConnect(false))
	if err != nil {
		return fmt.Errorf("connect to NATS: %w", publish.Refused(err))
	}
	defer nc.Close()
	ctx, refusal := nc.permitted(ctx)
	defer func() { err = beside(err, refusal()) }()
	js, err := jetstream.New(nc.Conn)
	if err != nil {
		return fmt.Errorf("open JetStream: %w", err)
	}
	conn, err := connect(ctx, database)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	bar := progressbar.NewOptions(-1, progressbar.OptionSetWriter(term.err), progressbar.OptionSetVisibility(isTerminal(term.err)),
		progressbar.OptionSetDescription("partitions"), progressbar.OptionShowCount(), progressbar.OptionClearOnFinish(), progressbar.OptionSetPredictTime(true))
	repair := repair{}
	summary, err := verify.Run(ctx, conn, js, verify.Config{
		Stream: c.Stream, Prefix: c.SubjectPrefix, Partitions: c.Partition, Sample: c.Sample, Seed: c.Seed, Timeout: c.Timeout, IgnoreMissing: c.IgnoreMissing,
		Progress: func(done, of int) { bar.ChangeMax(of); _ = bar.Set(done) },
	}, func(d verify.Difference) error {
		repair.add(&d)
		return c.print(term.out, &d)
	})
	_ = bar.Finish()
	if err != nil {
		return err
	}
	if err := c.summarise(term.out, &summary); err != nil {
		return err
	}
	switch {
	case repair.n > 0:
	case summary.Unsettled > 0:
		return fmt.Errorf("%w: %d executions were being changed all the time: await the transactions that do (--timeout), or verify again", errUnjudged, summary.Unsettled)
	default:
		return nil
	}
	if c.Repair {
		if err := repair.order(ctx, js, c.Stream, term.out); err != nil {
			return err
		}
	}
	return fmt.Errorf("%w: %d executions differ", errUntrue, repair.n)
}

func (c *verifyCmd) print(out io.Writer, d *verify.Difference) error {
	if c.JSON {
		return json.NewEncoder(out).Encode(d)
	}
	text := fmt.Sprintf("%-9s %s is %s", d.Kind, d.ID, d.Is)
	if d.Told != "" {
		text += fmt.Sprintf(", and the stream told %s (message %d at %s)", d.Told, d.Sequence, d.Position)
	}
	_, err := fmt.Fprintln(out, text)
	return err
}

func (c *verifyCmd) summarise(out io.Writer, s *verify.Summary) error {
	if c.JSON {
		return json.NewEncoder(out).Encode(s)
	}
	text := fmt.Sprintf("%d executions and %d events compared: %d missing, %d surplus, %d differing", s.Executions, s.Events,
		s.Differ[verify.Missing], s.Differ[verify.Surplus], s.Differ[verify.Differing])
	if s.Unsettled > 0 {
		text += fmt.Sprintf("; %d were being changed all the time and are not judged", s.Unsettled)
	}
	text += "."
	switch {
	case s.AgedOut > 0 && c.IgnoreMissing:
		text += fmt.Sprintf(" The stream tells nothing of %d, which is ignored.", s.AgedOut)
	case s.AgedOut > 0:
		text += fmt.Sprintf(" The stream tells nothing of %d and need not: what is older than %s has aged out of it, and no backfill of everything stands in it. ffstream backfill tells all.", s.AgedOut, s.First.Format(time.RFC3339))
	case s.Differ[verify.Missing] > 0:
		text += " What is missing may have existed before the stream: ffstream backfill tells all, --repair what is missing, and --ignore-missing looks away."
	}
	_, err := fmt.Fprintln(out, text)
	return err
}

// repair gathers what is to be told anew.
type repair struct {
	n     int
	lists [][]backfill.Listed
}

func (r *repair) add(d *verify.Difference) {
	r.n++
	if r.n > maxRepair {
		r.lists = nil
		return
	}
	if n := len(r.lists); n == 0 || len(r.lists[n-1]) == backfill.MaxList {
		r.lists = append(r.lists, nil)
	}
	last := &r.lists[len(r.lists)-1]
	*last = append(*last, backfill.Listed{ID: d.ID, Known: d.Told})
}

// order asks for it.
func (r *repair) order(ctx context.Context, js jetstream.JetStream, stream string, out io.Writer) error {
	if r.n > maxRepair {
		return fmt.Errorf("repair %d executions: it is more than %d: tell all of them anew: ffstream backfill", r.n, maxRepair)
	}
	store, err := backfill.Open(ctx, js, publish.Bucket(stream))
	if err != nil {
		return err
	}
	order, err := store.Place(ctx, backfill.Order{}, r.lists...)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "Backfill %s of what differs is ordered; the service that holds the slot runs it: ffstream backfill status\n", order.Run)
	return err
}
