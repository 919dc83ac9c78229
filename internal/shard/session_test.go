package shard

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/ffstream/ffstream/internal/repl"
	"github.com/ffstream/ffstream/internal/testenv"
)

// TestSlowBeginning: a slot that takes longer to create than anything else at the
// beginning may take is no reason to begin again.
func TestSlowBeginning(t *testing.T) {
	t.Parallel()
	db := testenv.DB(t, testenv.Schema{})
	conn, err := pgconn.ParseConfig(db.URL)
	if err != nil {
		t.Fatal(err)
	}
	nc, sink := broker(t, db.Name)
	var begun time.Time // when what is bounded at the beginning has to be over
	var made atomic.Int32
	s := New(nc, Config{
		Source: repl.Config{Conn: conn, Slot: db.Slot(), Publication: "ffstream"},
		Sink:   sink,
		Preflight: func(ctx context.Context) error {
			begun, _ = ctx.Deadline()
			return nil
		},
		Lineage: func(context.Context) ([]string, error) {
			made.Add(1)
			<-time.After(time.Until(begun)) // the slot has been made just now
			return nil, nil
		},
		Log: slog.New(slog.DiscardHandler),
	})
	ctx, cancel := context.WithCancel(testContext(t))
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for st := s.Status(); st.Sessions == 0; st = s.Status() {
		if made.Load() > 1 { // else it was what comes before the slot, which may be slow too
			t.Fatalf("the session began again: %s", st.LastError)
		}
		select {
		case <-tick.C:
		case err := <-ended:
			t.Fatal(err)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
