package shard

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/repl/pgoutput"
)

// Heartbeat is the latest logical message that a session wrote into the log and
// met again.
type Heartbeat struct {
	Sent time.Time // by this process's clock; zero: none came back yet
	// Delay is from the message's writing until everything that committed before
	// it was stored.
	Delay    time.Duration
	Interval time.Duration // between two
	Count    uint64        // that came back
	Error    string        // why the latest could not be written
}

// pulse measures how long the log takes to be stored. It belongs to goroutine B.
type pulse struct {
	session string // tells this session's messages from those that the slot repeats
	sent    time.Time
	end     ffstream.LSN // the log before the message; 0: none is waited for
}

func newPulse() pulse { return pulse{session: uuid.NewString()} }

// HeartbeatPrefix is the prefix of a slot's logical messages.
func HeartbeatPrefix(slot string) string { return "ffstream/" + slot }

// content is a message's: when it was written, and by which session.
func (p *pulse) content(now time.Time) string {
	return strconv.FormatInt(now.UnixNano(), 10) + " " + p.session
}

// met notes that a logical message came out of the slot.
func (p *pulse) met(m *pgoutput.LogicalMessage, slot string) {
	if string(m.Prefix) != HeartbeatPrefix(slot) || p.end != 0 {
		return // one is measured at a time: the oldest tells the longest delay
	}
	sent, session, ok := strings.Cut(string(m.Content), " ")
	nanos, err := strconv.ParseInt(sent, 10, 64)
	if ok && err == nil && session == p.session {
		p.sent, p.end = time.Unix(0, nanos), ffstream.LSN(m.LSN)
	}
}

// beaten gives the delay of the message that was met, once everything before it
// is stored.
func (p *pulse) beaten(done ffstream.LSN, now time.Time) (time.Duration, bool) {
	if p.end == 0 || done < p.end {
		return 0, false
	}
	p.end = 0
	return max(0, now.Sub(p.sent)), true
}

// beat writes one logical message. A failure is shown and counted, and one line
// is logged a change: nothing that is published depends on it.
func (ss *session) beat(ctx context.Context) {
	s := ss.shard
	writing, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	err := s.cfg.Heartbeat(writing, HeartbeatPrefix(s.cfg.Source.Slot), ss.pulse.content(time.Now()))
	text := ""
	if err != nil && ctx.Err() == nil {
		text = err.Error()
	}
	s.board.update(func(b *Status) {
		if text != "" && b.Heartbeat.Error == "" {
			s.cfg.Log.Warn("no heartbeat can be written; the delay is not measured", "error", text)
		}
		b.Heartbeat.Error = text
	})
}

// logical takes a logical message out of the log. It stands outside of every
// transaction, behind all that committed before it.
func (ss *session) logical(ctx context.Context, m *pgoutput.LogicalMessage) error {
	if m.Transactional || ss.inTx {
		return nil // somebody else's
	}
	end := ffstream.LSN(m.LSN)
	if ss.expect != 0 && end > ss.expect {
		at := end
		if ss.expect == ffstream.WatermarkPosition(end, 0).Commit {
			at = ss.expect // the stream ends with what was published here
		}
		if err := ss.meet(at); err != nil {
			return err
		}
	}
	if err := ss.mark(ctx, m); err != nil {
		return err
	}
	ss.received = max(ss.received, end)
	ss.settle(end)
	ss.pulse.met(m, ss.shard.cfg.Source.Slot)
	return nil
}
