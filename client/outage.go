package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A server is asked again after shortWait, twice as long each time, up to longWait.
// What it says is gone is believed when it says so again after sureWait: one that
// is shutting down answers for what it has put away already. First of all it puts
// away JetStream, and then closes its streams for as long as that takes: that
// JetStream is not enabled is believed after closeWait, once it was.
const (
	shortWait = 50 * time.Millisecond
	longWait  = time.Second
	sureWait  = 500 * time.Millisecond
	closeWait = 10 * time.Second
)

// errCrowded: a consumer of this run, which nobody asks any more, may still take the
// place of the next one.
var errCrowded = errors.New("an own consumer may stand that was to be deleted")

// errNoLeader: a server answered for a consumer that it does not lead.
var errNoLeader = errors.New("the consumer has no leader")

// mends reports whether waiting can mend what a request ended with. It is asked of
// every request, at the start of a subscription and later.
func mends(err error) bool {
	var api *jetstream.APIError
	if errors.As(err, &api) && !errors.Is(err, errCrowded) {
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
		errCrowded, errNoLeader, nats.ErrNoResponders, nats.ErrTimeout, nats.ErrDisconnected, nats.ErrConnectionReconnecting,
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
	return errors.Is(err, ErrStreamGone) || errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, jetstream.ErrConsumerNotFound) || disabled(err)
}

// disabled reports whether it ended with the word that JetStream is not enabled.
func disabled(err error) bool {
	return errors.Is(err, jetstream.ErrJetStreamNotEnabled) || errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount)
}

// rumour is the word that something is gone, and since when it is repeated. The zero
// value is none.
type rumour struct {
	since    time.Time
	disabled bool
	on       uint64 // the connection
}

// believe takes the word once more, and reports whether it counts. Open: what is gone
// was there before.
func (r *rumour) believe(err error, now time.Time, on uint64, open bool) bool {
	if r.since.IsZero() || r.on != on || r.disabled != disabled(err) {
		*r = rumour{since: now, disabled: disabled(err), on: on}
	}
	wait := sureWait
	if open && r.disabled {
		wait = closeWait
	}
	return now.Sub(r.since) >= wait
}

// patient asks until there is an answer. Open: there was one before in this run. The
// error is that of ctx, or what waiting cannot mend.
func (s *Subscriber) patient(ctx context.Context, open bool, request func(context.Context) error) error {
	nc, began := s.js.Conn(), time.Now()
	wait, told := shortWait, false
	var said rumour
	for {
		err := s.ask(ctx, s.asked, request)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		pause, now, on := wait, time.Now(), nc.Stats().Reconnects
		switch {
		case mends(err):
			wait, said = min(2*wait, longWait), rumour{}
		case gone(err) && !said.believe(err, now, on, open):
			pause = sureWait
		default:
			return explain(err)
		}
		if !told && now.Sub(began) >= longWait {
			told = true
			if hook := s.tellWaiting(err); hook != nil {
				return hook
			}
		}
		if !rest(ctx, nc, pause) {
			return ctx.Err()
		}
		if nc.Stats().Reconnects != on {
			wait = shortWait
		}
	}
}

// rest returns after a pause, or when there is another connection; false: ctx ended.
func rest(ctx context.Context, nc *nats.Conn, pause time.Duration) bool {
	on, enough := nc.Stats().Reconnects, time.After(pause)
	tick := time.NewTicker(shortWait)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-enough:
			return true
		case <-tick.C:
			if nc.Stats().Reconnects != on {
				return true
			}
		}
	}
}

// tellWaiting calls the hook. The error is that it panicked.
func (s *Subscriber) tellWaiting(cause error) (err error) {
	if s.cfg.Waiting == nil {
		return nil
	}
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("tell what is waited for: %w", &PanicError{Value: v, Stack: debug.Stack()})
		}
	}()
	if errors.Is(cause, nats.ErrNoResponders) {
		cause = fmt.Errorf("%w: the broker is away or without JetStream, or the JetStream domain or API prefix is another", cause)
	}
	s.cfg.Waiting(cause)
	return nil
}

// undated hides the deadline of a context: a request has the timeout of the
// JetStream context then, and ends with ctx all the same.
type undated struct{ context.Context }

func (undated) Deadline() (time.Time, bool) { return time.Time{}, false }

// ask does a request once. A server does not answer what it does not permit: it
// says so beside, and the request ends with that, if it concerns the caller. Nor does
// one answer what was asked on a connection that broke.
func (s *Subscriber) ask(ctx context.Context, concerns func(refused string) bool, request func(context.Context) error) error {
	nc := s.js.Conn()
	before, on := nc.LastError(), nc.Stats().Reconnects
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
				if err := s.refusal(before, concerns); err != nil {
					refuse(err)
					return
				}
				if nc.Stats().Reconnects != on {
					refuse(nats.ErrDisconnected)
					return
				}
			}
		}
	}()
	err := request(ctx)
	if cause := context.Cause(ctx); err != nil && (errors.Is(cause, nats.ErrPermissionViolation) || errors.Is(cause, nats.ErrDisconnected)) {
		return cause
	}
	return err
}

// asked reports whether a refusal is of what a subscription cannot do without. Others
// on the connection can be refused too, and so can what is done in its own good time,
// such as the deletion of a consumer.
func (s *Subscriber) asked(refused string) bool {
	for _, right := range []string{"STREAM.INFO", "STREAM.MSG.GET", "DIRECT.GET", "CONSUMER.CREATE", "CONSUMER.DURABLE.CREATE", "CONSUMER.INFO"} {
		whole := "." + right + "." + s.cfg.Stream
		if strings.Contains(refused, whole+".") || strings.Contains(refused, whole+`"`) {
			return true
		}
	}
	return false
}

// consumed is asked for what a consumer is read with: requests for messages, and
// acknowledgements.
func (s *Subscriber) consumed(consumer string) func(refused string) bool {
	name := "." + s.cfg.Stream + "." + consumer
	return func(refused string) bool {
		return strings.Contains(refused, ".CONSUMER.MSG.NEXT"+name+`"`) || strings.Contains(refused, ".ACK.") && strings.Contains(refused, name+".")
	}
}

// refused is what the server does not permit the session to do with its consumer.
func (ss *session) refused() error {
	return ss.s.refusal(ss.before, ss.s.consumed(ss.con.CachedInfo().Name))
}

// refusal is what the server did not permit since the connection's latest error
// was before, if that concerns the caller; or that no answer may be received.
func (s *Subscriber) refusal(before error, concerns func(refused string) bool) error {
	nc := s.js.Conn()
	err := nc.LastError()
	if !errors.Is(err, nats.ErrPermissionViolation) {
		return nil
	}
	inbox := nats.InboxPrefix
	if nc.Opts.InboxPrefix != "" {
		inbox = nc.Opts.InboxPrefix
	}
	text := err.Error()
	fresh := err != before //nolint:errorlint // the very same one
	if strings.Contains(text, `Subscription to "`+inbox) || fresh && concerns(text) {
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
