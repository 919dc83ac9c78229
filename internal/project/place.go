package project

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/publish"
)

// open finds the bucket or creates it, and where it stands.
func (s *session) open(ctx context.Context, source jetstream.Stream) error {
	kv, err := s.js.KeyValue(ctx, s.cfg.Bucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		kv, err = s.js.CreateKeyValue(ctx, jetstream.KeyValueConfig{
			Bucket: s.cfg.Bucket, Description: "current states of the executions of stream " + s.cfg.Stream, History: 1,
			Storage: jetstream.FileStorage, Replicas: source.CachedInfo().Config.Replicas, Metadata: map[string]string{metaStream: s.cfg.Stream},
		})
	}
	if err != nil {
		return fmt.Errorf("open bucket %s: %w", s.cfg.Bucket, err)
	}
	status, err := kv.Status(ctx)
	if err != nil {
		return fmt.Errorf("open bucket %s: %w", s.cfg.Bucket, err)
	}
	bucket, err := s.js.Stream(ctx, "KV_"+s.cfg.Bucket)
	if err != nil {
		return fmt.Errorf("open bucket %s: %w", s.cfg.Bucket, err)
	}
	info := bucket.CachedInfo()
	if owner := info.Config.Metadata[metaStream]; owner != s.cfg.Stream {
		return fmt.Errorf("%w: bucket %s was not made for stream %s (metadata %s is %q): name another (--state-bucket)", ErrBucket, s.cfg.Bucket, s.cfg.Stream, metaStream, owner)
	}
	if status.TTL() != 0 {
		return fmt.Errorf("%w: bucket %s forgets values after %s: set its TTL to 0", ErrBucket, s.cfg.Bucket, status.TTL())
	}
	return s.place(ctx, bucket, info, source)
}

// place finds how far the bucket is. One that cannot go on is built anew: first the
// mark that says so is stored behind the last message, which fails if another wrote
// in between, and makes what another writes from then on fail; then what stands
// before the mark is removed. A crash in between leaves the mark, and the removal
// to the next.
func (s *session) place(ctx context.Context, bucket jetstream.Stream, info *jetstream.StreamInfo, stream jetstream.Stream) error {
	s.found, s.last = info.State.LastSeq, info.State.LastSeq
	source, why, err := s.resume(ctx, stream)
	if err != nil {
		return err
	}
	if why == "" && s.last > 0 {
		// Another replica than the leader may not know the mark yet, or still.
		mark, revision, err := publish.ReadValue(ctx, s.nc, s.cfg.Bucket, ffstream.StateBuilding)
		if err != nil || mark == nil {
			return err
		}
		s.building = max(1, source.LastSeq)
		return s.empty(ctx, bucket, revision)
	}
	s.at, s.building = mark{}, max(1, source.LastSeq)
	if source.FirstSeq > 0 {
		before := source.FirstSeq - 1
		s.at = mark{complete: before, sequence: before, until: before}
	}
	m := nats.NewMsg(s.kv + ffstream.StateBuilding)
	m.Data = []byte(`{}`)
	if err := s.write(ctx, m); err != nil {
		return err
	}
	if why == "" {
		return nil
	}
	s.cfg.Log.Warn("the state bucket is built anew", "bucket", s.cfg.Bucket, "because", why)
	return s.empty(ctx, bucket, s.last)
}

// resume reads the bucket's end from its leader, and then how far the stream is,
// which another may have taken in meanwhile: where to go on, or why not.
func (s *session) resume(ctx context.Context, stream jetstream.Stream) (source jetstream.StreamState, why string, err error) {
	why, created := "", ""
	if s.last > 0 {
		if why, created, err = s.end(ctx); err != nil {
			return source, "", err
		}
	}
	info, err := stream.Info(ctx)
	if err != nil {
		return source, "", fmt.Errorf("look at stream %s: %w", s.cfg.Stream, err)
	}
	source = info.State
	switch {
	case s.last == 0 || why != "":
	case s.at.sequence > source.LastSeq:
		why = "it is ahead of the stream, which is another"
	case s.at.sequence+1 < source.FirstSeq:
		why = "events behind it have left the stream"
	default:
		why, err = s.another(ctx, created)
	}
	return source, why, err
}

// end reads the bucket's last message, or says why it is of no use.
func (s *session) end(ctx context.Context) (why, created string, err error) {
	msg, err := publish.ReadMessage(ctx, s.nc, "KV_"+s.cfg.Bucket, s.last)
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return "its last message is gone", "", nil
	case err != nil:
		return "", "", err
	}
	for header, to := range map[string]*uint64{ffstream.HeaderSequence: &s.at.complete, headerResume: &s.at.sequence, headerUntil: &s.at.until} {
		if *to, err = strconv.ParseUint(msg.Header.Get(header), 10, 64); err != nil {
			return "somebody else wrote into it", "", nil
		}
	}
	s.at.event = msg.Header.Get(headerEvent)
	return "", msg.Header.Get(headerCreated), nil
}

// empty removes what the bucket has before the mark.
func (s *session) empty(ctx context.Context, bucket jetstream.Stream, mark uint64) error {
	if err := bucket.Purge(ctx, jetstream.WithPurgeSequence(mark)); err != nil {
		return fmt.Errorf("empty bucket %s: %w", s.cfg.Bucket, err)
	}
	return nil
}

// another says why the stream is not the one that the bucket was made of, though it
// has its name and is as long: it has another event where the bucket ends. One that
// has aged out cannot be compared; then what was made at another time is another
// stream. A stream that was restored keeps its events, and may not keep that time.
func (s *session) another(ctx context.Context, created string) (why string, err error) {
	if s.at.sequence > 0 {
		msg, err := publish.ReadMessage(ctx, s.nc, s.cfg.Stream, s.at.sequence)
		switch {
		case errors.Is(err, jetstream.ErrMsgNotFound):
		case err != nil:
			return "", err
		default:
			if e, err := ffstream.ParseEvent(msg.Data); err != nil || e.ID.String() != s.at.event {
				return fmt.Sprintf("the stream has another event at sequence %d", s.at.sequence), nil
			}
			return "", nil
		}
	}
	if created != s.created {
		return "the stream was made anew, at " + s.created, nil
	}
	return "", nil
}
