package publish

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Remedy mends what is wrong with a stream, or leaves the stream as it is.
type Remedy struct {
	Command string // of the shell
	More    string // what else may have to be done, in words; empty: nothing
}

// unfit is why a stream does not serve, with what mends it.
type unfit struct {
	error
	remedy Remedy
}

func (u *unfit) Unwrap() error { return u.error }

// Mend tells how to mend what Open, Look or ReadTail found wrong with a stream.
func Mend(err error) (r Remedy, known bool) {
	var u *unfit
	if errors.As(err, &u) {
		return u.remedy, true
	}
	return Remedy{}, false
}

// edit is the command of the nats program that changes the stream.
func (s *Stream) edit(flags ...string) string {
	return "nats stream edit " + s.cfg.Stream + " " + strings.Join(flags, " ") + " --force"
}

// anew leaves the stream as it is. So it does the slot, which others may need.
func (s *Stream) anew() Remedy {
	return Remedy{
		Command: fmt.Sprintf("ffstream run --slot=%s_2 --stream=%s_2 --subject-prefix=%s2", s.cfg.Slot, s.cfg.Stream, s.cfg.Prefix),
		More:    fmt.Sprintf("slot %s, if there is one, goes on holding the log: where no service is to go on with it, drop it: SELECT pg_drop_replication_slot('%s')", s.cfg.Slot, s.cfg.Slot),
	}
}

// check looks for differences between the stream and what the promise needs.
func (s *Stream) check(ctx context.Context, c *jetstream.StreamConfig) error {
	if err := s.belongs(c); err != nil {
		return err
	}
	fault := func(field, is, rule, words string, remedy Remedy) error {
		return misfit(c, field, is, rule+": "+words, remedy)
	}
	// What no edit changes is for another stream, and of one that never held anything
	// for the same again.
	other := func(field, is, rule string) error {
		if s.lastSeq == 0 {
			return fault(field, is, rule, "no edit changes that, and it never held anything: remove it, and the first run creates it, or name another (--stream)", Remedy{Command: "nats stream rm " + c.Name + " --force"})
		}
		return fault(field, is, rule, "no edit changes that: name another stream (--stream), with a slot and a prefix of its own", s.anew())
	}
	edited := func(field, is, rule, words string, flag string) error {
		return fault(field, is, rule, words, Remedy{Command: s.edit(flag)})
	}
	switch {
	case c.Mirror != nil || len(c.Sources) > 0:
		return fault("mirror or sources", "set", "a stream has one writer", "name another stream (--stream)", s.anew())
	case len(c.Subjects) != 1 || c.Subjects[0] != s.cfg.Prefix+".>":
		return s.checkSubjects(ctx, c)
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

func misfit(c *jetstream.StreamConfig, field, is, words string, remedy Remedy) error {
	return &unfit{fmt.Errorf("%w: stream %s has %s %s: %s", ErrStreamConfig, c.Name, field, is, words), remedy}
}

// checkSubjects refuses a stream that has other subjects than this service's. An edit
// is proposed only where the last message tells that these were edited before: what the
// service is told may be what is out of date, and then the edit takes the subjects
// from the service that writes them.
func (s *Stream) checkSubjects(ctx context.Context, c *jetstream.StreamConfig) error {
	want := s.cfg.Prefix + ".>"
	is, rule := fmt.Sprintf("%q", c.Subjects), "this service writes "+want+" and is the only writer: "
	if c.Metadata[metaSystem] == "" { // it was never this service's
		return misfit(c, "subjects", is, rule+"name another stream (--stream) or prefix (--subject-prefix)", s.anew())
	}
	edited := s.lastSeq == 0 && slices.Contains(c.Subjects, want)
	if s.lastSeq > 0 { // where it cannot be read, it tells nothing
		last, err := s.getMessage(ctx, s.cfg.Stream, messageRequest{Sequence: s.lastSeq})
		edited = err == nil && strings.HasPrefix(last.Subject, s.cfg.Prefix+".")
	}
	if edited {
		return misfit(c, "subjects", is, rule+"set them to "+want, Remedy{Command: s.edit("--subjects='" + want + "'")})
	}
	if prefix, whole := strings.CutSuffix(strings.Join(c.Subjects, " "), ".>"); whole && !strings.ContainsAny(prefix, " .*>") {
		words := fmt.Sprintf("tell it the prefix that the stream was made with (--subject-prefix=%s); only if that is not it, set the subjects to %s", prefix, want)
		return misfit(c, "subjects", is, rule+words, Remedy{Command: fmt.Sprintf("ffstream run --slot=%s --stream=%s --subject-prefix=%s", s.cfg.Slot, s.cfg.Stream, prefix)})
	}
	return misfit(c, "subjects", is, rule+"name the prefix that the stream was made with (--subject-prefix), or another stream (--stream)", s.anew())
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
