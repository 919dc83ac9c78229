package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/reader"
)

// readCmd reads one execution.
type readCmd struct {
	State    readStateCmd    `cmd:"" help:"Print the effective state."`
	Info     readInfoCmd     `cmd:"" help:"Print what is known of the execution."`
	Result   readResultCmd   `cmd:"" help:"Write the result's bytes to standard output, as they are."`
	Attempts readAttemptsCmd `cmd:"" help:"Print the attempts."`
}

// readFlags say what is read, and how it is printed.
type readFlags struct {
	databaseFlags
	JSON        bool   `name:"json" help:"Print JSON on one line; what the state and info commands print is in the engine's form."`
	ExecutionID string `arg:"" name:"execution id" help:"{fp:N}:<uuid>."`
}

var (
	errNoExecution = errors.New("there is no such execution")
	errNoResult    = errors.New("there is no such execution, or it has no result")
)

// readPoint connects, reads with f and prints what it found with text, or as JSON.
func readPoint[T any](ctx context.Context, c *readFlags, out io.Writer, f func(*reader.Reader, ffstream.ExecutionID) (T, bool, error), text func(io.Writer, *T) error) error {
	database, err := c.config()
	if err != nil {
		return err
	}
	id, err := ffstream.ParseExecutionID(c.ExecutionID)
	if err != nil {
		return usagef("parse execution id: %w", err)
	}
	conn, err := connect(ctx, database)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	v, found, err := f(reader.New(unprepared{conn}), id)
	if err != nil {
		return err
	}
	if !found {
		return fmt.Errorf("read %s: %w", id, errNoExecution)
	}
	if !c.JSON {
		return text(out, &v)
	}
	line, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("print %s: %w", id, err)
	}
	_, err = out.Write(append(line, '\n'))
	return err
}

// unprepared sends each statement by itself: there is only one, and it may lead
// through a pooler that keeps no session.
type unprepared struct{ *pgx.Conn }

// Query implements reader.DB.
func (u unprepared) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	return u.Conn.Query(ctx, sql, append([]any{pgx.QueryExecModeExec}, args...)...)
}

type readStateCmd struct{ readFlags }

// Run prints the state.
func (c *readStateCmd) Run(ctx context.Context, term terminal) error {
	return readPoint(ctx, &c.readFlags, term.out, func(r *reader.Reader, id ffstream.ExecutionID) (ffstream.PublicState, bool, error) {
		return r.ExecutionState(ctx, id)
	}, func(w io.Writer, state *ffstream.PublicState) error {
		_, err := fmt.Fprintln(w, *state)
		return err
	})
}

type readInfoCmd struct{ readFlags }

// Run prints the info.
func (c *readInfoCmd) Run(ctx context.Context, term terminal) error {
	return readPoint(ctx, &c.readFlags, term.out, func(r *reader.Reader, id ffstream.ExecutionID) (ffstream.ExecutionInfo, bool, error) {
		return r.ExecutionInfo(ctx, id)
	}, printInfo)
}

// printInfo writes a line for each thing that is known.
func printInfo(out io.Writer, i *ffstream.ExecutionInfo) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	line := func(name, value string) {
		if value != "" {
			_, _ = fmt.Fprintf(w, "%s\t%s\n", name, value) // Flush has the error
		}
	}
	line("execution", i.ExecutionID.String())
	state := string(i.PublicState)
	if i.EvidenceMissing {
		state += " (the row says in no way how it ended)"
	}
	line("state", state)
	if !i.Consistent {
		line("stored state", string(i.StoredPublicState)+" (stale)")
	}
	v := &i.StateVector
	line("phase", string(v.LifecyclePhase))
	line("ownership", string(v.OwnershipState))
	line("eligibility", string(v.EligibilityState))
	line("blocking reason", string(v.BlockingReason))
	line("blocking detail", i.BlockingDetail)
	line("outcome", string(v.TerminalOutcome))
	line("attempt", strconv.FormatUint(uint64(i.CurrentAttemptIndex), 10)+", "+string(v.AttemptState))
	line("namespace", i.Namespace)
	line("lane", i.LaneID)
	line("kind", i.ExecutionKind)
	line("priority", strconv.Itoa(int(i.Priority)))
	if i.FlowID.OK {
		line("flow", i.FlowID.V.String())
	}
	line("created", timeText(ffstream.Some(i.CreatedAtMs), ""))
	line("started", timeText(i.StartedAtMs, ""))
	line("completed", timeText(i.CompletedAtMs, ""))
	return w.Flush()
}

// timeText is a time for people, in UTC.
func timeText(ms ffstream.Opt[int64], absent string) string {
	if !ms.OK {
		return absent
	}
	return time.UnixMilli(ms.V).UTC().Format("2006-01-02T15:04:05.000Z")
}

type readResultCmd struct{ readFlags }

// result is what the JSON form of a result holds: the bytes in base64.
type result struct {
	ExecutionID string `json:"execution_id"`
	Result      []byte `json:"result"`
}

// Run writes the result.
func (c *readResultCmd) Run(ctx context.Context, term terminal) error {
	err := readPoint(ctx, &c.readFlags, term.out, func(r *reader.Reader, id ffstream.ExecutionID) (result, bool, error) {
		b, found, err := r.ExecutionResult(ctx, id)
		return result{id.String(), b}, found, err
	}, func(w io.Writer, r *result) error {
		_, err := w.Write(r.Result)
		return err
	})
	if errors.Is(err, errNoExecution) {
		err = fmt.Errorf("read result of %s: %w", c.ExecutionID, errNoResult)
	}
	return err
}

type readAttemptsCmd struct{ readFlags }

// Run prints the attempts.
func (c *readAttemptsCmd) Run(ctx context.Context, term terminal) error {
	return readPoint(ctx, &c.readFlags, term.out, func(r *reader.Reader, id ffstream.ExecutionID) ([]ffstream.Attempt, bool, error) {
		attempts, found, err := r.ExecutionAttempts(ctx, id)
		if attempts == nil {
			attempts = []ffstream.Attempt{} // [] in JSON
		}
		return attempts, found, err
	}, printAttempts)
}

// printAttempts writes a table.
func printAttempts(out io.Writer, attempts *[]ffstream.Attempt) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "ATTEMPT\tOUTCOME\tSTARTED\tENDED\tEPOCH\tLEASE EXPIRES\tWORKER\tINSTANCE") // Flush has the error
	text := func(v ffstream.Opt[string]) string {
		if v.V == "" {
			return "-"
		}
		return v.V
	}
	for _, a := range *attempts {
		_, _ = fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%d\t%s\t%s\t%s\n", a.Index, text(a.Outcome), timeText(a.StartedAtMs, "-"),
			timeText(a.TerminalAtMs, "-"), a.LeaseEpoch, timeText(a.LeaseExpiresAtMs, "-"), text(a.WorkerID), text(a.WorkerInstanceID))
	}
	return w.Flush()
}
