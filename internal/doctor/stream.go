package doctor

import (
	"context"
	"errors"
	"fmt"
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
	return append(findings, account(ctx, js), stream(ctx, nc, cfg))
}

func broker(nc *nats.Conn) Finding {
	f := Finding{ID: "nats", Severity: OK, Found: "nats-server " + nc.ConnectedServerVersion()}
	if rtt, err := nc.RTT(); err == nil {
		f.Found += fmt.Sprintf(", %s away", rtt.Round(10*time.Microsecond))
	}
	return f
}

// nearly is how full an account may be before a warning.
const nearly = 0.9

func account(ctx context.Context, js jetstream.JetStream) Finding {
	f := Finding{ID: "jetstream", Severity: OK}
	info, err := js.AccountInfo(ctx)
	switch {
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled) || errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		f.Severity, f.Found, f.Why = Fault, err.Error(), "the stream is JetStream's: add jetstream { store_dir: ... } to the server's configuration, or enable it for the account"
		return f
	case err != nil:
		f.Severity, f.Found, f.Why = Warning, "account information: "+err.Error(), "limits cannot be looked at; the service does not need them"
		return f
	}
	f.Found = fmt.Sprintf("%d streams, %d bytes stored", info.Streams, info.Store)
	limits := info.Limits
	if limits.MaxStore > 0 {
		f.Found += fmt.Sprintf(" of %d", limits.MaxStore)
		if float64(info.Store) > nearly*float64(limits.MaxStore) {
			f.Severity, f.Why = Warning, "when the account is full publishing stops and the slot holds the log: raise max_file of the account, or lower the stream's max_age"
		}
	}
	return f
}

func stream(ctx context.Context, nc *nats.Conn, cfg publish.Config) Finding {
	f := Finding{ID: "stream", Severity: OK}
	s, err := publish.Open(ctx, nc, cfg, false)
	switch {
	case errors.Is(err, publish.ErrStreamLost):
		f.Found = "stream " + cfg.Stream + " does not exist; the first run creates it"
	case err != nil:
		f.Severity, f.Found, f.Why = Fault, err.Error(), "the service does not start"
	case len(s.Warnings) > 0:
		f.Severity, f.Found, f.Why = Warning, s.Warnings[0], "the stream keeps the promise, at a price"
		for _, w := range s.Warnings[1:] {
			f.Found += "; " + w
		}
	default:
		f.Found = fmt.Sprintf("stream %s keeps the promise, with messages up to %d", cfg.Stream, s.LastSequence())
	}
	return f
}
