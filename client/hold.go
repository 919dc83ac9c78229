package client

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// history is what a run has handled. It outlives the sessions.
type history struct {
	ring
	// past is used where the consumer is ephemeral: another one begins behind the
	// oldest that is not settled, and gives again what was handled since, however
	// much that is.
	past settled
	// tries is of what was in hand when a session ended.
	tries map[uint64]int
}

// remember keeps how often the head of a queue was tried, for the next session.
func (h *history) remember(q *queue) {
	if q.tries == 0 || len(q.items) == 0 {
		return
	}
	if h.tries == nil {
		h.tries = map[uint64]int{}
	}
	h.tries[q.items[0].Sequence] = q.tries
}

// tried is how often another session has tried a message, and forgets it.
func (h *history) tried(seq uint64) int {
	n := h.tries[seq]
	delete(h.tries, seq)
	return n
}

// has reports whether the run has handled a message.
func (h *history) has(seq uint64) bool { return h.seqs[seq] || h.past.has(seq) }

// ring is the latest messages that were handled, with where their
// acknowledgements go. The server can have missed no more acknowledgements than
// it lets be outstanding, and they are the latest.
type ring struct {
	size  int
	seqs  map[uint64]bool
	order []handled
	at    int
}

type handled struct {
	seq   uint64
	reply string
}

func (r *ring) add(seq uint64, reply string) {
	if r.seqs == nil {
		r.seqs = make(map[uint64]bool, r.size)
	}
	if len(r.order) < r.size {
		r.order = append(r.order, handled{seq, reply})
	} else {
		delete(r.seqs, r.order[r.at].seq)
		r.order[r.at] = handled{seq, reply}
		r.at = (r.at + 1) % r.size
	}
	r.seqs[seq] = true
}

// arrive places a delivery: behind the one before, or something was missed. What
// the server gives for the first time it gives in the order of the stream, so that
// nothing lies between two of those, unless something was missed between them. What
// it gives again can be of any place, and says nothing. mu is held.
func (ss *session) arrive(meta *jetstream.MsgMetadata) {
	seq := meta.Sequence.Stream
	switch {
	case meta.Sequence.Consumer != ss.consumed+1:
		ss.gaps++
		ss.holding, ss.whole = true, false
	case meta.Sequence.Consumer == 1: // the first of all
		ss.done.past.start = cmp.Or(ss.done.past.start, seq)
	}
	if meta.NumDelivered == 1 {
		if ss.whole {
			ss.passOver(ss.frontier+1, seq-1)
		}
		ss.frontier, ss.whole = seq, true
	}
	ss.consumed, ss.lost = meta.Sequence.Consumer, false
	ss.top = max(ss.top, seq)
}

// heartbeats tells the server of all in hand that work is in progress.
func (ss *session) heartbeats(ctx context.Context) {
	every := ss.cfg.AckWait / 4
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			ss.touch(time.Now(), every)
		}
	}
}

func (ss *session) touch(now time.Time, every time.Duration) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	for _, d := range ss.inHand {
		if now.Sub(d.touched) >= every/2 {
			_ = d.msg.InProgress() // lost, the next one tells
			d.touched = now
		}
	}
}

// release lets what is held go once the server waits for nothing that is not in
// hand. Until then something older than what is held may come: what a run before
// this one did not finish, or what was lost on its way.
func (ss *session) release(ctx context.Context) {
	const quick, slow = shortWait, longWait
	wait := quick
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		if err := ss.refused(); err != nil {
			ss.fail(fmt.Errorf("consume stream %s: %w", ss.cfg.Stream, explain(err)))
			return
		}
		before := ss.handful()
		if !before.holding && !ss.suspect.Swap(false) {
			wait = quick
			continue
		}
		foreign := ss.strangers()
		var info *jetstream.ConsumerInfo
		var stream jetstream.StreamState // asked for later
		err := ss.s.patient(ctx, true, func(ctx context.Context) (err error) {
			if info, err = ss.look(ctx); err == nil && before.holding {
				stream, err = ss.stored(ctx)
			}
			return err
		})
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			ss.lose(err)
			return
		}
		if ss.repeat.Swap(false) {
			ss.acknowledgeAgain()
		}
		ss.judge(foreign, filtersOf(info.Config))
		if before.holding && !ss.letGo(before, info, &stream) {
			wait = min(2*wait, slow)
		}
	}
}

// look asks for the consumer. One that was deleted and made anew is another: it knows
// nothing of what this one has in hand. A server of a cluster that has begun and does
// not know the consumer's state yet shows it without any. One without a name stands on
// one server, and when the stream answers and it does not, no time is lost waiting for
// that server: the run goes on with another.
func (ss *session) look(ctx context.Context) (*jetstream.ConsumerInfo, error) {
	info, err := ss.con.Info(ctx)
	switch {
	case err == nil && info.Cluster == nil && clustered(ss.stream):
		return nil, errNoLeader
	case err == nil && !info.Created.Equal(ss.created):
		return nil, ErrConsumerGone
	case err != nil && ss.cfg.Durable == "" && mends(err) && ctx.Err() == nil:
		if _, found := ss.s.find(ctx, ss.stream); found == nil {
			return nil, ErrConsumerGone
		}
	}
	return info, err
}

func clustered(stream jetstream.Stream) bool {
	c := stream.CachedInfo().Cluster
	return c != nil && c.Name != ""
}

// strangers is what came although it is not of the own subjects.
func (ss *session) strangers() []*delivery {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	return slices.Clone(ss.foreign)
}

// judge decides about strangers, given the subjects that the consumer had after
// they came. When those are the own, they are left from a filter that nobody has
// any more. When not, another process of this name wants them: the session ends
// and gives them back.
func (ss *session) judge(foreign []*delivery, subjects []string) {
	if len(foreign) == 0 {
		return
	}
	if !slices.Equal(subjects, ss.subjects) {
		ss.fail(fmt.Errorf("message on %s: the subjects of consumer %s were changed to %q, want %q: the processes of one durable name want the same Filter and the same of Snapshots and Control; stop the others, or choose another name",
			foreign[0].Subject, ss.con.CachedInfo().Name, subjects, ss.subjects))
		return
	}
	ss.mu.Lock()
	defer ss.mu.Unlock()
	ss.foreign = ss.foreign[len(foreign):]
	for _, d := range foreign {
		delete(ss.inHand, d.Sequence)
		ss.settle(d)
		_ = d.msg.Ack() // lost, it comes again
	}
	ss.pump()
}

// handful is what is in hand while something is held, and what was received.
type handful struct {
	holding bool
	gaps    int
	top     uint64
	seqs    []uint64
}

func (ss *session) handful() handful {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	h := handful{holding: ss.holding, gaps: ss.gaps, top: ss.top}
	if h.holding {
		h.seqs = slices.Collect(maps.Keys(ss.inHand))
	}
	return h
}

// stored is what the stream holds, with what was deleted in its midst.
func (ss *session) stored(ctx context.Context) (jetstream.StreamState, error) {
	info, err := ss.stream.Info(ctx, jetstream.WithDeletedDetails(true))
	if err != nil {
		return jetstream.StreamState{}, err
	}
	return info.State, nil
}

// letGo ends the hold when all that the server waits for was in hand before it
// was asked and still is: then it was in hand while the server answered. Nothing
// may have been missed since.
func (ss *session) letGo(before handful, info *jetstream.ConsumerInfo, stream *jetstream.StreamState) bool {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	sure := 0
	for _, seq := range before.seqs {
		if ss.inHand[seq] != nil && awaited(seq, info, stream) {
			sure++
		}
	}
	if sure < info.NumAckPending || ss.gaps != before.gaps {
		return false
	}
	slices.SortFunc(ss.held, func(a, b *delivery) int { return cmp.Compare(a.Sequence, b.Sequence) })
	ss.holding = false
	ss.settleAll(min(before.top, info.Delivered.Stream))
	ss.pump()
	return true
}

// awaited reports whether the server can wait for a message that is in hand. It does
// not for one that the stream's limits, or somebody, has removed since; nor, when it
// restarted and had forgotten the end of its record, for one that it will give again
// as if for the first time. Both floors count: in a cluster that of the stream and
// that of the consumer are told by different servers.
func awaited(seq uint64, info *jetstream.ConsumerInfo, stream *jetstream.StreamState) bool {
	_, deleted := slices.BinarySearch(stream.Deleted, seq)
	return seq > info.AckFloor.Stream && seq <= info.Delivered.Stream && seq >= stream.FirstSeq && !deleted
}

// settleAll settles all up to a sequence that is not in hand: the server waits for
// nothing else there. mu is held.
func (ss *session) settleAll(top uint64) {
	if ss.cfg.Durable != "" || ss.done.past.start == 0 {
		return
	}
	from := ss.done.past.start
	for _, seq := range slices.Sorted(maps.Keys(ss.inHand)) {
		if seq > top {
			break
		}
		if seq > from {
			ss.done.past.add(from, seq-1)
		}
		from = max(from, seq+1)
	}
	ss.done.past.add(from, top)
}

// settle notes what the run is done with, and where its acknowledgement goes. mu is
// held.
func (ss *session) settle(d *delivery) {
	ss.done.add(d.Sequence, d.msg.Reply())
	delete(ss.done.tries, d.Sequence)
	ss.passOver(d.Sequence, d.Sequence)
}

// passOver notes that nothing is left to do in a range of sequences. mu is held.
func (ss *session) passOver(from, to uint64) {
	if ss.cfg.Durable == "" {
		ss.done.past.add(from, to)
	}
}

// reconnects repeats the latest acknowledgements when the connection is back:
// those on their way when it broke are lost, and the server would wait AckWait.
func (ss *session) reconnects(ctx context.Context) {
	nc := ss.s.js.Conn()
	changed := nc.StatusChanged(nats.CONNECTED)
	defer nc.RemoveStatusListener(changed)
	for {
		select {
		case <-ctx.Done():
			return
		case _, ok := <-changed:
			if !ok {
				return
			}
			ss.repeatAcks()
		}
	}
}

// repeatAcks has the latest acknowledgements repeated as soon as the consumer is seen
// to be the same: another of its name would take them for its own.
func (ss *session) repeatAcks() {
	ss.repeat.Store(true)
	ss.suspect.Store(true)
}

// acknowledgeAgain repeats the latest acknowledgements, which may have been lost.
func (ss *session) acknowledgeAgain() {
	nc := ss.s.js.Conn()
	ss.mu.Lock()
	replies := make([]string, 0, len(ss.done.order))
	for i := range ss.done.order {
		replies = append(replies, ss.done.order[(ss.done.at+i)%len(ss.done.order)].reply)
	}
	ss.mu.Unlock()
	for _, reply := range replies {
		_ = nc.Publish(reply, []byte("+ACK")) // lost, they come again and are known
	}
}
