package shard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/normalize"
	"github.com/ffstream/ffstream/internal/publish"
	"github.com/ffstream/ffstream/internal/repl"
	"github.com/ffstream/ffstream/internal/repl/pgoutput"
)

// errUndecodable: the slot sent what no rule of pgoutput allows.
var errUndecodable = errors.New("WAL cannot be decoded")

// session is one life of the two connections. Everything in it belongs to
// goroutine B but for source, whose Run is goroutine A.
type session struct {
	shard   *Shard
	source  *repl.Stream
	stream  *publish.Stream
	norm    *normalize.Normalizer
	pub     *publish.Publisher
	ledger  ledger
	journal *journal
	repeats ffstream.LSN // the commit up to which the slot repeats what is stored
	extra   uint64       // events behind it that are stored too
	expect  ffstream.LSN // a commit that the log must have; 0: none
	inTx    bool         // between a Begin and its Commit
	msg     pgoutput.Message
	pulse   pulse
	window  window
	before  normalize.Stats // the run's counters when the session began
	began   time.Time

	received, serverEnd ffstream.LSN
	counted             ffstream.LSN // end of the log that the board has counted as read
	position            ffstream.Position
	commitTime          time.Time
	told                uint64                          // sequence of the latest event that is no snapshot
	events              map[ffstream.PublicState]uint64 // since the last report to the board
	snapshots           uint64                          // likewise
}

// session opens both ends, follows the slot until ctx or the session ends, and
// closes both. It calls established when it is streaming.
func (s *Shard) session(ctx context.Context, established func()) (err error) {
	opening, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	source, err := repl.Open(opening, s.sourceConfig())
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
	e, err := s.open(ctx, source, false)
	if err != nil {
		return err
	}
	way, err := s.plan(e)
	if err != nil {
		return err
	}
	n := s.newNote(&e.sight, way.marks)
	if !e.sight.noteStored {
		if err := s.orderInitial(ctx, e.stream); err != nil {
			return fmt.Errorf("order the initial backfill: %w", err)
		}
	}
	if n.replaces(e.sight.note) {
		if err := e.stream.WriteNote(ctx, n.encode()); err != nil { // bounded by itself: creating the slot may have taken long
			return err
		}
		s.known = n.clone()
	}
	tail := e.sight.tail
	pub, err := e.stream.Resume(tail)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pub.Close()) }()
	ss := s.newSession(ctx, e, pub, way)
	ss.journal = newJournal(n, tail.Sequence, tail.State, s.cfg.Holdback, time.Now())
	s.acked = max(s.acked, tail.Sequence) // what a session before stored unheard is not this one's
	established()
	level := slog.LevelInfo
	if s.stalled {
		level = slog.LevelDebug
	}
	s.cfg.Log.Log(ctx, level, "streaming", "slot", s.cfg.Source.Slot, "from", source.Slot().Confirmed.String(),
		"stream", s.cfg.Sink.Stream, "sequence", tail.Sequence, "behind", way.skip.String())
	return ss.tell(ctx, ss.run(ctx))
}

// errUnsure wraps what may be a gap, or what another process has just done: the
// slot was looked at before it was taken. The next session looks again.
var errUnsure = errors.New("looking again")

// twice gives a gap when the previous session found the same, and is unsure else.
// The sign tells them apart: a gap's text may name what moves, the log's end.
func (s *Shard) twice(sign string, gap error) error {
	if s.suspect == sign {
		return gap
	}
	s.suspect = sign
	return fmt.Errorf("%w: %s", errUnsure, gap.Error())
}

func (s *Shard) newSession(ctx context.Context, e *ends, pub *publish.Publisher, way course) *session {
	source := e.source
	ss := &session{shard: s, source: source, stream: e.stream, pub: pub, began: time.Now(), events: make(map[ffstream.PublicState]uint64)}
	ss.position, ss.repeats, ss.extra = way.skip, way.skip.Commit, way.extra
	ss.counted = source.Slot().Confirmed
	ss.pulse = newPulse()
	ss.window = newWindow(ss.pulse.session)
	ss.expect = way.expects(source.Slot().Confirmed)
	ss.ledger.acked = pub.Acked()
	cfg := normalize.Config{
		SystemID: source.System().ID,
		Source:   "/ffstream/" + s.cfg.Source.Slot,
		Identity: s.cfg.Identity,
		Skip:     way.skip,
	}
	if s.cfg.Lookup != nil {
		cfg.Lookup = s.cfg.Lookup(ctx)
	}
	cfg.Recent = normalize.NewRecent(s.cfg.RecentStates, s.recentStates(ctx, e))
	ss.norm = normalize.New(cfg)
	s.board.count(func(b *Status) {
		b.SystemID, b.Server, b.Sessions = source.System().ID, source.System().Version, b.Sessions+1
		ss.before = b.Normalizer
		b.Confirmed, b.ServerEnd, b.Position = source.Confirmed(), source.System().End, way.skip
		b.Sequence, b.Acked, b.Atomic = pub.Sequence(), pub.Acked(), e.stream.Atomic
	})
	return ss
}

// recentStates returns what reads the stream's last messages for the memory of
// recent states, as many as it may hold; nil when the stream has none.
func (s *Shard) recentStates(ctx context.Context, e *ends) func(record func(e *ffstream.Event)) error {
	tail, size := e.sight.tail, uint64(max(0, s.cfg.RecentStates))
	if !tail.Stored {
		return nil
	}
	all := []string{s.cfg.Sink.Prefix + ".>"}
	from := max(tail.State.First, tail.Sequence-min(size, tail.Sequence)+1)
	return func(record func(e *ffstream.Event)) error {
		return e.stream.Read(ctx, all, from, tail.Sequence, func(event *ffstream.Event, _ uint64) { record(event) })
	}
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

	seen := make(chan observation, 1) // C sends, B may not look
	watched := make(chan struct{})    // closed when C has ended
	go func() {
		defer close(watched)
		ss.watch(reading, seen)
	}()

	filled := make(chan struct{}) // closed when E has ended
	stalled := ss.shard.stalled
	go func() {
		defer close(filled)
		if ss.shard.cfg.Backfill != nil {
			ss.backfill(reading, stalled)
		}
	}()

	err := ss.follow(ctx, batches, ended, seen)
	stopReading()
	<-watched
	<-filled
	for range ended { // A owns the connection until it has ended
	}
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) { // a publisher that failed has nothing more to say
		err = ss.drain(ctx)
	}
	ss.report()
	return err
}

func (ss *session) follow(ctx context.Context, batches <-chan *repl.Batch, ended <-chan error, seen <-chan observation) error {
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
			if err := ss.confirm(false); err != nil {
				return err
			}
		case now := <-tick.C:
			if err := ss.pub.Overdue(now); err != nil {
				return err
			}
			if err := ss.confirm(false); err != nil { // what was held back may be due
				return err
			}
			if !ss.shard.nc.IsConnected() { // also when it was closed for good, which Run looks at
				return fmt.Errorf("%w: connection lost", publish.ErrUnavailable)
			}
			ss.report()
		case o := <-seen:
			if err := ss.observe(&o); err != nil {
				return err
			}
		case err := <-ended:
			if err == nil {
				return ctx.Err() // A ended because it was told to
			}
			if ss.foundBy(err) != nil {
				select {
				case b := <-batches: // what came before it is not lost
					return errors.Join(ss.batch(ctx, b), err)
				default:
				}
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
				ss.settle(frame.End)
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
			return ss.confirm(false)
		}
	}
}

// confirm writes the note that is due, and tells the source how far everything
// is stored and noted.
func (ss *session) confirm(ending bool) error {
	ss.ledger.ack(ss.pub.Acked())
	now, j := time.Now(), ss.journal
	if j.sent && !ss.pub.Noting() {
		j.stored(now)
		ss.shard.known = j.note.clone()
	}
	s, acked := ss.shard, ss.pub.Acked()
	if s.stalled && (acked > s.acked || now.Sub(ss.began) > s.cfg.MaxBackoff) {
		s.stalled = false
		s.cfg.Log.Info("streaming again", "slot", s.cfg.Source.Slot, "stream", s.cfg.Sink.Stream, "sequence", acked)
	}
	s.acked = max(s.acked, acked)
	if data := j.write(ss.ledger.done, now, ending); data != nil {
		if err := ss.pub.Note(data); err != nil {
			return err
		}
	}
	if delay, ok := ss.pulse.beaten(ss.ledger.done.end, now); ok {
		ss.shard.board.update(func(b *Status) {
			h := &b.Heartbeat
			h.Sent, h.Delay, h.Interval, h.Count = ss.pulse.sent, delay, ss.shard.cfg.HeartbeatInterval, h.Count+1
		})
	}
	ss.source.Confirm(j.ripe(ss.ledger.done.end, now))
	return nil
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
	case pgoutput.KindMessage:
		return ss.logical(ctx, &m.Logical)
	default: // origins and types say nothing of a state
		return nil
	}
}

func (ss *session) commit(ctx context.Context, c *pgoutput.Commit) error {
	if err := ss.meet(ffstream.LSN(c.CommitLSN)); err != nil {
		return err
	}
	published, uncertain := false, ss.norm.Uncertain()
	err := ss.norm.Commit(c, func(e *ffstream.Event) error {
		ss.position = e.ID.Position
		ss.window.see(e)
		if ss.extra > 0 {
			if ss.norm.Uncertain() != uncertain {
				return ss.uncertain(c)
			}
			ss.extra--
			return nil
		}
		ss.events[e.To]++
		published = true
		return ss.pub.Add(ctx, e)
	})
	if err != nil {
		return err
	}
	if ss.extra > 0 && ss.norm.Uncertain() != uncertain {
		return ss.uncertain(c)
	}
	if published {
		ss.told = ss.pub.Sequence()
	}
	if err := ss.pub.Commit(ctx); err != nil {
		return err
	}
	ss.inTx = false
	ss.received = ffstream.LSN(c.EndLSN)
	ss.commitTime = time.UnixMicro(c.CommitTime)
	ss.settle(ss.received)
	return nil
}

// uncertain is the loss of a transaction that may have made one of the events which
// are counted off.
func (ss *session) uncertain(c *pgoutput.Commit) error {
	return ss.uncounted(ffstream.LSN(c.CommitLSN), "whether a transaction made one of the last is not known without the memory of recent states")
}

// settle tells the ledger that the log before end is dealt with. While the slot
// repeats what is stored, the sequence of what stands before end is not known.
func (ss *session) settle(end ffstream.LSN) {
	if ss.extra == 0 && end > ss.repeats {
		ss.ledger.commit(entry{sequence: ss.pub.Sequence(), position: ss.position, end: end})
	}
}

// meet looks for the commit that the stream's last event came from, where the
// slot reaches back to it: a log that has none there is another log.
func (ss *session) meet(commit ffstream.LSN) error {
	if ss.expect == 0 || commit < ss.expect {
		return nil
	}
	if commit != ss.expect {
		return ss.shard.twice("no commit at "+ss.expect.String(), fmt.Errorf("%w: stream %s ends with an event that was committed at %s, and the database's log has no commit there: the database was restored and has gone on differently. "+
			"Either bring back the database that the stream follows, or begin a new stream (--stream) with a new slot (--slot)",
			ErrGap, ss.shard.cfg.Sink.Stream, ss.expect))
	}
	ss.expect = 0
	return nil
}

// drain stores what was committed before the stop, notes it and confirms it.
func (ss *session) drain(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ss.shard.cfg.ShutdownTimeout)
	defer cancel()
	err := ss.pub.Drain(ctx)
	// A note may be on its way, then the last is written, then taken.
	for range 3 {
		if err == nil {
			err = ss.pub.AwaitNote(ctx)
		}
		if err == nil {
			err = ss.confirm(true)
		}
	}
	if err != nil {
		return fmt.Errorf("store the last events: %w", err)
	}
	return nil
}

func (ss *session) report() {
	stats := ss.norm.Stats()
	read := max(ss.received, ss.counted)
	ss.shard.board.count(func(b *Status) {
		b.Received, b.Confirmed = ss.received, ss.source.Confirmed()
		b.ServerEnd = max(b.ServerEnd, ss.serverEnd)
		b.Position, b.CommitTime = ss.position, ss.commitTime
		b.Sequence, b.Acked, b.InFlight = ss.pub.Sequence(), ss.pub.Acked(), ss.pub.InFlight()
		b.InFlightBytes, b.Window = ss.pub.InFlightBytes(), ss.pub.Window()
		b.ReadWAL += uint64(read - ss.counted)
		b.StoredBytes += ss.pub.TakeStored()
		b.Told = ss.told
		b.Normalizer = ss.before.Plus(stats)
		for state, n := range ss.events {
			b.Events[state] += n
		}
		b.Snapshots += ss.snapshots
	})
	clear(ss.events)
	ss.snapshots, ss.counted = 0, read
}
