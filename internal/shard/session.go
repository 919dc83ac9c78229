package shard

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/normalize"
	"github.com/ffstream/ffstream/internal/publish"
	"github.com/ffstream/ffstream/internal/repl"
	"github.com/ffstream/ffstream/internal/repl/pgoutput"
)

// ErrGap says that the slot does not reach back to where the stream ends.
var ErrGap = errors.New("continuity is lost")

// errUndecodable: the slot sent what no rule of pgoutput allows.
var errUndecodable = errors.New("WAL cannot be decoded")

// session is one life of the two connections. Everything in it belongs to
// goroutine B but for source, whose Run is goroutine A.
type session struct {
	shard  *Shard
	source *repl.Stream
	norm   *normalize.Normalizer
	pub    *publish.Publisher
	ledger ledger
	noted  ffstream.LSN // of the ledger's, what the holdback was told
	expect ffstream.LSN // a commit that the log must have; 0: none
	inTx   bool         // between a Begin and its Commit
	msg    pgoutput.Message

	received, serverEnd ffstream.LSN
	position            ffstream.Position
	commitTime          time.Time
	events              map[ffstream.PublicState]uint64 // since the last report to the board
}

// session opens both ends, follows the slot until ctx or the session ends, and
// closes both. It calls established when it is streaming.
func (s *Shard) session(ctx context.Context, established func()) (err error) {
	open, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	source, err := repl.Open(open, s.cfg.Source)
	if err != nil {
		return err
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.ShutdownTimeout)
		defer cancel()
		if closed := source.Close(closing); err == nil {
			err = closed
		}
	}()
	if s.cfg.Preflight != nil {
		if err := s.cfg.Preflight(open); err != nil {
			return fmt.Errorf("check source: %w", err)
		}
	}
	stream, err := s.openStream(open, source)
	if err != nil {
		return err
	}
	if !source.Slot().Exists {
		// This may wait long for transactions that are running.
		s.cfg.Log.Info("creating the replication slot; this waits for transactions that are running now", "slot", s.cfg.Source.Slot)
		if err := source.CreateSlot(ctx); err != nil {
			return err
		}
	}
	start, cancelStart := context.WithTimeout(ctx, connectTimeout)
	defer cancelStart()
	if err := source.Start(start); err != nil {
		return err
	}
	// From here on the slot is ours, so no other process can be publishing but
	// a straggler, and that breaks the chain that begins at this tail.
	tail, err := stream.ReadTail(start)
	if err != nil {
		return err
	}
	if err := s.checkTail(source, tail); err != nil {
		return err
	}
	if err := s.checkForgotten(source, tail); err != nil {
		return err
	}
	pub, err := stream.Resume(tail)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pub.Close()) }()
	ss := s.newSession(ctx, source, pub, tail)
	established()
	s.cfg.Log.Info("streaming", "slot", s.cfg.Source.Slot, "from", source.Slot().Confirmed.String(),
		"stream", s.cfg.Sink.Stream, "sequence", tail.Sequence, "behind", tail.Position.String())
	return ss.run(ctx)
}

// openStream checks the stream, creates it for a slot that does not exist yet,
// and refuses a slot that is missing although the stream has a past.
func (s *Shard) openStream(ctx context.Context, source *repl.Stream) (*publish.Stream, error) {
	sink := s.cfg.Sink
	sink.SystemID, sink.Slot = source.System().ID, s.cfg.Source.Slot
	stream, err := publish.Open(ctx, s.nc, sink, !source.Slot().Exists)
	if err != nil {
		if errors.Is(err, publish.ErrStreamLost) {
			return nil, fmt.Errorf("%w. Either restore the stream, or accept that: drop the slot with SELECT pg_drop_replication_slot('%s') and start anew", err, s.cfg.Source.Slot)
		}
		return nil, err
	}
	for _, w := range stream.Warnings {
		if !s.established {
			s.cfg.Log.Warn("stream "+sink.Stream, "warning", w)
		}
	}
	if source.Slot().Exists || stream.LastSequence() == 0 {
		return stream, nil
	}
	tail, err := stream.ReadTail(ctx)
	if err != nil {
		return nil, err
	}
	return nil, s.twice(fmt.Errorf("%w: replication slot %s does not exist, and stream %s ends at %s (sequence %d): transitions committed since are lost to it. "+
		"Either restore the slot with the database, or begin a new stream: name another one (--stream) or delete this one",
		ErrGap, s.cfg.Source.Slot, sink.Stream, tail.Position, tail.Sequence))
}

// errUnsure wraps what may be a gap, or what another process has just done: the
// slot was looked at before it was taken. The next session looks again.
var errUnsure = errors.New("looking again")

// twice gives a gap when the previous session found the same, and is unsure else.
func (s *Shard) twice(gap error) error {
	if s.suspect == gap.Error() {
		return gap
	}
	s.suspect = gap.Error()
	return fmt.Errorf("%w: %s", errUnsure, gap.Error())
}

// checkTail refuses a database that has not reached what the stream holds: it
// was restored from a backup, or is a standby that was promoted too early. The
// log's end was read before the slot was taken, so another process may have
// published since.
func (s *Shard) checkTail(source *repl.Stream, tail publish.Tail) error {
	if tail.Position.Commit < source.System().End {
		return nil
	}
	return s.twice(fmt.Errorf("%w: stream %s ends at %s, which the database's log has not reached: the database was restored or lost its latest transactions. "+
		"Either bring back the database that the stream follows, or begin a new stream (--stream) with a new slot (--slot)",
		ErrGap, s.cfg.Sink.Stream, tail.Position))
}

// checkForgotten looks for events that the broker acknowledged to this process
// and does not have any more. The slot refills them, or they are lost.
func (s *Shard) checkForgotten(source *repl.Stream, tail publish.Tail) error {
	if tail.Sequence >= s.held.stored {
		return nil
	}
	gone := s.held.gone(source.Slot().Confirmed)
	if tail.Sequence < gone {
		return fmt.Errorf("%w: stream %s ends with message %d (%s), and NATS had acknowledged messages up to %d, of which the slot has let go those up to %d: the broker forgot what it had stored. "+
			"Either restore the stream, or begin a new one (--stream) with a new slot (--slot); --confirm-holdback, or sync_interval: always in NATS, prevents this",
			ErrGap, s.cfg.Sink.Stream, tail.Sequence, tail.Position, s.held.stored, gone)
	}
	s.cfg.Log.Warn("the broker forgot messages that it had acknowledged; the slot still has them and refills the stream",
		"stream", s.cfg.Sink.Stream, "ends", tail.Sequence, "acknowledged", s.held.stored)
	s.held.stored = tail.Sequence
	return nil
}

func (s *Shard) newSession(ctx context.Context, source *repl.Stream, pub *publish.Publisher, tail publish.Tail) *session {
	ss := &session{shard: s, source: source, pub: pub, events: make(map[ffstream.PublicState]uint64)}
	ss.position = tail.Position
	if !tail.Stored && tail.Sequence == s.last.sequence {
		ss.position = s.last.position
	}
	if source.Slot().Confirmed <= tail.Position.Commit {
		ss.expect = tail.Position.Commit
	}
	s.held.due = s.held.due[:0] // the replay brings them again, as far as they are still stored
	ss.ledger.acked = pub.Acked()
	cfg := normalize.Config{
		SystemID: source.System().ID,
		Source:   "/ffstream/" + s.cfg.Source.Slot,
		Identity: s.cfg.Identity,
		Skip:     tail.Position,
	}
	if !tail.Stored && tail.Sequence == s.last.sequence {
		cfg.Skip = s.last.position // what aged out was stored all the same
	}
	if s.cfg.Lookup != nil {
		cfg.Lookup = s.cfg.Lookup(ctx)
	}
	ss.norm = normalize.New(cfg)
	s.board.update(func(b *Status) {
		b.SystemID, b.Server, b.Sessions = source.System().ID, source.System().Version, b.Sessions+1
		b.Confirmed, b.ServerEnd, b.Position = source.Confirmed(), source.System().End, tail.Position
		b.Sequence, b.Acked = pub.Sequence(), pub.Acked()
	})
	return ss
}

// reportInterval is how often the board is updated while batches keep coming,
// and how often an overdue acknowledgement is looked for.
const reportInterval = 250 * time.Millisecond

// run is goroutine B. It starts goroutine A and ends it.
func (ss *session) run(ctx context.Context) error {
	reading, stopReading := context.WithCancel(ctx)
	batches := make(chan *repl.Batch, 1) // one waits while one is processed
	ended := make(chan error, 1)         // A sends its result, which fits though B may not look, and closes
	go func() {
		defer close(ended)
		ended <- ss.source.Run(reading, batches)
	}()

	err := ss.follow(ctx, batches, ended)
	stopReading()
	for range ended { // A owns the connection until it has ended
	}
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) { // a publisher that failed has nothing more to say
		err = ss.drain(ctx)
	}
	ss.report()
	return err
}

func (ss *session) follow(ctx context.Context, batches <-chan *repl.Batch, ended <-chan error) error {
	tick := time.NewTicker(reportInterval)
	defer tick.Stop()
	for {
		select {
		case b := <-batches:
			if err := ss.batch(ctx, b); err != nil {
				return err
			}
		case m := <-ss.pub.Acks():
			if err := ss.pub.Ack(ctx, m); err != nil {
				return err
			}
			ss.confirm()
		case now := <-tick.C:
			if err := ss.pub.Overdue(now); err != nil {
				return err
			}
			ss.confirm()                    // what was held back may be due
			if !ss.shard.nc.IsConnected() { // also when it was closed for good, which Run looks at
				return fmt.Errorf("%w: connection lost", publish.ErrUnavailable)
			}
			ss.report()
		case err := <-ended:
			if err == nil {
				return ctx.Err() // A ended because it was told to
			}
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (ss *session) batch(ctx context.Context, b *repl.Batch) error {
	defer b.Release()
	for {
		frame, ok, err := b.Next()
		if err != nil {
			return fmt.Errorf("%w: %w", errUndecodable, err)
		}
		if !ok {
			break
		}
		ss.serverEnd = max(ss.serverEnd, frame.End)
		if frame.WAL == nil {
			if !ss.inTx {
				if ss.expect != 0 && frame.End > ss.expect { // sent past the place where the commit must be
					if err := ss.meet(frame.End); err != nil {
						return err
					}
				}
				ss.received = max(ss.received, frame.End)
				ss.ledger.commit(frame.End, ss.pub.Sequence())
			}
			continue
		}
		if err := ss.change(ctx, frame.WAL); err != nil {
			return err
		}
	}
	if err := ss.pub.Flush(ctx); err != nil {
		return err
	}
	return ss.takeAcks(ctx)
}

// takeAcks takes the acknowledgements that have come, without waiting.
func (ss *session) takeAcks(ctx context.Context) error {
	for {
		select {
		case m := <-ss.pub.Acks():
			if err := ss.pub.Ack(ctx, m); err != nil {
				return err
			}
		default:
			ss.confirm()
			return nil
		}
	}
}

// confirm tells the source how far everything is stored.
func (ss *session) confirm() {
	ss.ledger.ack(ss.pub.Acked())
	held := &ss.shard.held
	held.stored = max(held.stored, ss.pub.Acked())
	if ss.pub.InFlight() == 0 && !ss.inTx {
		ss.shard.last = stored{ss.pub.Acked(), ss.position}
	}
	now := time.Now()
	if ss.ledger.confirmable > ss.noted {
		ss.noted = ss.ledger.confirmable
		held.add(ss.noted, ss.ledger.released, now)
	}
	ss.source.Confirm(held.ripe(now))
}

func (ss *session) change(ctx context.Context, wal []byte) error {
	m := &ss.msg
	if err := pgoutput.Decode(wal, m); err != nil {
		return fmt.Errorf("%w: %w", errUndecodable, err)
	}
	switch m.Kind {
	case pgoutput.KindInsert, pgoutput.KindUpdate, pgoutput.KindDelete:
		return ss.norm.Row(m)
	case pgoutput.KindBegin:
		ss.inTx = true
		return ss.norm.Begin(&m.Begin)
	case pgoutput.KindCommit:
		return ss.commit(ctx, &m.Commit)
	case pgoutput.KindRelation:
		return ss.norm.Relation(&m.Relation)
	case pgoutput.KindTruncate:
		return ss.norm.Truncate(&m.Truncate)
	default: // origins, types and logical messages say nothing of a state
		return nil
	}
}

func (ss *session) commit(ctx context.Context, c *pgoutput.Commit) error {
	if err := ss.meet(ffstream.LSN(c.CommitLSN)); err != nil {
		return err
	}
	err := ss.norm.Commit(c, func(e *ffstream.Event) error {
		ss.position = e.ID.Position
		ss.events[e.To]++
		return ss.pub.Add(ctx, e)
	})
	if err != nil {
		return err
	}
	if err := ss.pub.Commit(ctx); err != nil {
		return err
	}
	ss.inTx = false
	ss.received = ffstream.LSN(c.EndLSN)
	ss.commitTime = time.UnixMicro(c.CommitTime)
	ss.ledger.commit(ss.received, ss.pub.Sequence())
	return nil
}

// meet looks for the commit that the stream's last event came from, where the
// slot reaches back to it: a log that has none there is another log.
func (ss *session) meet(commit ffstream.LSN) error {
	if ss.expect == 0 || commit < ss.expect {
		return nil
	}
	if commit != ss.expect {
		return ss.shard.twice(fmt.Errorf("%w: stream %s ends with an event that was committed at %s, and the database's log has no commit there: the database was restored and has gone on differently. "+
			"Either bring back the database that the stream follows, or begin a new stream (--stream) with a new slot (--slot)",
			ErrGap, ss.shard.cfg.Sink.Stream, ss.expect))
	}
	ss.expect = 0
	return nil
}

// drain stores what was committed before the stop and confirms it.
func (ss *session) drain(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ss.shard.cfg.ShutdownTimeout)
	defer cancel()
	err := ss.pub.Drain(ctx)
	ss.confirm()
	if err != nil {
		return fmt.Errorf("store the last events: %w", err)
	}
	return nil
}

func (ss *session) report() {
	stats := ss.norm.Stats()
	ss.shard.board.update(func(b *Status) {
		b.Received, b.Confirmed = ss.received, ss.source.Confirmed()
		b.ServerEnd = max(b.ServerEnd, ss.serverEnd)
		b.Position, b.CommitTime = ss.position, ss.commitTime
		b.Sequence, b.Acked, b.InFlight = ss.pub.Sequence(), ss.pub.Acked(), ss.pub.InFlight()
		b.Normalizer = stats
		for state, n := range ss.events {
			b.Events[state] += n
		}
	})
	clear(ss.events)
}
