package doctor

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream/internal/publish"
)

// Stream looks at the broker behind nc and at the stream that cfg names, whose
// SystemID and Slot say what feeds it. It changes nothing.
func Stream(ctx context.Context, nc *nats.Conn, cfg publish.Config) []Finding {
	findings := []Finding{broker(nc)}
	js, err := jetstream.New(nc)
	if err != nil {
		return append(findings, Finding{ID: "jetstream", Severity: Fault, Found: err.Error()})
	}
	findings = append(findings, account(ctx, js, &cfg))
	return append(findings, stream(ctx, nc, js, cfg)...)
}

func broker(nc *nats.Conn) Finding {
	f := Finding{ID: "nats", Severity: OK, Found: "nats-server " + nc.ConnectedServerVersion()}
	if rtt, err := nc.RTT(); err == nil {
		f.Found += fmt.Sprintf(", %s away", rtt.Round(10*time.Microsecond))
	}
	return f
}

const accountTimeout = 3 * time.Second

// nearly is how full an account may be before a warning.
const nearly = 0.9

func account(ctx context.Context, js jetstream.JetStream, cfg *publish.Config) Finding {
	f := Finding{ID: "jetstream", Severity: OK}
	asking, cancel := context.WithTimeout(ctx, accountTimeout) // a user who may not ask gets no answer
	defer cancel()
	info, err := js.AccountInfo(asking)
	switch {
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled) || errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		f.Severity, f.Found, f.Why = Fault, err.Error(), "the stream is JetStream's: add jetstream { store_dir: ... } to the server's configuration, or enable it for the account"
		return f
	case err != nil:
		f.Severity, f.Found, f.Why = Warning, "account information: "+cfg.Explain(fmt.Errorf("%w: %w", publish.ErrUnavailable, err)).Error(), "limits cannot be looked at; the service does not need them"
		return f
	}
	limits, used := info.Limits, info.Tier
	if t, ok := info.Tiers[fmt.Sprintf("R%d", max(1, cfg.Replicas))]; ok { // limits by number of replicas
		limits, used = t.Limits, t
	}
	f.Found = fmt.Sprintf("%d streams, %d bytes stored", used.Streams, used.Store)
	if limits.MaxStore > 0 {
		f.Found += fmt.Sprintf(" of %d", limits.MaxStore)
	}
	missing := absent(asking, js, cfg)
	switch {
	case limits.MaxStreams > 0 && used.Streams+missing > limits.MaxStreams:
		f.Severity, f.Why = Fault, fmt.Sprintf("the first run makes %d streams, and the account may have %d: raise max_streams of the account", missing, limits.MaxStreams)
	case limits.MaxBytesRequired && missing > 0:
		f.Severity, f.Why = Fault, "the account wants a bound in bytes of each stream, and the service makes streams that are bounded by age: set max_bytes_required to false"
	case limits.MaxStore > 0 && float64(used.Store) > nearly*float64(limits.MaxStore):
		f.Severity, f.Why = Warning, "when the account is full publishing stops and the slot holds the log: raise max_file of the account, or lower the stream's max_age"
	}
	return f
}

// absent is how many of the service's streams are still to be made.
func absent(ctx context.Context, js jetstream.JetStream, cfg *publish.Config) int {
	n := 0
	for _, name := range []string{cfg.Stream, "KV_" + publish.Bucket(cfg.Stream)} {
		if _, err := js.Stream(ctx, name); errors.Is(err, jetstream.ErrStreamNotFound) {
			n++
		}
	}
	return n
}

// stream looks at the stream's configuration and, when there is one, at what it
// holds and where it is kept.
func stream(ctx context.Context, nc *nats.Conn, js jetstream.JetStream, cfg publish.Config) []Finding {
	f := Finding{ID: "stream", Severity: OK}
	s, err := publish.Look(ctx, nc, cfg)
	one := absent(ctx, js, &cfg) == 1
	if one && err == nil && s.LastSequence() == 0 { // somebody made it for the first run, which makes the bucket
		one = false
	}
	switch remedy, mendable := publish.Mend(err); {
	case mendable:
		f.Severity, f.Found = Fault, err.Error()
		f.mend("the service does not start", remedy)
		return []Finding{f}
	case one:
		f.Severity, f.Found = Fault, fmt.Sprintf("of stream %s and the bucket with its note, %s, only one is there", cfg.Stream, publish.Bucket(cfg.Stream))
		f.Why = "how far the log was dealt with cannot be told, or what was stored is gone: restore it, or go on without what may be lost"
		f.Run = []string{acceptGap}
		return []Finding{f}
	case errors.Is(err, publish.ErrStreamLost):
		f.Found = "stream " + cfg.Stream + " does not exist" + firstRun
		return []Finding{f}
	case err != nil:
		f.Severity, f.Found, f.Why = Fault, err.Error(), "the service does not start"
		return []Finding{f}
	case len(s.Warnings) > 0:
		f.Severity, f.Found, f.Why = Warning, strings.Join(s.Warnings, "; "), "the stream keeps the promise, at a price"
		if s.Edit != "" {
			f.Run = []string{s.Edit}
		}
	default:
		f.Found = fmt.Sprintf("stream %s keeps the promise, with messages up to %d", cfg.Stream, s.LastSequence())
	}
	findings := []Finding{f, writer(ctx, s, &cfg)}
	before := time.Now()
	handle, err := js.Stream(ctx, cfg.Stream)
	if err != nil {
		return append(findings, Finding{ID: "replicas", Severity: Fault, Found: err.Error(), Why: "what cannot be looked at may be wrong"})
	}
	info := handle.CachedInfo()
	clock := skew("NATS", info.TimeStamp, before, time.Now())
	clock.ID = "nats-clock"
	return append(findings, room(info, time.Now()), replicas(info, nc.ConnectedClusterName()), clock)
}

// mend says why a finding matters, and what to do.
func (f *Finding) mend(why string, remedy publish.Remedy) {
	f.Why, f.Run = why, []string{remedy.Command}
	if remedy.More != "" {
		f.Why += "; " + remedy.More
	}
}

// writer looks at the stream's last message: who else writes breaks the chain.
func writer(ctx context.Context, s *publish.Stream, cfg *publish.Config) Finding {
	tail, err := s.ReadTail(ctx)
	switch {
	case errors.Is(err, publish.ErrStreamForeign):
		f := Finding{ID: "writer", Severity: Fault, Found: err.Error()}
		remedy, _ := publish.Mend(err)
		f.mend("the service stops: what it stores would no longer be one unbroken sequence", remedy)
		return f
	case err != nil:
		return Finding{ID: "writer", Severity: Fault, Found: err.Error(), Why: "what cannot be looked at may be wrong"}
	case !tail.Stored:
		return Finding{ID: "writer", Severity: OK, Found: "stream " + cfg.Stream + " holds no message that could be somebody else's"}
	}
	return Finding{ID: "writer", Severity: OK, Found: fmt.Sprintf("the last message of stream %s is this service's, at %s", cfg.Stream, tail.Position)}
}

// room judges how much more a stream takes that refuses what is beyond its bounds. The
// forecast is by the average of what it holds.
func room(info *jetstream.StreamInfo, now time.Time) Finding {
	c, is := &info.Config, &info.State
	f := Finding{ID: "room", Severity: OK, Found: "stream " + c.Name + " has no bound at which it refuses events"}
	if c.Discard != jetstream.DiscardNew || c.MaxBytes <= 0 && c.MaxMsgs <= 0 {
		return f
	}
	part, left, flags := 0.0, time.Duration(math.MaxInt64), ""
	held, each := now.Sub(is.FirstTime), is.Bytes/max(1, is.Msgs)
	var holds []string
	for _, b := range []struct {
		name, flag string
		is         uint64
		bound      int64
	}{{"bytes", "--max-bytes", is.Bytes, c.MaxBytes}, {"messages", "--max-msgs", is.Msgs, c.MaxMsgs}} {
		if b.bound <= 0 {
			continue
		}
		holds = append(holds, fmt.Sprintf("%d of %d %s", b.is, b.bound, b.name))
		full := float64(b.is) / float64(b.bound)
		part = max(part, full)
		if full < nearly {
			continue
		}
		flags += fmt.Sprintf(" %s=%d", b.flag, more(float64(b.is), b.bound, held, c.MaxAge))
		if b.is > 0 && held > 0 {
			left = min(left, time.Duration(min((1/full-1)*float64(held), math.MaxInt64/2)))
		}
	}
	f.Found = fmt.Sprintf("stream %s holds %s", c.Name, strings.Join(holds, " and "))
	if part < nearly {
		return f
	}
	f.Severity, f.Why = Warning, "when it is full, publishing stops until messages age out, and the slot holds the log"
	switch {
	case c.MaxMsgs > 0 && is.Msgs >= uint64(c.MaxMsgs), c.MaxBytes > 0 && is.Bytes+each > uint64(c.MaxBytes):
		f.Severity, f.Why = Fault, "publishing stops until messages age out, and the slot holds the log"
		f.Found += ": it is full"
	case c.MaxAge > 0 && held+left >= c.MaxAge:
		f.Found += ", and the first age out before it is full, at the average rate of what it holds"
	case left < math.MaxInt64:
		f.Found += fmt.Sprintf(": it is full in %s, at the average rate of what it holds", left.Round(time.Second))
	}
	f.Run = []string{"nats stream edit " + c.Name + flags + " --force"}
	return f
}

// more is a bound that leaves room: twice the present one, or half as much again as
// comes in before messages age out.
func more(is float64, bound int64, held, maxAge time.Duration) int64 {
	most := 2 * float64(bound)
	if maxAge > 0 && held > time.Minute { // a shorter time tells nothing of a day
		most = max(most, 1.5*is/held.Seconds()*maxAge.Seconds())
	}
	return int64(min(most, math.MaxInt64/2))
}

// replicas judges how many servers keep the stream, and whether they are there.
func replicas(info *jetstream.StreamInfo, cluster string) Finding {
	f := Finding{ID: "replicas", Severity: OK, Found: fmt.Sprintf("stream %s has %d replicas", info.Config.Name, info.Config.Replicas)}
	if info.Config.Replicas < 2 && cluster == "" {
		f.Found = "stream " + info.Config.Name + " is kept by one server: without sync_interval: always a failure of its power takes up to two minutes of events, which --confirm-holdback refills"
		return f
	}
	if info.Config.Replicas < 2 {
		f.Severity, f.Found = Warning, "stream "+info.Config.Name+" is kept by one server of cluster "+cluster
		f.Why = "while that server is away nothing is published, and what it had not synced is lost with its power"
		f.Run = []string{
			"nats stream edit " + info.Config.Name + " --replicas=3 --force",
			"nats kv edit " + publish.Bucket(info.Config.Name) + " --replicas=3", // the other would ask, whatever the flag says
		}
		return f
	}
	var away []string
	if info.Cluster != nil {
		for _, r := range info.Cluster.Replicas {
			if r.Offline || !r.Current {
				away = append(away, r.Name)
			}
		}
	}
	if len(away) > 0 {
		f.Severity, f.Found = Warning, fmt.Sprintf("of %d replicas of stream %s these are offline or behind: %s", info.Config.Replicas, info.Config.Name, strings.Join(away, ", "))
		f.Why = "with half of them away nothing is published: start those servers"
	}
	return f
}
