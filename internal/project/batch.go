package project

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream"
)

// pending is what a batch of events leaves to be written of one execution.
type pending struct {
	key      string
	value    []byte // nil: the execution is purged
	position string
	mark     mark // of which its event sets sequence and event
}

// take adds an event to the batch, and reports whether that is to be written now:
// at the end of the stream.
func (s *session) take(ctx context.Context, m jetstream.Msg, meta *jetstream.MsgMetadata, batch map[string]pending) (flush bool, err error) {
	e, err := ffstream.ParseEvent(m.Data())
	if err != nil {
		return false, fmt.Errorf("read message %d of stream %s: %w", meta.Sequence.Stream, s.cfg.Stream, err)
	}
	if e.Type == ffstream.TypeTruncated { // it is not read before all it says is stored: a crash begins with it again
		if err := s.flush(ctx, batch); err != nil {
			return false, err
		}
		if err := s.truncate(ctx); err != nil {
			return false, err
		}
	}
	s.seen, s.latest = meta.Sequence.Stream, e.ID.String()
	if e.ExecutionID.IsZero() {
		return e.Type == ffstream.TypeTruncated || meta.NumPending == 0, nil
	}
	p, err := value(&e, meta.Sequence.Stream)
	if err != nil {
		return false, err
	}
	batch[p.key] = p
	return meta.NumPending == 0, nil
}

func value(e *ffstream.Event, sequence uint64) (pending, error) {
	p := pending{key: ffstream.StateKey(e.ExecutionID), position: e.ID.Position.String(), mark: mark{sequence: sequence, event: e.ID.String()}}
	if e.To == ffstream.StatePurged {
		return p, nil
	}
	s := ffstream.CurrentState{
		ExecutionID: e.ExecutionID, State: e.To, Position: e.ID.Position, Sequence: sequence, EventID: p.mark.event, Time: e.Time,
		Namespace: e.Namespace, LaneID: e.LaneID, Snapshot: e.Snapshot != nil,
	}
	if e.Type == ffstream.TypeCorrupt {
		s.State, s.Corrupt = "", e.Corrupt.Column
	}
	var err error
	p.value, err = json.Marshal(s)
	return p, err
}

// flush writes a batch and empties it. The values stand in the order of their
// events, so whatever part of them is stored, going on behind the last one's event
// meets the events of all others again. Until all are stored, an execution of which
// the batch has several events may be told as of none of them.
func (s *session) flush(ctx context.Context, batch map[string]pending) error {
	if len(batch) > 0 || s.seen > s.at.sequence {
		all := make([]pending, 0, len(batch)+1)
		for _, p := range batch {
			all = append(all, p)
		}
		slices.SortFunc(all, func(a, b pending) int { return cmp.Compare(a.mark.sequence, b.mark.sequence) })
		if len(all) == 0 || all[len(all)-1].mark.sequence < s.seen { // what was read last told of no execution
			all = append(all, pending{key: positionKey, value: []byte(`{}`), mark: mark{sequence: s.seen, event: s.latest}})
		}
		for i := range all {
			all[i].mark.complete, all[i].mark.until = s.at.complete, max(s.at.until, s.seen)
		}
		last := &all[len(all)-1].mark
		if last.sequence >= last.until {
			last.complete = last.sequence
		}
		if err := s.store(ctx, all); err != nil {
			return err
		}
		clear(batch)
		s.at = *last
		s.update(func(st *Status) { st.Sequence, st.Written = s.at.complete, st.Written+uint64(len(all)) })
	}
	if s.building > 0 && s.at.complete >= s.building {
		return s.built(ctx)
	}
	return nil
}

// store writes values, chained, and waits for all answers.
func (s *session) store(ctx context.Context, all []pending) error {
	first := s.last
	for i := range all {
		m := nats.NewMsg(s.kv + all[i].key)
		if m.Data = all[i].value; m.Data == nil {
			m.Header.Set("KV-Operation", "DEL")
		}
		m.Header.Set(ffstream.HeaderPosition, all[i].position)
		s.head(m, &all[i].mark, first+uint64(i))
		m.Reply = s.inbox + strconv.Itoa(i)
		if err := s.nc.PublishMsg(m); err != nil {
			return fmt.Errorf("write into bucket %s: %w", s.cfg.Bucket, err)
		}
	}
	timeout := time.NewTimer(requestTimeout)
	defer timeout.Stop()
	for range all {
		select {
		case m := <-s.replies:
			if m.Header.Get("Status") == "503" {
				return fmt.Errorf("write into bucket %s: %w", s.cfg.Bucket, nats.ErrNoResponders)
			}
			i, err := strconv.Atoi(strings.TrimPrefix(m.Subject, s.inbox))
			if err != nil {
				return fmt.Errorf("write into bucket %s: answer to %s: %w", s.cfg.Bucket, m.Subject, err)
			}
			if err := s.ack(m.Data, first+uint64(i)+1); err != nil {
				return err
			}
		case <-timeout.C:
			return fmt.Errorf("write into bucket %s: %w", s.cfg.Bucket, nats.ErrTimeout)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s.last = first + uint64(len(all))
	return nil
}

// truncate deletes every key. The deletions carry the sequence of what stands before
// the TRUNCATE, whose own is written behind them.
func (s *session) truncate(ctx context.Context) error {
	if s.last == 0 {
		return nil
	}
	kv, err := s.js.KeyValue(ctx, s.cfg.Bucket)
	if err != nil {
		return fmt.Errorf("open bucket %s: %w", s.cfg.Bucket, err)
	}
	watcher, err := kv.WatchAll(ctx, jetstream.MetaOnly())
	if err != nil {
		return fmt.Errorf("list bucket %s: %w", s.cfg.Bucket, err)
	}
	defer func() {
		_ = watcher.Stop()
		for range watcher.Updates() { // what is not taken would hold it
		}
	}()
	return s.drop(ctx, watcher)
}

// drop deletes the keys that are listed, up to the message that is the bucket's last one
// when it begins. What the client library takes for the end is none where messages are
// removed meanwhile, or the replica that lists lacks what was written last.
func (s *session) drop(ctx context.Context, watcher jetstream.KeyWatcher) error {
	var some []pending
	silence := time.NewTimer(requestTimeout)
	defer silence.Stop()
	for to, at := s.last, uint64(0); at < to; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-silence.C:
			return fmt.Errorf("list bucket %s: message %d is not among its keys: %w", s.cfg.Bucket, to, errMoved)
		case entry, ok := <-watcher.Updates():
			if !ok {
				return fmt.Errorf("list bucket %s: the subscription has ended", s.cfg.Bucket)
			}
			if entry == nil {
				continue
			}
			silence.Reset(requestTimeout)
			at = entry.Revision()
			if entry.Operation() == jetstream.KeyValuePut && !strings.HasPrefix(entry.Key(), "_") {
				some = append(some, pending{key: entry.Key(), mark: s.at})
			}
		}
		if len(some) == batchSize {
			if err := s.store(ctx, some); err != nil {
				return err
			}
			some = some[:0]
		}
	}
	return s.store(ctx, some)
}
