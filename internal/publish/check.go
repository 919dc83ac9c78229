package publish

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// unfit is why a stream does not serve, with the command that mends it.
type unfit struct {
	error
	command string
}

func (u *unfit) Unwrap() error { return u.error }

// Mend is the shell command that mends what Open, Look or ReadTail found wrong with a
// stream, or leaves it as it is.
func Mend(err error) (command string, known bool) {
	var u *unfit
	if errors.As(err, &u) {
		return u.command, true
	}
	return "", false
}

// edit is the command of the nats program that changes the stream.
func (s *Stream) edit(flags ...string) string {
	return "nats stream edit " + s.cfg.Stream + " " + strings.Join(flags, " ") + " --force"
}

// anew is a command that leaves the stream as it is.
func (s *Stream) anew() string {
	return fmt.Sprintf("ffstream run --slot=%s_2 --stream=%s_2 --subject-prefix=%s2", s.cfg.Slot, s.cfg.Stream, s.cfg.Prefix)
}

// check looks for differences between the stream and what the promise needs.
func (s *Stream) check(c *jetstream.StreamConfig) error {
	if err := s.belongs(c); err != nil {
		return err
	}
	want := s.cfg.Prefix + ".>"
	fault := func(field, is, rule, words, command string) error {
		return &unfit{fmt.Errorf("%w: stream %s has %s %s: %s: %s", ErrStreamConfig, c.Name, field, is, rule, words), command}
	}
	// What no edit changes is for another stream, and of one that never held anything
	// for the same again.
	other := func(field, is, rule string) error {
		if s.lastSeq == 0 {
			return fault(field, is, rule, "no edit changes that, and it never held anything: remove it, and the first run creates it, or name another (--stream)", "nats stream rm "+c.Name+" --force")
		}
		return fault(field, is, rule, "no edit changes that: name another stream (--stream), with a slot and a prefix of its own", s.anew())
	}
	edited := func(field, is, rule, words string, flag string) error {
		return fault(field, is, rule, words, s.edit(flag))
	}
	switch {
	case c.Mirror != nil || len(c.Sources) > 0:
		return fault("mirror or sources", "set", "a stream has one writer", "name another stream (--stream)", s.anew())
	case len(c.Subjects) != 1 || c.Subjects[0] != want:
		is, rule := fmt.Sprintf("%q", c.Subjects), "this service writes "+want+" and is the only writer"
		if c.Metadata[metaSystem] != "" { // it was this service's
			return edited("subjects", is, rule, "set them to "+want, "--subjects='"+want+"'")
		}
		return fault("subjects", is, rule, "name another stream (--stream) or prefix (--subject-prefix)", s.anew())
	case c.Sealed:
		return other("sealed", "true", "nothing can be stored")
	case c.Retention == jetstream.InterestPolicy:
		return edited("retention", c.Retention.String(), "messages must outlive their consumption", "set it to limits", "--retention=limits")
	case c.Retention != jetstream.LimitsPolicy:
		return other("retention", c.Retention.String(), "messages must outlive their consumption")
	case c.NoAck:
		return edited("no_ack", "true", "nothing would ever be confirmed", "set it to false", "--ack")
	case c.Storage == jetstream.MemoryStorage:
		return other("storage", "memory", "a restart of the server would lose what was confirmed")
	case c.PersistMode == jetstream.AsyncPersistMode:
		return other("persist_mode", "async", "a message would be acknowledged before it is written")
	case c.AllowMsgCounter:
		return other("allow_msg_counter", "true", "the stream would take counters alone")
	case c.SubjectTransform != nil:
		return edited("subject_transform", "set", "subscribers rely on the subjects", "remove the transform", "--no-transform")
	case c.MaxMsgsPerSubject > 0:
		flag := "--max-msgs-per-subject=-1"
		if c.DiscardNewPerSubject { // which a server takes with that bound alone
			flag += " --no-discard-per-subject"
		}
		return edited("max_msgs_per_subject", strconv.FormatInt(c.MaxMsgsPerSubject, 10), "it would delete events from the middle", "set it to -1", flag)
	}
	s.Atomic, s.maxMsgSize = c.AllowAtomicPublish, c.MaxMsgSize
	s.warn(c)
	return nil
}

// belongs refuses a stream that was made for another database or slot.
func (s *Stream) belongs(c *jetstream.StreamConfig) error {
	if owner := c.Metadata[metaSystem]; owner != "" && owner != strconv.FormatUint(s.cfg.SystemID, 10) {
		return &unfit{fmt.Errorf("%w: stream %s belongs to the database system %s, and this database is %d: name another stream (--stream), or the database that the stream belongs to",
			ErrStreamForeign, c.Name, owner, s.cfg.SystemID), s.anew()}
	}
	if owner := c.Metadata[metaSlot]; owner != "" && owner != s.cfg.Slot {
		return &unfit{fmt.Errorf("%w: stream %s is fed by slot %s, and this service holds %s: one slot feeds one stream: name another stream (--stream) or slot (--slot)",
			ErrStreamForeign, c.Name, owner, s.cfg.Slot), s.anew()}
	}
	return nil
}

// warn looks for what leaves the promise whole. No edit is proposed that would delete
// events or take replicas away: what the service is told may be what is out of date.
func (s *Stream) warn(c *jetstream.StreamConfig) {
	var flags []string
	say := func(text, flag string) {
		s.Warnings = append(s.Warnings, text)
		if flag != "" {
			flags = append(flags, flag)
		}
	}
	want := s.promised()
	differs := func(field string, is, want any, more, flag string) {
		say(fmt.Sprintf("%s is %v, and a stream that this service creates has %v%s", field, is, want, more), flag)
	}
	switch {
	case s.Atomic:
	case want.AllowAtomicPublish:
		say("allow_atomic is off: subscribers may see half of a transaction", "--allow-batch")
	default:
		say("allow_atomic is off: subscribers may see half of a transaction; nats-server 2.12 has it", "")
	}
	if !c.AllowDirect {
		say("allow_direct is off: subscribers' point reads all go to the leader", "--allow-direct")
	}
	switch is := c.MaxAge; {
	case is == want.MaxAge:
	case is == 0 || want.MaxAge != 0 && is > want.MaxAge:
		differs("max_age", is, want.MaxAge, fmt.Sprintf(": tell it with --stream-max-age=%v", is), "")
	default:
		differs("max_age", is, want.MaxAge, "", "--max-age="+duration(want.MaxAge))
	}
	switch is := c.Replicas; {
	case is == want.Replicas:
	case is > want.Replicas:
		differs("num_replicas", is, want.Replicas, fmt.Sprintf(": tell it with --stream-replicas=%d", is), "")
	case s.nc.ConnectedClusterName() == "":
		differs("num_replicas", is, want.Replicas, ", for which there must be a cluster", "")
	default:
		differs("num_replicas", is, want.Replicas, "", fmt.Sprintf("--replicas=%d", want.Replicas))
	}
	if c.Duplicates != want.Duplicates {
		differs("duplicate_window", c.Duplicates, want.Duplicates, "", "--dupe-window="+duration(want.Duplicates))
	}
	if c.Discard == jetstream.DiscardOld && (c.MaxBytes > 0 || c.MaxMsgs > 0) {
		var lift []string
		if c.MaxBytes > 0 {
			lift = append(lift, "--max-bytes=-1")
		}
		if c.MaxMsgs > 0 {
			lift = append(lift, "--max-msgs=-1")
		}
		say("max_bytes or max_msgs with discard old deletes events before max_age when the limit is reached", strings.Join(lift, " "))
	}
	if len(flags) > 0 {
		s.Edit = s.edit(flags...)
	}
}

// duration is d as the nats program reads it.
func duration(d time.Duration) string {
	if d == 0 {
		return "0s"
	}
	return d.String()
}
