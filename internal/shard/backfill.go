package shard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"

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
	// pausedInterval how often while a run is paused.
	markInterval   = 5 * time.Second
	pausedInterval = time.Hour
	// A backfill gives way while the stream is further behind than this, in bytes of
	// the log or by what a heartbeat took.
	giveWayBytes  = 16 << 20
	giveWayBehind = 2 * time.Second
	giveWayWait   = 100 * time.Millisecond
	// chunkTime is how long partitions are added to a chunk.
	chunkTime = 200 * time.Millisecond
	// chunksPerSecond is into how many chunks a second's executions are divided.
	chunksPerSecond = 25
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
	// sequence is that of the run's latest progress in the stream; 0: there is none.
	sequence uint64
	per      int       // the most executions read in a second; 0: any number
	free     time.Time // when that lets the next be read
	pace     pacer
	checked  bool   // that the stream has the end of the run that was ended last
	seen     bool   // everything is visible that committed before the session began
	estimate uint64 // of all executions
	gap      uint64 // sequence of the stream's latest; 0: it has none
	known    bool   // the next beginning was told before
	told     *told  // of the partitions that are read now; nil: not needed, or not read
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
	case b.order.Wish == backfill.Pause:
		return b.pause(ctx)
	case b.order.Wish == backfill.Cancel:
		return b.end(ctx, ffstream.BackfillCancelled)
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

// errWish ends a chunk that waits for a transaction when the run is not to go on.
var errWish = errors.New("another wish")

// look reads the order when that is due.
func (b *backfiller) look(ctx context.Context) error {
	now := time.Now()
	if now.Sub(b.looked) < orderInterval {
		return nil
	}
	if b.store == nil {
		store, err := b.shard.orders(ctx)
		if err != nil {
			return err
		}
		b.store = store
	}
	order, report, found, err := b.store.Current(ctx)
	if err != nil {
		return err
	}
	if found && !b.checked {
		if err := b.reopen(ctx, &order, &report); err != nil {
			return err
		}
		b.checked = true
	}
	b.looked = now
	if !found || report.State.Ended() || order.Run == b.ended {
		b.order = backfill.Order{}
		if !found || report.State.Ended() {
			return nil
		}
		b.report.Replaces(&report) // somebody wrote an older one over the end
		return b.store.Report(ctx, &order, &b.report)
	}
	known := b.order.Run == order.Run
	b.order = order
	if known {
		b.report.Replaces(&report) // another process may have written one, which is none of this run
		return nil
	}
	if err := b.begin(ctx, &report); err != nil {
		b.order, b.looked = backfill.Order{}, time.Time{}
		return err
	}
	return nil
}

// reopen lets a run go on that was completed, and of which the broker forgot the end
// and maybe more: the slot refills a stream with transitions alone. An end that aged
// out is none that was forgotten.
func (b *backfiller) reopen(ctx context.Context, order *backfill.Order, report *backfill.Report) error {
	if report.State != backfill.Completed || report.Sequence == 0 {
		return nil
	}
	state, err := b.stream.ReadState(ctx)
	if err != nil {
		return err
	}
	at, _, err := b.stream.ReadBackfill(ctx)
	switch {
	case err != nil:
		return err
	case report.Sequence < state.First, at.OK && at.V.Run == report.Run && at.V.Status != ffstream.BackfillRunning:
		return nil
	case order.Lists > 0: // they are gone
		b.shard.cfg.Log.Warn("the broker forgot what a repair told: run again: ffstream verify --repair", "run", report.Run)
		return nil
	}
	b.shard.cfg.Log.Warn("the broker forgot the end of a backfill; it goes on where the stream says", "run", report.Run)
	report.State, report.Waiting, report.Sequence, report.Ended = backfill.Waiting, "the service", 0, time.Time{}
	return b.store.Report(ctx, order, report)
}

// begin starts a run, or goes on with one where the stream says.
func (b *backfiller) begin(ctx context.Context, report *backfill.Report) error {
	at, sequence, err := b.stream.ReadBackfill(ctx)
	if err != nil {
		return err
	}
	b.sequence = 0
	b.at = ffstream.Backfill{Run: b.order.Run, Status: ffstream.BackfillRunning}
	b.report = *report
	b.report.Run, b.report.Started = b.order.Run, time.Now().UTC()
	b.mark = time.Now()
	if at.OK && at.V.Run == b.order.Run {
		b.at, b.report.Started, b.sequence = at.V, report.Started, sequence
		if at.V.Status != ffstream.BackfillRunning { // it ended, and the report of that was not written
			return b.close(ctx, at.V.Status)
		}
	}
	if b.gap, err = b.stream.LastGap(ctx); err != nil {
		return err
	}
	if b.estimate, err = b.cfg.Source.Estimate(ctx); err != nil {
		return err
	}
	b.report.Total, b.told = b.order.Of(b.estimate), nil
	if b.per, b.free = b.order.Rate, time.Now(); b.per == 0 {
		b.per = b.cfg.Rate
	}
	b.pace = pacer{at: time.Now(), executions: b.at.Executions}
	level := slog.LevelInfo
	if b.known {
		level = slog.LevelDebug
	}
	b.known = false
	b.shard.cfg.Log.Log(ctx, level, "backfill begins", "run", b.order.Run, "behind", text(b.at.After), "executions", b.report.Total)
	return nil
}

func text(id ffstream.Opt[ffstream.ExecutionID]) string {
	if !id.OK {
		return ""
	}
	return id.V.String()
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
	if err := b.recall(ctx, first.Partition); err != nil {
		return err
	}
	return b.chunk(ctx, func(ctx context.Context) ([]ffstream.Event, ffstream.Opt[ffstream.ExecutionID], error) {
		return b.fill(ctx, first)
	})
}

// fill reads from q on until the chunk is full, over partitions as far as
// chunkTime allows, and gives the last execution that was looked at.
func (b *backfiller) fill(ctx context.Context, q ChunkQuery) (all []ffstream.Event, after ffstream.Opt[ffstream.ExecutionID], err error) {
	limit, began := q.Limit, time.Now()
	for first, more := true, true; more && len(all) < limit && (first || time.Since(began) < chunkTime); first = false {
		q.Limit = limit - len(all)
		events, last, err := b.page(ctx, q)
		if err != nil {
			return nil, after, err
		}
		if !last.OK {
			last.V = lastUUID // the partition is done
		}
		after = ffstream.Some(ffstream.NewExecutionID(uint16(q.Partition), last.V))
		for i := range events {
			if b.order.Filter.Allows(&events[i]) {
				events[i].Snapshot = &ffstream.Snapshot{Run: b.order.Run}
			}
		}
		all = append(all, events...)
		if q, more, err = b.next(ctx, after); err != nil {
			return nil, after, err
		}
		more = more && (b.told == nil || b.told.has(q.Partition))
	}
	return all, after, b.compare(ctx, all)
}

var lastUUID = uuid.Max

// The partitions that the engine uses unless it was told otherwise. Which others
// have rows is asked of the table, which takes as long as reading many chunks.
const firstPartition, lastPartition = 0, 255

// next is where a run goes on behind an execution; false at its end.
func (b *backfiller) next(ctx context.Context, after ffstream.Opt[ffstream.ExecutionID]) (ChunkQuery, bool, error) {
	q := ChunkQuery{Lanes: b.order.Filter.Lanes, Limit: backfill.MaxList, Waiting: b.waiting(ctx)}
	// A transition that commits behind a chunk waits until that is stored, so where
	// there is a rate the chunks are small.
	if b.per > 0 && b.per < backfill.MaxList*chunksPerSecond {
		q.Limit = max(1, b.per/chunksPerSecond)
	}
	from := math.MinInt16
	if after.OK {
		from = int(after.V.PartitionKey())
		if after.V.UUID() != lastUUID {
			q.Partition, q.After = int16(from), ffstream.Some(after.V.UUID())
			return q, true, nil
		}
		from++
	}
	if len(b.order.Filter.Partitions) > 0 {
		key, more := following(b.order.Filter.Partitions, from)
		q.Partition = key
		return q, more, nil
	}
	switch {
	case from >= firstPartition && from <= lastPartition:
		q.Partition = int16(from)
		return q, true, nil
	case from > math.MaxInt16:
		return q, false, nil
	}
	key, more, err := b.cfg.Source.NextPartition(ctx, int16(from))
	q.Partition = key
	return q, more, err
}

// following gives the smallest of the partitions whose key is not below from.
func following(partitions []uint16, from int) (key int16, found bool) {
	for _, p := range partitions {
		if k := int16(p); int(k) >= from && (!found || k < key) {
			key, found = k, true
		}
	}
	return key, found
}

// readList reads the next list of executions. One that does not exist is told as
// purged, if the stream knows it.
func (b *backfiller) readList(ctx context.Context) error {
	if b.at.Chunks >= b.order.Lists {
		return b.end(ctx, ffstream.BackfillCompleted)
	}
	list, err := b.store.List(ctx, b.order.Run, b.at.Chunks)
	if err != nil {
		return err
	}
	return b.chunk(ctx, func(ctx context.Context) ([]ffstream.Event, ffstream.Opt[ffstream.ExecutionID], error) {
		events, err := b.listed(ctx, list)
		return events, ffstream.Opt[ffstream.ExecutionID]{}, err
	})
}

func (b *backfiller) listed(ctx context.Context, list []backfill.Listed) ([]ffstream.Event, error) {
	known := make(map[ffstream.ExecutionID]string, len(list))
	parts := map[int16][]uuid.UUID{}
	for _, l := range list {
		known[l.ID] = l.Known
		parts[l.ID.PartitionKey()] = append(parts[l.ID.PartitionKey()], l.ID.UUID())
	}
	var all []ffstream.Event
	for partition, ids := range parts {
		events, err := b.again(ctx, partition, ids)
		if err != nil {
			return nil, err
		}
		all = append(all, events...)
	}
	for i := range all {
		e := &all[i]
		e.Snapshot = &ffstream.Snapshot{Run: b.order.Run, Repair: true, Known: ffstream.PublicState(known[e.ExecutionID])}
	}
	all = slices.DeleteFunc(all, func(e ffstream.Event) bool {
		return e.To == ffstream.StatePurged && (e.Snapshot.Known == "" || e.Snapshot.Known == ffstream.StatePurged)
	})
	slices.SortFunc(all, func(x, y ffstream.Event) int { return strings.Compare(x.ExecutionID.String(), y.ExecutionID.String()) })
	return all, nil
}

// again reads executions of a partition; those that do not exist come as purged.
func (b *backfiller) again(ctx context.Context, partition int16, ids []uuid.UUID) ([]ffstream.Event, error) {
	events, err := b.cfg.Source.Listed(ctx, partition, ids, b.waiting(ctx))
	if err != nil {
		return nil, err
	}
	found := make(map[uuid.UUID]struct{}, len(events))
	for i := range events {
		found[events[i].ExecutionID.UUID()] = struct{}{}
	}
	for _, id := range ids {
		if _, is := found[id]; !is {
			events = append(events, ffstream.Event{
				Type: ffstream.TypeSnapshotted, ExecutionID: ffstream.NewExecutionID(uint16(partition), id), To: ffstream.StatePurged, Consistent: true,
			})
		}
	}
	return events, nil
}

// chunk writes the watermarks around a read, has what it gave published, and
// notes how far the run is then.
func (b *backfiller) chunk(ctx context.Context, read func(context.Context) ([]ffstream.Event, ffstream.Opt[ffstream.ExecutionID], error)) error {
	prefix := WatermarkPrefix(b.shard.cfg.Source.Slot)
	b.number++
	if err := b.cfg.Source.Watermark(ctx, prefix, b.window.watermark(lowWatermark, b.number)); err != nil {
		return err
	}
	c := chunk{number: b.number, at: time.Now().UTC(), progress: b.at}
	var err error
	if c.events, c.progress.After, err = read(ctx); err != nil {
		return err
	}
	c.mark = time.Since(b.mark) >= markInterval
	return b.publish(ctx, c)
}

// publish hands a chunk over, writes its high watermark and waits for what became
// of it.
func (b *backfiller) publish(ctx context.Context, c chunk) error {
	prefix := WatermarkPrefix(b.shard.cfg.Source.Slot)
	b.window.chunks <- c // there is room: what was handed over before is settled
	err := b.cfg.Source.Watermark(ctx, prefix, b.window.watermark(highWatermark, c.number))
	for wait := orderInterval; err != nil; wait = min(2*wait, maxBackfillBackoff) {
		// Whether it was written is not known. Behind another one it is.
		b.fail(ctx, err)
		if !sleep(ctx, wait) {
			return ctx.Err()
		}
		err = b.cfg.Source.Watermark(ctx, prefix, b.window.watermark(voidWatermark, c.number))
	}
	var s stored
	select {
	case s = <-b.window.stored:
	case <-ctx.Done():
		return ctx.Err()
	}
	if s.void {
		return nil // read again
	}
	looked := s.progress.Executions - b.at.Executions
	b.shard.board.update(func(st *Status) {
		st.Backfill.TotalChunks += s.progress.Chunks - b.at.Chunks
		st.Backfill.TotalSuperseded += s.progress.Superseded - b.at.Superseded
	})
	b.at = s.progress
	if s.sequence > 0 {
		b.mark, b.sequence = time.Now(), s.sequence
	}
	b.throttle(time.Now(), looked)
	return nil
}

// throttle says when the next may be read. What was missed is made up for in the
// second behind it, or never.
func (b *backfiller) throttle(now time.Time, looked uint64) {
	if b.per > 0 {
		b.free = latest(b.free, now.Add(-time.Second)).Add(time.Duration(looked) * time.Second / time.Duration(b.per))
	}
}

func latest(x, y time.Time) time.Time {
	if x.After(y) {
		return x
	}
	return y
}

// note publishes how far the run is, without a chunk.
func (b *backfiller) note(ctx context.Context, status string) error {
	p := b.at
	p.Status = status
	p.Chunks-- // it is no chunk of its own
	b.number++
	if err := b.cfg.Source.Watermark(ctx, WatermarkPrefix(b.shard.cfg.Source.Slot), b.window.watermark(lowWatermark, b.number)); err != nil {
		return err
	}
	return b.publish(ctx, chunk{number: b.number, at: time.Now().UTC(), progress: p, mark: true})
}

// pause holds the run. It is noted how far it is, and again from time to time, so
// that this does not age out of the stream.
func (b *backfiller) pause(ctx context.Context) error {
	b.told = nil // it may be for long
	if b.at.Chunks > 0 && b.report.State != backfill.Paused || time.Since(b.mark) >= pausedInterval {
		if err := b.note(ctx, ffstream.BackfillRunning); err != nil {
			return err
		}
	}
	return b.tell(ctx, backfill.Paused, "")
}

// end publishes that the run is over, waits until that is stored, and with it all
// before, and says so.
func (b *backfiller) end(ctx context.Context, status string) error {
	if b.at.Status != status && (status == ffstream.BackfillCompleted || b.sequence > 0) { // a run that is cancelled before its first word has none
		return b.note(ctx, status)
	}
	for b.shard.Status().Acked < b.sequence {
		if !sleep(ctx, reportInterval) {
			return ctx.Err()
		}
	}
	return b.close(ctx, status)
}

// close writes the report of a run that has ended.
func (b *backfiller) close(ctx context.Context, status string) error {
	state := backfill.Completed
	if status == ffstream.BackfillCancelled {
		state = backfill.Cancelled
	}
	b.report.Ended, b.report.Sequence = time.Now().UTC(), b.sequence
	b.report.Updated = time.Time{}
	if err := b.tell(ctx, state, ""); err != nil {
		return err
	}
	b.shard.cfg.Log.Info("backfill is "+string(state), "run", b.order.Run, "executions", b.at.Executions, "published", b.at.Published, "superseded", b.at.Superseded)
	b.ended, b.order, b.told = b.order.Run, backfill.Order{}, nil
	return nil
}

// waiting tells of transactions that are waited for, which may be for long, and
// ends that when the run is to be held or ended.
func (b *backfiller) waiting(ctx context.Context) func(xids []int64) error {
	run := b.order.Run
	return func(xids []int64) error {
		state, why := backfill.Running, ""
		if len(xids) > 0 {
			state, why = backfill.Waiting, fmt.Sprintf("transactions that are changing executions: %v", xids)
		}
		_ = b.tell(ctx, state, why) // the next report says it again
		if err := b.look(ctx); err == nil && (b.order.Run != run || b.order.Wish != backfill.Run) {
			return errWish
		}
		return nil
	}
}

// tell reports how far the run is, at once when its state changed and about once
// a second otherwise.
func (b *backfiller) tell(ctx context.Context, state backfill.State, waiting string) error {
	now := time.Now().UTC()
	r := &b.report
	if r.State == state && r.Waiting == waiting && now.Sub(r.Updated) < orderInterval {
		return nil
	}
	r.State, r.Waiting, r.Updated = state, waiting, now
	r.After, r.Chunks, r.Executions, r.Published, r.Superseded = text(b.at.After), b.at.Chunks, b.at.Executions, b.at.Published, b.at.Superseded
	r.Rate = b.pace.rate(now, b.at.Executions)
	b.show()
	return b.store.Report(ctx, &b.order, r)
}

func (b *backfiller) show() {
	r := b.report
	b.shard.board.update(func(st *Status) { st.Backfill.Report = r })
}

// fail shows what went wrong; one line is logged a change.
func (b *backfiller) fail(ctx context.Context, err error) {
	text := b.shard.cfg.Sink.Explain(err).Error()
	if b.report.Error != text {
		b.shard.cfg.Log.Warn("backfill: trying again", "run", b.order.Run, "error", text)
	}
	b.report.Error = text
	b.show()
	if b.store != nil && b.order.Run != "" {
		_ = b.store.Report(ctx, &b.order, &b.report) // it is the failure that matters
	}
}

func (b *backfiller) succeed() {
	if b.report.Error != "" {
		b.report.Error = ""
		b.show()
	}
}

// orders opens the bucket.
func (s *Shard) orders(ctx context.Context) (*backfill.Store, error) {
	opening, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	js, err := jetstream.New(s.nc)
	if err != nil {
		return nil, fmt.Errorf("open JetStream: %w", err)
	}
	return backfill.Open(opening, js, publish.Bucket(s.cfg.Sink.Stream))
}

// pacer is the rate of late.
type pacer struct {
	at         time.Time
	executions uint64
	per        float64
}

// rateSpan is the least time that a rate is taken over.
const rateSpan = 2 * time.Second

func (p *pacer) rate(now time.Time, executions uint64) float64 {
	passed := now.Sub(p.at)
	if passed < rateSpan {
		return p.per
	}
	p.per = float64(executions-p.executions) / passed.Seconds()
	p.at, p.executions = now, executions
	return p.per
}

// orderInitial places the order of a run over everything, if that is wanted and the
// stream does not say that a run was completed. It is called where the bucket has no
// note, at the beginning, and before one is written: a crash in between, and a broker
// that forgets the order and with it the note behind it, leave it to the next session.
func (s *Shard) orderInitial(ctx context.Context, stream *publish.Stream) error {
	if b := s.cfg.Backfill; b == nil || !b.Initial {
		return nil
	}
	at, _, err := stream.ReadBackfill(ctx)
	if err != nil || at.OK && at.V.Status == ffstream.BackfillCompleted {
		return err
	}
	store, err := s.orders(ctx)
	if err != nil {
		return err
	}
	_, err = store.Place(ctx, backfill.Order{Initial: true})
	if errors.Is(err, backfill.ErrOpen) {
		return nil
	}
	return err
}
