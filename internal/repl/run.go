package repl

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

const (
	batches     = 3       // one being read, one waiting, one being processed
	batchBuffer = 1 << 20 // bytes; a longer message makes its batch grow
	// maxMessage bounds one message: a field is at most 1 GiB.
	maxMessage = 1 << 30
	// A server that sends bulkRead bytes within bulkNap is working off a backlog.
	// Most of its time then goes into waking this process for each message, so
	// the reader naps before each read and lets it run ahead. One that sends less
	// is read at once: a nap would only delay.
	bulkRead = 16 << 10
	bulkNap  = 5 * time.Millisecond
	// confirmInterval bounds how long a confirmation waits for its status message.
	confirmInterval = time.Second
	writeTimeout    = 10 * time.Second
	// lastWordTimeout bounds the search for a reason that has come already.
	lastWordTimeout = 100 * time.Millisecond
)

// Run reads until ctx ends or the connection fails and hands every batch to
// out, which it does not close. While out blocks, status messages go on. It
// returns nil when ctx ended; the connection is then still open for Close.
func (s *Stream) Run(ctx context.Context, out chan<- *Batch) error {
	err := s.follow(ctx, out)
	s.failed = err != nil && !errors.Is(err, ctx.Err())
	if ctx.Err() != nil {
		return nil
	}
	return s.lastWord(err)
}

// lastWord looks for the reason that the server gave before it hung up. A status
// message that could not be sent says nothing of it, and it may stand behind
// much that was not read.
func (s *Stream) lastWord(err error) error {
	if s.conn.SetReadDeadline(time.Now().Add(lastWordTimeout)) == nil {
		if said, _ := s.discard(); said != nil {
			return said
		}
	}
	return err
}

// follow is Run, but that it may return the error of ctx.
func (s *Stream) follow(ctx context.Context, out chan<- *Batch) error {
	// A read is interrupted by a deadline in the past. The loop sets deadlines
	// too, so it looks at ctx after each.
	interrupted := make(chan struct{}) // closed by the interruption, when there is one
	stop := context.AfterFunc(ctx, func() {
		defer close(interrupted)
		_ = s.conn.SetReadDeadline(time.Unix(1, 0))
	})
	defer func() {
		if !stop() {
			<-interrupted // or it would strike a later read, that of Close
		}
	}()

	s.free = make(chan *Batch, batches)
	for range batches {
		s.free <- &Batch{buf: make([]byte, 0, batchBuffer), free: s.free}
	}
	for {
		b, err := s.takeBatch(ctx)
		if b == nil {
			return err
		}
		b.buf, b.next, b.end = append(b.buf[:0], s.carry...), 0, 0
		err = s.fill(ctx, b)
		s.carry = b.buf[b.end:]
		if err != nil {
			return err
		}
		if err := s.handOver(ctx, b, out); err != nil || ctx.Err() != nil {
			return err
		}
	}
}

// takeBatch waits for a batch to read into. The carry aliases the previous one,
// which is never the next: free hands out the one that was put back first.
func (s *Stream) takeBatch(ctx context.Context) (*Batch, error) {
	for {
		select {
		case b := <-s.free:
			return b, nil
		case <-ctx.Done():
			return nil, nil
		case <-time.After(s.untilStatus()):
			if err := s.statusIfDue(); err != nil {
				return nil, err
			}
		}
	}
}

func (s *Stream) handOver(ctx context.Context, b *Batch, out chan<- *Batch) error {
	select {
	case out <- b:
		return nil
	default:
	}
	for {
		timer := time.NewTimer(s.untilStatus())
		select {
		case out <- b:
			timer.Stop()
			return nil
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
			if err := s.statusIfDue(); err != nil {
				return err
			}
		}
	}
}

// fill reads until b holds at least one whole message.
func (s *Stream) fill(ctx context.Context, b *Batch) error {
	if s.pace.bulk {
		nap := time.NewTimer(bulkNap)
		select {
		case <-nap.C:
		case <-ctx.Done():
			nap.Stop()
		}
	}
	for b.end == 0 {
		if err := s.statusIfDue(); err != nil {
			return err
		}
		if err := b.reserve(); err != nil {
			return err
		}
		wait := s.untilStatus()
		if err := s.conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
			return fmt.Errorf("set read deadline: %w", err)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if s.silent >= s.cfg.Silence {
			return fmt.Errorf("read replication stream: %w: nothing came for %s, though a reply was asked for", ErrSilent, s.cfg.Silence)
		}
		n, err := s.in.Read(b.buf[len(b.buf):cap(b.buf)])
		b.buf = b.buf[:len(b.buf)+n]
		s.pace.read(n, time.Now())
		// What was waited for is counted and not the time that passed: while the
		// consumer blocked, or this process was stopped, nobody listened.
		if s.silent += wait; n > 0 {
			s.silent = 0
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("read replication stream: %w", err)
		}
		if err := s.scan(b); err != nil {
			return err
		}
	}
	return s.statusIfDue()
}

// pace tells a backlog from a live log by how much comes how fast.
type pace struct {
	bulk  bool
	since time.Time // when the bytes began to be counted
	bytes int
}

// read notes n bytes that were read.
func (p *pace) read(n int, now time.Time) {
	p.bytes += n
	if passed := now.Sub(p.since); passed >= bulkNap {
		p.bulk = float64(p.bytes) >= bulkRead*float64(passed)/float64(bulkNap)
		p.since, p.bytes = now, 0
	}
}

// reserve makes room for the rest of a message whose length is known, or for
// more messages.
func (b *Batch) reserve() error {
	need := copyHeader
	if rest := b.buf[b.end:]; len(rest) >= copyHeader {
		need = 1 + int(binary.BigEndian.Uint32(rest[1:]))
	}
	if need > maxMessage {
		return fmt.Errorf("read replication stream: a message of %d bytes is above the protocol's bound", need)
	}
	if cap(b.buf)-b.end < need || cap(b.buf) == len(b.buf) {
		grown := make([]byte, len(b.buf), max(2*cap(b.buf), b.end+need))
		copy(grown, b.buf)
		b.buf = grown
	}
	return nil
}

// scan moves b.end behind the last whole message and acts on those that are
// the connection's own business.
func (s *Stream) scan(b *Batch) error {
	for {
		m := b.buf[b.end:]
		if len(m) < copyHeader {
			return nil
		}
		size := 1 + int(binary.BigEndian.Uint32(m[1:]))
		if size < copyHeader {
			return fmt.Errorf("read replication stream: message %q has length %d", m[0], size-1)
		}
		if len(m) < size {
			return nil
		}
		switch body := m[copyHeader:size]; m[0] {
		case 'd':
			if len(body) == keepaliveLength && body[0] == 'k' && body[keepaliveLength-1] == 1 {
				s.lastStatus = time.Time{} // the server asks: due at once
			}
		case 'E':
			return s.serverError(body)
		case 'c':
			return errors.New("read replication stream: the server ended it")
		}
		b.end += size
	}
}

func (s *Stream) serverError(body []byte) error {
	var response pgproto3.ErrorResponse
	if err := response.Decode(body); err != nil {
		return fmt.Errorf("read server error: %w", err)
	}
	return fmt.Errorf("read replication stream: %w", s.cfg.classify(stepStream, pgconn.ErrorResponseToPgError(&response)))
}

// untilStatus is the time until a status message is due.
func (s *Stream) untilStatus() time.Duration {
	interval := s.cfg.StatusInterval
	if s.confirmed.Load() != s.reported {
		interval = min(interval, confirmInterval)
	}
	// A confirmation may come at any time while the connection waits, so it is
	// looked for at that interval even when none is known.
	return max(0, min(time.Until(s.lastStatus.Add(interval)), confirmInterval))
}

func (s *Stream) statusIfDue() error {
	interval := s.cfg.StatusInterval
	if s.confirmed.Load() != s.reported {
		interval = min(interval, confirmInterval)
	}
	if time.Since(s.lastStatus) < interval {
		return nil
	}
	return s.sendStatus()
}

// sendStatus tells the server the confirmed position. It reports the same for
// written and applied: ffstream writes nothing of its own. It asks for a reply when
// nothing came since a read began to wait: a server that is there may have nothing
// else to say.
func (s *Stream) sendStatus() error {
	confirmed := s.confirmed.Load()
	m := append(make([]byte, 0, 39), 'd', 0, 0, 0, 38, 'r')
	for range 3 {
		m = binary.BigEndian.AppendUint64(m, confirmed)
	}
	const unixToPostgres = 946684800 * 1e6 // microseconds from 1970 to 2000
	m = binary.BigEndian.AppendUint64(m, uint64(time.Now().UnixMicro()-unixToPostgres))
	reply := byte(0)
	if s.silent > 0 {
		reply = 1
	}
	m = append(m, reply)
	if err := s.write(m); err != nil {
		return fmt.Errorf("send standby status: %w", err)
	}
	s.reported, s.lastStatus = confirmed, time.Now()
	return nil
}

func (s *Stream) write(m []byte) error {
	if err := s.conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	_, err := s.conn.Write(m)
	return err
}

// Close ends the connection. After a Run that returned because its context ended
// it first sends the last confirmation and, until ctx ends, waits for the server
// to take it. After a Run that failed there is nobody to take it: a server that
// reported an error has left replication, and would not answer.
func (s *Stream) Close(ctx context.Context) error {
	if s.pg != nil {
		return s.pg.Close(ctx)
	}
	if s.conn == nil {
		return nil
	}
	if s.failed {
		return s.conn.Close()
	}
	err := s.sendStatus()
	if err == nil {
		err = s.finish(ctx)
	}
	return errors.Join(err, s.conn.Close())
}

// finish leaves copy mode and reads until the server has answered, so that it
// has taken every status message before the connection goes.
func (s *Stream) finish(ctx context.Context) error {
	if err := s.write([]byte{'c', 0, 0, 0, 4}); err != nil {
		return fmt.Errorf("end replication: %w", err)
	}
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(writeTimeout)
	}
	if err := s.conn.SetReadDeadline(deadline); err != nil {
		return fmt.Errorf("end replication: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = s.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	said, err := s.discard()
	if said != nil { // CopyDone, or a complaint at the end: either way the server has read ours
		return s.write([]byte{'X', 0, 0, 0, 4})
	}
	if errors.Is(err, io.EOF) || errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	return fmt.Errorf("end replication: %w", err)
}

// discard reads and drops what the server sends, until it says that this is the
// end, or why, which is the first result, or nothing can be read, the second.
func (s *Stream) discard() (said, err error) {
	b := &Batch{buf: append(make([]byte, 0, handshakeBuffer), s.carry...)}
	for {
		if said := s.scan(b); said != nil {
			return said, nil
		}
		b.buf = append(b.buf[:0], b.buf[b.end:]...)
		b.end = 0
		if err := b.reserve(); err != nil {
			return nil, err
		}
		n, err := s.in.Read(b.buf[len(b.buf):cap(b.buf)])
		if b.buf = b.buf[:len(b.buf)+n]; n == 0 && err != nil {
			return nil, err
		}
	}
}
