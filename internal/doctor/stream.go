package doctor

import (
	"context"
	"errors"
	"fmt"
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
	if n := absent(ctx, js, &cfg); n == 1 { // Open would make the bucket anew, and this package makes nothing
		f.Severity, f.Found = Fault, fmt.Sprintf("of stream %s and the bucket with its note, %s, only one is there", cfg.Stream, publish.Bucket(cfg.Stream))
		f.Why = "how far the log was dealt with cannot be told, or what was stored is gone: restore it, or go on without what may be lost"
		f.Run = []string{acceptGap}
		return []Finding{f}
	}
	s, err := publish.Open(ctx, nc, cfg, false)
	switch {
	case errors.Is(err, publish.ErrStreamLost):
		f.Found = "stream " + cfg.Stream + " does not exist" + firstRun
		return []Finding{f}
	case err != nil:
		f.Severity, f.Found, f.Why = Fault, err.Error(), "the service does not start"
		return []Finding{f}
	case len(s.Warnings) > 0:
		f.Severity, f.Found, f.Why = Warning, s.Warnings[0], "the stream keeps the promise, at a price"
		for _, w := range s.Warnings[1:] {
			f.Found += "; " + w
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
	return append(findings, replicas(info, nc.ConnectedClusterName()), clock)
}

// writer looks at the stream's last message: who else writes breaks the chain.
func writer(ctx context.Context, s *publish.Stream, cfg *publish.Config) Finding {
	tail, err := s.ReadTail(ctx)
	switch {
	case errors.Is(err, publish.ErrStreamForeign):
		return Finding{ID: "writer", Severity: Fault, Found: err.Error(), Why: "the service stops: what it stores would no longer be one unbroken sequence"}
	case err != nil:
		return Finding{ID: "writer", Severity: Fault, Found: err.Error(), Why: "what cannot be looked at may be wrong"}
	case !tail.Stored:
		return Finding{ID: "writer", Severity: OK, Found: "stream " + cfg.Stream + " holds no message that could be somebody else's"}
	}
	return Finding{ID: "writer", Severity: OK, Found: fmt.Sprintf("the last message of stream %s is this service's, at %s", cfg.Stream, tail.Position)}
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
			"nats stream edit KV_" + publish.Bucket(info.Config.Name) + " --replicas=3 --force",
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
