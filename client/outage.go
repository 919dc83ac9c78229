package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A server is asked again after shortWait, twice as long each time, up to longWait.
// What it says is gone is believed when it says so again after sureWait: one that
// is shutting down answers for what it has put away already.
const (
	shortWait = 50 * time.Millisecond
	longWait  = time.Second
	sureWait  = 500 * time.Millisecond
)

// mends reports whether waiting can mend what a request ended with. It is asked of
// every request, at the start of a subscription and later.
func mends(err error) bool {
	var api *jetstream.APIError
	if errors.As(err, &api) {
		const notAssigned, notLeader, streamOffline, consumerOffline = 10007, 10009, 10118, 10119
		switch api.ErrorCode {
		case jetstream.JSErrCodeJetStreamNotEnabled, jetstream.JSErrCodeJetStreamNotEnabledForAccount:
			return false
		case notAssigned, notLeader, streamOffline, consumerOffline:
			return true
		}
		return api.Code == http.StatusServiceUnavailable || api.Code == http.StatusRequestTimeout || api.Code == http.StatusTooManyRequests
	}
	for _, outage := range []error{
		nats.ErrNoResponders, nats.ErrTimeout, nats.ErrDisconnected, nats.ErrConnectionReconnecting,
		nats.ErrReconnectBufExceeded, context.DeadlineExceeded,
	} {
		if errors.Is(err, outage) {
			return true
		}
	}
	return false
}

// gone reports whether a request ended with the word that something is not there.
func gone(err error) bool {
	return errors.Is(err, ErrStreamGone) || errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, jetstream.ErrConsumerNotFound) ||
		errors.Is(err, jetstream.ErrJetStreamNotEnabled) || errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount)
}

// patient asks until there is an answer. The error is that of ctx, or what waiting
// cannot mend.
func (s *Subscriber) patient(ctx context.Context, request func(context.Context) error) error {
	nc := s.js.Conn()
	wait, said, on := shortWait, false, uint64(0) // said: that something is gone, on that connection
	for {
		err := s.ask(ctx, request)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		pause, now := wait, nc.Stats().Reconnects
		switch {
		case mends(err):
			wait, said = min(2*wait, longWait), false
		case gone(err) && (!said || on != now):
			pause, said, on = sureWait, true, now
		default:
			return explain(err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

// undated hides the deadline of a context: a request has the timeout of the
// JetStream context then, and ends with ctx all the same.
type undated struct{ context.Context }

func (undated) Deadline() (time.Time, bool) { return time.Time{}, false }

// ask does a request once. A server does not answer what it does not permit: it
// says so beside, and the request ends with that.
func (s *Subscriber) ask(ctx context.Context, request func(context.Context) error) error {
	before := s.js.Conn().LastError()
	ctx, refuse := context.WithCancelCause(undated{ctx})
	defer refuse(nil)
	answered := make(chan struct{})
	defer close(answered)
	go func() {
		tick := time.NewTicker(shortWait)
		defer tick.Stop()
		for {
			select {
			case <-answered:
				return
			case <-tick.C:
				if err := s.refusal(before); err != nil {
					refuse(err)
					return
				}
			}
		}
	}()
	err := request(ctx)
	if cause := context.Cause(ctx); err != nil && errors.Is(cause, nats.ErrPermissionViolation) {
		return cause
	}
	return err
}

// refusal is what the server did not permit since the connection's latest error
// was before, if it concerns the stream; or that no answer may be received.
func (s *Subscriber) refusal(before error) error {
	nc := s.js.Conn()
	err := nc.LastError()
	if !errors.Is(err, nats.ErrPermissionViolation) {
		return nil
	}
	inbox := nats.InboxPrefix
	if nc.Opts.InboxPrefix != "" {
		inbox = nc.Opts.InboxPrefix
	}
	text, stream := err.Error(), "."+s.cfg.Stream
	fresh := err != before //nolint:errorlint // the very same one
	if strings.Contains(text, `Subscription to "`+inbox) || fresh && (strings.Contains(text, stream+".") || strings.Contains(text, stream+`"`)) {
		return err
	}
	return nil
}

// explain adds to an error what mends it.
func explain(err error) error {
	switch {
	case errors.Is(err, ErrStreamGone):
		return fmt.Errorf("%w: read from the database what was missed, see that ffstream run goes on, and begin anew with what the stream holds then", err)
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return fmt.Errorf("%w: start ffstream run, which makes it, or name another", err)
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		return fmt.Errorf("%w: start nats-server with -js, or enable JetStream for the account", err)
	case errors.Is(err, nats.ErrPermissionViolation):
		return fmt.Errorf("%w: grant it to the user of this program in the configuration of nats-server", err)
	}
	return err
}

// find is one look for the stream. Before is what was found at the start of the
// run: a stream that was deleted since is not waited for, and one that was made
// anew is another.
func (s *Subscriber) find(ctx context.Context, before jetstream.Stream) (jetstream.Stream, error) {
	stream, err := s.js.Stream(ctx, s.cfg.Stream)
	nc := s.js.Conn()
	switch {
	case before != nil && errors.Is(err, jetstream.ErrStreamNotFound):
		return nil, fmt.Errorf("%w: it was deleted", ErrStreamGone)
	case before != nil && err == nil && !before.CachedInfo().Created.Equal(stream.CachedInfo().Created):
		return nil, fmt.Errorf("%w: it was deleted and made anew", ErrStreamGone)
	case before == nil && errors.Is(err, nats.ErrNoResponders) && nc.ConnectedClusterName() == "":
		if enabled, _ := nc.ConnectedServerJetStream(); !enabled && nc.IsConnected() { // nobody else can have it
			return nil, jetstream.ErrJetStreamNotEnabled
		}
	}
	return stream, err
}
