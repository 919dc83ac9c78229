package publish

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream"
)

// What a caller may ask about an error.
var (
	// ErrUnavailable: NATS or its JetStream does not answer. Waiting mends it.
	ErrUnavailable = errors.New("NATS is unavailable")
	// ErrFull: a limit of the stream or the account is reached. Room mends it.
	ErrFull = errors.New("stream is full")
	// ErrAmbiguous: what is stored is not known. Reading the tail again mends it.
	ErrAmbiguous = errors.New("outcome of publishing is not known")
	// ErrNoJetStream: the server or the account has no JetStream.
	ErrNoJetStream = errors.New("JetStream is not enabled")
	// ErrAuthentication: the server does not take the user, or the client's certificate.
	ErrAuthentication = errors.New("NATS authentication failed")
	// ErrUntrusted: no authority that is trusted signed the server's certificate.
	ErrUntrusted = errors.New("NATS server is not trusted")
	// ErrNotPermitted: the user may not publish or subscribe to what this needs.
	ErrNotPermitted = errors.New("NATS user lacks a permission")
	// ErrStreamLost: the stream is gone, or what it held is.
	ErrStreamLost = errors.New("stream is lost")
	// ErrStreamConfig: the stream's configuration breaks the promise.
	ErrStreamConfig = errors.New("stream configuration breaks the promise")
	// ErrStreamForeign: the stream holds what this service did not write.
	ErrStreamForeign = errors.New("stream belongs to something else")
)

// Metadata keys of a stream that ffstream created.
const (
	metaSystem = "ffstream.system_identifier"
	metaSlot   = "ffstream.slot"
)

// Config says which stream to write and how.
type Config struct {
	Stream   string        // name of the stream
	Prefix   string        // first token of every subject
	Replicas int           // of a stream that Open creates
	MaxAge   time.Duration // of a stream that Open creates
	SystemID uint64        // of the database: whose events these are
	Slot     string        // the slot that feeds the stream
	// Window bounds the messages in flight. Default 4096.
	Window int
	// AckTimeout bounds the time without an expected acknowledgement. Default 10 s.
	AckTimeout time.Duration
	// Refusal tells what the server refused since it was asked last, or why there is
	// no connection; nil when neither is known. Optional: errors then say less.
	Refusal func() error
}

const (
	defaultWindow     = 4096
	defaultAckTimeout = 10 * time.Second
	// apiTimeout bounds one request to the JetStream API.
	apiTimeout = 5 * time.Second
	// duplicateWindow of a stream that Open creates: the second line of defence.
	duplicateWindow = 2 * time.Minute
)

// Tail is the end of the stream, as its leader tells it.
type Tail struct {
	Sequence uint64            // of the last message ever stored; 0: none ever was
	Stored   bool              // that message is still there
	Position ffstream.Position // its position, when Stored
	Gap      bool              // it is the event of an accepted gap, when Stored
	State    State
}

// State is what tells whether somebody else removed messages.
type State struct {
	First   uint64 // sequence of the first message; behind the last when there is none
	Deleted int    // messages missing between the first and the last sequence
	MaxAge  time.Duration
	Limited bool // the stream drops its oldest messages before their age, by size or number
}

// Stream is a stream whose configuration was checked.
type Stream struct {
	cfg Config
	nc  *nats.Conn
	js  jetstream.JetStream
	// Atomic: the server stores transactions atomically.
	Atomic bool
	// Warnings are differences from what Open would have created that leave the
	// promise whole. Each names the field.
	Warnings []string
	// Edit is the command of the nats program that mends those of them which can be,
	// empty when none can.
	Edit string
	// Created: Open created the stream.
	Created bool
	lastSeq uint64

	maxMsgSize   int32  // of the stream, with headers; below 1 there is no limit
	noteRevision uint64 // of the note that was read or written last; 0: there is none
}

// Open finds the stream, or creates it when create is true, and checks that it
// can keep the promise. Nothing of an existing stream is altered.
func Open(ctx context.Context, nc *nats.Conn, cfg Config, create bool) (*Stream, error) {
	s, replicas, err := find(ctx, nc, cfg, create)
	if err != nil {
		return nil, err
	}
	return s, s.openBucket(ctx, replicas)
}

// Look finds and checks the stream as Open does and makes nothing, not even the
// bucket of its note. What it returns is for reading.
func Look(ctx context.Context, nc *nats.Conn, cfg Config) (*Stream, error) {
	s, _, err := find(ctx, nc, cfg, false)
	return s, err
}

// find gives the stream, checked, and how many replicas it has.
func find(ctx context.Context, nc *nats.Conn, cfg Config, create bool) (*Stream, int, error) {
	if cfg.Window == 0 {
		cfg.Window = defaultWindow
	}
	if cfg.AckTimeout == 0 {
		cfg.AckTimeout = defaultAckTimeout
	}
	if !nc.IsConnected() {
		return nil, 0, fmt.Errorf("not connected to %s: %w", serverName(nc), cfg.disconnected())
	}
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(apiTimeout))
	if err != nil {
		return nil, 0, fmt.Errorf("open JetStream: %w", err)
	}
	s := &Stream{cfg: cfg, nc: nc, js: js}
	stream, err := js.Stream(ctx, cfg.Stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		if !create {
			return nil, 0, fmt.Errorf("%w: stream %s does not exist, but slot %s does, so it existed once: everything that it held is lost", ErrStreamLost, cfg.Stream, cfg.Slot)
		}
		stream, err = js.CreateStream(ctx, s.promised())
		s.Created = err == nil
	}
	if errors.Is(err, nats.ErrNoResponders) { // nobody serves JetStream's API
		err = fmt.Errorf("%w: %w", jetstream.ErrJetStreamNotEnabled, err)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("open stream %s: %w", cfg.Stream, classify(err))
	}
	info, err := stream.Info(ctx)
	if err != nil {
		return nil, 0, fmt.Errorf("open stream %s: %w", cfg.Stream, classify(err))
	}
	s.lastSeq = info.State.LastSeq
	if err := s.check(ctx, &info.Config); err != nil {
		return nil, 0, err
	}
	return s, info.Config.Replicas, nil
}

// disconnected is why there is no connection.
func (c *Config) disconnected() error {
	if c.Refusal == nil {
		return ErrUnavailable
	}
	why := c.Refusal()
	if why == nil || errors.Is(why, nats.ErrPermissionViolation) {
		return ErrUnavailable
	}
	refused := Refused(why)
	if isAny(refused, ErrAuthentication, ErrUntrusted) {
		return refused
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, refused)
}

func isAny(err error, kinds ...error) bool {
	return slices.ContainsFunc(kinds, func(k error) bool { return errors.Is(err, k) })
}

// serverName is the address of the server without what may be secret in its URL.
func serverName(nc *nats.Conn) string {
	var hosts []string
	for _, u := range nc.Servers() {
		if i := strings.LastIndexByte(u, '@'); i >= 0 {
			u = u[i+1:]
		}
		hosts = append(hosts, strings.TrimPrefix(u, "nats://"))
	}
	return strings.Join(hosts, ", ")
}

// promised is the configuration of a stream that Open creates.
func (s *Stream) promised() jetstream.StreamConfig {
	cfg := jetstream.StreamConfig{
		Name:        s.cfg.Stream,
		Description: "public-state transitions of FlowFabric executions, written by ffstream",
		Subjects:    []string{s.cfg.Prefix + ".>"},
		Retention:   jetstream.LimitsPolicy,
		Storage:     jetstream.FileStorage,
		Discard:     jetstream.DiscardOld,
		MaxAge:      s.cfg.MaxAge,
		Replicas:    max(1, s.cfg.Replicas),
		Duplicates:  duplicateWindow,
		AllowDirect: true,
		// An older server ignores or refuses the flag; check looks at the answer.
		AllowAtomicPublish: atLeast(s.nc.ConnectedServerVersion(), 2, 12),
		Metadata: map[string]string{
			metaSystem: strconv.FormatUint(s.cfg.SystemID, 10),
			metaSlot:   s.cfg.Slot,
		},
	}
	if s.cfg.MaxAge > 0 && s.cfg.MaxAge < cfg.Duplicates {
		cfg.Duplicates = s.cfg.MaxAge
	}
	return cfg
}

// LastSequence is the sequence of the last message that the stream ever stored
// when it was opened; 0 means that it never held anything.
func (s *Stream) LastSequence() uint64 { return s.lastSeq }

// ReadTail reads the stream's end from its leader. Direct reads would do for
// nothing here: any replica answers them.
func (s *Stream) ReadTail(ctx context.Context) (Tail, error) {
	tail, err := s.readTail(ctx)
	if err != nil && !errors.Is(err, ErrStreamForeign) {
		return Tail{}, fmt.Errorf("read tail of stream %s: %w", s.cfg.Stream, classify(err))
	}
	return tail, err
}

func (s *Stream) readTail(ctx context.Context) (Tail, error) {
	for {
		state, err := s.state(ctx)
		if err != nil {
			return Tail{}, err
		}
		tail := Tail{Sequence: state.LastSeq, State: state.State}
		if state.Msgs == 0 {
			return tail, nil
		}
		msg, err := s.getMessage(ctx, s.cfg.Stream, messageRequest{Sequence: state.LastSeq})
		if err == nil {
			return s.parseTail(tail, msg)
		}
		if !errors.Is(err, jetstream.ErrMsgNotFound) {
			return Tail{}, err
		}
		// It was removed between the two requests, or before by hand. A look at
		// what is left tells which.
		if again, err := s.state(ctx); err != nil || again == state {
			return tail, err
		}
	}
}

// streamState is State with what is for this package alone.
type streamState struct {
	State
	LastSeq, Msgs uint64
}

func (s *Stream) state(ctx context.Context) (streamState, error) {
	stream, err := s.js.Stream(ctx, s.cfg.Stream)
	if err != nil {
		return streamState{}, err
	}
	info := stream.CachedInfo()
	c := &info.Config
	return streamState{
		State: State{
			First: info.State.FirstSeq, Deleted: info.State.NumDeleted, MaxAge: c.MaxAge,
			Limited: c.Discard == jetstream.DiscardOld && (c.MaxBytes > 0 || c.MaxMsgs > 0),
		},
		LastSeq: info.State.LastSeq, Msgs: info.State.Msgs,
	}, nil
}

// ReadState looks at the stream without its messages.
func (s *Stream) ReadState(ctx context.Context) (State, error) {
	state, err := s.state(ctx)
	if err != nil {
		return State{}, fmt.Errorf("read state of stream %s: %w", s.cfg.Stream, classify(err))
	}
	return state.State, nil
}

// ReadBackfill reads the latest progress of a backfill that the stream holds, from
// its leader, and its sequence; none when it holds none.
func (s *Stream) ReadBackfill(ctx context.Context) (p ffstream.Opt[ffstream.Backfill], sequence uint64, err error) {
	subject := (&ffstream.Event{Type: ffstream.TypeBackfill}).Subject(s.cfg.Prefix)
	msg, err := s.getMessage(ctx, s.cfg.Stream, messageRequest{LastBySubject: subject})
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return p, 0, nil
	}
	if err != nil {
		return p, 0, fmt.Errorf("read progress of backfill in stream %s: %w", s.cfg.Stream, classify(err))
	}
	e, err := ffstream.ParseEvent(msg.Data)
	if err != nil || e.Backfill == nil {
		return p, 0, fmt.Errorf("read progress of backfill in stream %s: message %d: %w", s.cfg.Stream, msg.Sequence, errors.Join(err, ErrStreamForeign))
	}
	return ffstream.Some(*e.Backfill), msg.Sequence, nil
}

// ReadPosition reads the position of the event that the stream holds at a
// sequence; false when it holds none there.
func (s *Stream) ReadPosition(ctx context.Context, sequence uint64) (ffstream.Position, bool, error) {
	msg, err := s.getMessage(ctx, s.cfg.Stream, messageRequest{Sequence: sequence})
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return ffstream.Position{}, false, nil
	}
	if err != nil {
		return ffstream.Position{}, false, fmt.Errorf("read message %d of stream %s: %w", sequence, s.cfg.Stream, classify(err))
	}
	tail, err := s.parseTail(Tail{Sequence: sequence}, msg)
	return tail.Position, err == nil, err
}

func (s *Stream) parseTail(tail Tail, msg *jetstream.RawStreamMsg) (Tail, error) {
	text := msg.Header.Get(jetstream.MsgIDHeader)
	id, err := ffstream.ParseEventID(text)
	if err != nil || msg.Header.Get(ffstream.HeaderPosition) != id.Position.String() {
		return Tail{}, &unfit{fmt.Errorf("%w: message %d of stream %s (subject %s) is no event of ffstream: another writer uses its subjects: stop it, and name another stream (--stream)",
			ErrStreamForeign, tail.Sequence, s.cfg.Stream, msg.Subject), s.anew()}
	}
	if id.System != s.cfg.SystemID {
		return Tail{}, &unfit{fmt.Errorf("%w: message %d of stream %s is of the database system %d, and this database is %d: name another stream (--stream), or the database that the stream belongs to",
			ErrStreamForeign, tail.Sequence, s.cfg.Stream, id.System, s.cfg.SystemID), s.anew()}
	}
	tail.Stored, tail.Position = true, id.Position
	tail.Gap = msg.Subject == s.cfg.Prefix+".gap"
	return tail, nil
}

// atLeast compares a server's version text, "2.12.1" or "2.14.0-beta.1".
func atLeast(version string, major, minor int) bool {
	var ma, mi int
	if _, err := fmt.Sscanf(version, "%d.%d", &ma, &mi); err != nil {
		return false
	}
	return ma > major || ma == major && mi >= minor
}
