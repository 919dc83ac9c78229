package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

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

func (r *ring) has(seq uint64) bool { return r.seqs[seq] }

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
	const quick, slow = 50 * time.Millisecond, time.Second
	wait := quick
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		before, holding := ss.handful()
		if !holding && !ss.suspect.Swap(false) {
			wait = quick
			continue
		}
		foreign := ss.strangers()
		info, err := ss.con.Info(ctx)
		if errors.Is(err, jetstream.ErrConsumerNotFound) {
			ss.consumeError(err)
			return
		}
		if err != nil {
			ss.suspect.Store(true)
		} else {
			ss.judge(foreign, filtersOf(info.Config))
		}
		if err != nil || holding && !ss.letGo(before, info.NumAckPending) {
			wait = min(2*wait, slow)
		}
	}
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
		ss.done.add(d.Sequence, d.msg.Reply())
		_ = d.msg.Ack() // lost, it comes again
	}
	ss.pump()
}

// handful is what is in hand while something is held.
func (ss *session) handful() ([]uint64, bool) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if !ss.holding {
		return nil, false
	}
	seqs := make([]uint64, 0, len(ss.inHand))
	for seq := range ss.inHand {
		seqs = append(seqs, seq)
	}
	return seqs, true
}

// letGo ends the hold when all that the server waits for was in hand before it
// was asked and still is: then it was in hand while the server answered.
func (ss *session) letGo(before []uint64, pending int) bool {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	sure := 0
	for _, seq := range before {
		if ss.inHand[seq] != nil {
			sure++
		}
	}
	if sure < pending {
		return false
	}
	slices.SortFunc(ss.held, func(a, b *delivery) int { return cmp.Compare(a.Sequence, b.Sequence) })
	ss.holding = false
	ss.pump()
	return true
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
			ss.acknowledgeAgain(nc)
		}
	}
}

func (ss *session) acknowledgeAgain(nc *nats.Conn) {
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
