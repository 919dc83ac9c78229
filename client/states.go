package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream"
)

// States reads a state bucket: the current state of each execution, without its
// history. The service keeps one with --state-bucket. What it says is what the
// stream said, some milliseconds later, with the event's position to compare. Its
// methods may be called by many goroutines.
type States struct{ kv jetstream.KeyValue }

// OpenStates finds the bucket.
func OpenStates(ctx context.Context, js jetstream.JetStream, bucket string) (*States, error) {
	kv, err := js.KeyValue(ctx, bucket)
	if err != nil {
		return nil, fmt.Errorf("open state bucket %s: %w", bucket, err)
	}
	return &States{kv}, nil
}

// Get reads one execution. False: the bucket does not know it, or it was purged.
func (s *States) Get(ctx context.Context, id ffstream.ExecutionID) (ffstream.CurrentState, bool, error) {
	entry, err := s.kv.Get(ctx, ffstream.StateKey(id))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return ffstream.CurrentState{}, false, nil
	}
	if err != nil {
		return ffstream.CurrentState{}, false, fmt.Errorf("read state of %s: %w", id, err)
	}
	state, err := parseState(entry.Value())
	return state, err == nil, err
}

func parseState(b []byte) (ffstream.CurrentState, error) {
	var state ffstream.CurrentState
	if err := json.Unmarshal(b, &state); err != nil {
		return state, fmt.Errorf("read state: %w", err)
	}
	return state, nil
}

// Ready returns when the bucket is not being built anew: then its values are as new
// as the stream was. It looks every 100 ms; the error is that of ctx or the broker.
func (s *States) Ready(ctx context.Context) error {
	for {
		_, err := s.kv.Get(ctx, ffstream.StateBuilding)
		if errors.Is(err, jetstream.ErrKeyNotFound) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("look at state bucket %s: %w", s.kv.Bucket(), err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for state bucket %s: %w", s.kv.Bucket(), ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// StateChange is one step of States.Watch.
type StateChange struct {
	ID ffstream.ExecutionID
	// State is its current state; State.State is StatePurged, and nothing else is
	// set, when it was purged.
	State ffstream.CurrentState
	// Initial: it stood in the bucket when the watch began.
	Initial bool
}

// Watch gives the current state of the executions of a partition, of all of them
// when partition is absent, and then each change as it comes. Changes that follow
// each other fast may be told as one, of which the last counts. That an execution was
// purged is told for an hour: a program that was cut off for longer watches anew. It ends
// with the error of ctx or the broker, and without one when the loop breaks off.
func (s *States) Watch(ctx context.Context, partition ffstream.Opt[uint16]) iter.Seq2[StateChange, error] {
	return func(yield func(StateChange, error) bool) {
		keys := "*.*"
		if partition.OK {
			keys = strconv.FormatUint(uint64(partition.V), 10) + ".*"
		}
		if err := s.watch(ctx, keys, yield); err != nil {
			yield(StateChange{}, fmt.Errorf("watch state bucket %s: %w", s.kv.Bucket(), err))
		}
	}
}

// watch returns nil when the loop has broken off.
func (s *States) watch(ctx context.Context, keys string, yield func(StateChange, error) bool) error {
	// What stood there is known by how far the bucket was, and not by what the library
	// takes for its end, which is missing where messages are removed meanwhile.
	status, err := s.kv.Status(ctx)
	if err != nil {
		return err
	}
	stood := status.(*jetstream.KeyValueBucketStatus).StreamInfo().State.LastSeq
	watcher, err := s.kv.Watch(ctx, keys)
	if err != nil {
		return err
	}
	defer func() {
		_ = watcher.Stop()            // it ends with its context too
		for range watcher.Updates() { // what is not taken would hold it
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case entry, ok := <-watcher.Updates():
			switch {
			case !ok:
				return errors.New("the subscription has ended")
			case entry == nil, strings.HasPrefix(entry.Key(), "_"):
				continue
			}
			initial := entry.Revision() <= stood
			change, err := changeOf(entry, initial)
			if err != nil {
				return err
			}
			if initial && change.State.State == ffstream.StatePurged {
				continue
			}
			if !yield(change, nil) {
				return nil
			}
		}
	}
}

func changeOf(entry jetstream.KeyValueEntry, initial bool) (StateChange, error) {
	id, err := ffstream.ParseStateKey(entry.Key())
	if err != nil {
		return StateChange{}, err
	}
	c := StateChange{ID: id, Initial: initial}
	if entry.Operation() != jetstream.KeyValuePut {
		c.State.State = ffstream.StatePurged
		return c, nil
	}
	c.State, err = parseState(entry.Value())
	return c, err
}
