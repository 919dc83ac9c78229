package shard

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/backfill"
	"github.com/ffstream/ffstream/internal/publish"
)

// BackfillSource reads executions for a backfill. It is used by one goroutine.
type BackfillSource interface {
	// Watermark writes a logical message that belongs to no transaction into the
	// log, flushed.
	Watermark(ctx context.Context, prefix, content string) error
	// NextPartition gives the smallest key from which on rows exist, false: none.
	NextPartition(ctx context.Context, from int16) (int16, bool, error)
	// Chunk reads at most limit executions of a partition behind after, in the order
	// of their UUIDs, and gives the last that it looked at, absent when there are no
	// more. No row misses what was in the log before the call; rows that are not
	// visible yet are left out. See read.Chunk.
	Chunk(ctx context.Context, c ChunkQuery) ([]ffstream.Event, ffstream.Opt[uuid.UUID], error)
	// Listed reads listed executions of a partition, when the transactions that are
	// changing any have ended; those that do not exist are left out.
	Listed(ctx context.Context, partition int16, ids []uuid.UUID, waiting func(xids []int64) error) ([]ffstream.Event, error)
	// Estimate is about how many executions there are; 0: not known.
	Estimate(ctx context.Context) (uint64, error)
}

// ChunkQuery is what a BackfillSource reads.
type ChunkQuery struct {
	Partition int16
	After     ffstream.Opt[uuid.UUID]
	Lanes     []string
	Limit     int
	// Waiting is told of transactions that are waited for; with none: no more. Its
	// error ends the wait.
	Waiting func(xids []int64) error
}

// BackfillConfig says how backfills are run.
type BackfillConfig struct {
	Source BackfillSource
	// Initial: a run over everything is ordered when the slot is created.
	Initial bool
	// Rate is the most executions read in a second where an order names no other; 0
	// is any number.
	Rate int
	// Told is how many executions are held in memory behind a gap, of those that the
	// stream told of before it; 0: 200 000, some 30 MB.
	Told int
}

// Backfilling is a backfill in the status.
type Backfilling struct {
	backfill.Report
	// The counters are of the whole run of the process, over all backfills.
	TotalChunks, TotalSuperseded uint64
}

const (
	// orderInterval is how often a service looks for an order.
	orderInterval = time.Second
	// markInterval is how often progress is published although nothing else was, and
	// heldInterval how often while a run does not get on: a quarter of the stream's
	// maximum age at most.
	markInterval = 5 * time.Second
	heldInterval = time.Hour
	// A backfill gives way while the stream is further behind than this, in bytes of
	// the log or by what a heartbeat took.
	giveWayBytes  = 16 << 20
	giveWayBehind = 2 * time.Second
	giveWayWait   = 100 * time.Millisecond
	// chunkTime is how long partitions are added to a chunk.
	chunkTime = 200 * time.Millisecond
	// chunksPerSecond is into how many chunks a second's executions are divided. What
	// commits behind one waits until that is stored, and that takes a server about as
	// long for a hundred messages as for five hundred: one that keeps a single replica
	// puts each batch into a file of its own first, which it syncs.
	chunksPerSecond = 5
	// maxBackfillBackoff caps the time between two tries of what failed.
	maxBackfillBackoff = 15 * time.Second
)

// backfiller is goroutine E: it looks for orders and reads chunks while the
// session lasts. Its failures end no session: nothing of the stream's promise
// depends on it.
type backfiller struct {
	shard  *Shard
	cfg    *BackfillConfig
	store  *backfill.Store
	stream *publish.Stream
	window *window // its channels alone; the rest is B's
	number uint64  // of the latest chunk
	looked time.Time
	order  backfill.Order
	report backfill.Report
	at     ffstream.Backfill // how far the run is
	ended  string            // the latest run that was ended
	mark   time.Time         // when progress was published last
	held   time.Duration     // after which it is published again, though nothing came to it
	// sequence is that of the run's latest progress in the stream; 0: there is none.
	sequence uint64
	per      int       // the most executions read in a second; 0: any number
	free     time.Time // when that lets the next be read
	pace     pacer
	checked  bool     // that the stream has the end of the run that was ended last
	seen     bool     // everything is visible that committed before the session began
	estimate uint64   // of all executions
	gap      uint64   // sequence of the stream's latest; 0: it has none
	visit    []uint16 // what unread gave
	known    bool     // the next beginning was told before
	told     *told    // of the partitions that are read now; nil: not needed, or not read
}

// backfill runs E until ctx ends. After a session that did not get on, the run that
// goes on is no news.
func (ss *session) backfill(ctx context.Context, stalled bool) {
	b := &backfiller{known: stalled, shard: ss.shard, cfg: ss.shard.cfg.Backfill, stream: ss.stream, window: &ss.window}
	wait := orderInterval
	for {
		err := b.step(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			b.fail(ctx, err)
			b.looked = time.Time{} // the report may have been another's, and the wish may have changed
			wait = min(max(2*wait, orderInterval), maxBackfillBackoff)
		} else {
			b.succeed()
			wait = 0
			if b.order.Run == "" || b.report.State == backfill.Paused {
				wait = orderInterval
			}
		}
		if !sleep(ctx, wait) {
			return
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// step does one thing: looks for an order, or reads one chunk of the run that is
// open. After an error it can be called again.
func (b *backfiller) step(ctx context.Context) error {
	if err := b.look(ctx); err != nil || b.order.Run == "" {
		return err
	}
	switch {
	case b.at.Status != ffstream.BackfillRunning: // that is published, and not stored yet
		return b.end(ctx, b.at.Status)
	case b.order.Wish == backfill.Cancel:
		return b.end(ctx, ffstream.BackfillCancelled)
	case b.fading():
		return b.note(ctx, ffstream.BackfillRunning)
	case b.order.Wish == backfill.Pause:
		return b.pause(ctx)
	}
	if why := b.shard.busy(time.Now()); why != "" {
		if err := b.tell(ctx, backfill.Waiting, why); err != nil {
			return err
		}
		sleep(ctx, giveWayWait)
		return nil
	}
	if err := b.tell(ctx, backfill.Running, ""); err != nil {
		return err
	}
	if d := time.Until(b.free); d > 0 {
		sleep(ctx, min(d, orderInterval))
		return nil
	}
	if err := b.read(ctx); !errors.Is(err, errWish) {
		return err
	}
	return nil
}

// busy says why a backfill should give way now; empty when it need not. What is in
// flight, and how old the latest commit is, say nothing: that is the backfill's own,
// and of a database at rest.
func (s *Shard) busy(now time.Time) string {
	st := s.Status()
	bytes := st.Received != 0 && st.ServerEnd > st.Received && uint64(st.ServerEnd-st.Received) > giveWayBytes
	h := &st.Heartbeat
	late := s.cfg.Heartbeat != nil && h.Error == "" && !h.Sent.IsZero() && now.Sub(h.Sent) > s.cfg.HeartbeatInterval+giveWayBehind
	if bytes || late || h.Delay > giveWayBehind {
		return "the stream, which is behind the database"
	}
	return ""
}

// read reads the next chunk and has it published.
func (b *backfiller) read(ctx context.Context) error {
	if b.order.Lists > 0 {
		return b.readList(ctx)
	}
	if !b.seen {
		// What committed right before the slot began is in no event, and need not be
		// visible yet. It holds its locks until it is.
		if _, err := b.cfg.Source.Listed(ctx, 0, nil, b.waiting(ctx)); err != nil {
			return err
		}
		b.seen = true
	}
	first, more, err := b.next(ctx, b.at.After)
	if err != nil {
		return err
	}
	if !more {
		return b.end(ctx, ffstream.BackfillCompleted)
	}
	if err := b.recall(ctx, &first); err != nil {
		return err
	}
	return b.chunk(ctx, func(ctx context.Context) ([]ffstream.Event, ffstream.Opt[ffstream.ExecutionID], error) {
		return b.fill(ctx, first)
	})
}

// errWish ends a chunk that waits, for a transaction or for what the stream told, when
// something else comes first.
var errWish = errors.New("another wish")
