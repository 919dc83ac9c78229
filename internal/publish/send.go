package publish

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream"
)

// sendSingles sends the first n events one by one and takes them out of the
// gather, as far as it came: what was sent must not be sent again by Drain.
func (p *Publisher) sendSingles(ctx context.Context, n int) error {
	unasked := 0 // bytes of messages since the last that asked for an answer
	for i := range n {
		if err := p.room(ctx, 1); err != nil {
			p.gather.drop(i)
			return err
		}
		e := p.gather.event(i)
		m := &p.single
		p.fill(m, e)
		m.Header[jetstream.ExpectedLastSeqHeader][0] = strconv.FormatUint(p.sent, 10)
		if len(p.lastID) > 0 {
			// The sequence alone would let a foreign message take this one's
			// place unseen: the next would still find the number that it expects.
			setHeader(m.Header, jetstream.ExpectedLastMsgIDHeader, string(p.lastID))
		}
		unasked += len(e.body)
		m.Reply = ""
		// The first asks by itself: where a stream is full, say, that refuses it, and
		// what follows is refused because it does not.
		if i == n-1 || (p.sent+1)%ackEvery == 0 || p.sent == p.tail {
			m.Reply = p.inbox + strconv.FormatUint(p.sent+1, 36)
		}
		if err := p.publish(m, e); err != nil {
			return err
		}
		if m.Reply != "" {
			p.expect(unasked, false)
			unasked = 0
		}
	}
	p.gather.drop(n)
	return nil
}

func (p *Publisher) sendBatch(n int) error {
	p.batchSeq++
	m := &p.batch
	m.Header[headerBatchID][0] = p.inbox[strings.LastIndexByte(p.inbox[:len(p.inbox)-1], '.')+1:len(p.inbox)-1] + "-" + strconv.Itoa(p.batchSeq)
	m.Header[jetstream.ExpectedLastSeqHeader] = []string{strconv.FormatUint(p.sent, 10)}
	delete(m.Header, headerBatchCommit)
	size := 0
	for i := range n {
		e := p.gather.event(i)
		p.fill(m, e)
		m.Header[headerBatchSequence][0] = strconv.Itoa(i + 1)
		m.Reply = ""
		if i == 1 {
			delete(m.Header, jetstream.ExpectedLastSeqHeader)
		}
		if i == n-1 {
			m.Header[headerBatchCommit] = []string{"1"}
			m.Reply = p.inbox + strconv.FormatUint(p.sent+1, 36)
		}
		size += len(e.body)
		if err := p.publish(m, e); err != nil {
			return err
		}
	}
	p.expect(size, true)
	return nil
}

func (p *Publisher) fill(m *nats.Msg, e encoded) {
	m.Subject, m.Data = string(e.subject), e.body
	m.Header[jetstream.MsgIDHeader][0] = string(e.id)
	m.Header[ffstream.HeaderPosition][0] = string(e.position)
}

func setHeader(h nats.Header, key, value string) {
	if v := h[key]; len(v) == 1 {
		v[0] = value
		return
	}
	h[key] = []string{value}
}

func (p *Publisher) publish(m *nats.Msg, e encoded) error {
	if err := p.nc.PublishMsg(m); err != nil {
		if errors.Is(err, nats.ErrMaxPayload) {
			return fmt.Errorf("publish event %s: %w: it has %d bytes and the server takes %d: raise max_payload of nats-server", e.id, ErrStreamConfig, len(m.Data), p.nc.MaxPayload())
		}
		return fmt.Errorf("publish event %s: %w", e.id, classify(err))
	}
	p.sent++
	p.lastID = append(p.lastID[:0], e.id...)
	return nil
}
