package publish

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Error codes of the server (server/errors.json) that nats.go does not name.
const (
	codeInsufficientResources = 10023
	codeStorageExceeded       = 10047
	codeStoreFailed           = 10077
	codeAccountResources      = 10002
	codeMessageTooLarge       = 10054
	codeNotEnabledForAccount  = 10039
	codeNotEnabled            = 10076
	codeStreamNotFound        = 10059
	codeSubjectOverlap        = 10065
	codeReplicasNotSupported  = 10074
)

// Refused wraps what a server refused, or why it was not trusted, with the sentinel
// that it stands for and with what mends it. Other errors come back as they are.
func Refused(err error) error {
	var untrusted *tls.CertificateVerificationError
	switch {
	case errors.Is(err, nats.ErrPermissionViolation):
		return fmt.Errorf("%w: %w: grant it to the user of this service in the configuration of nats-server", ErrNotPermitted, err)
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired), errors.Is(err, nats.ErrAuthRevoked), errors.Is(err, nats.ErrAccountAuthExpired):
		return fmt.Errorf("%w: %w: correct the user in the NATS URL, or what --nats-user, --nats-token-file, --nats-nkey-file or --nats-creds-file names", ErrAuthentication, err)
	case errors.As(err, &untrusted):
		return fmt.Errorf("%w: %w: name the certificate of who signed it (--nats-ca-file), and the host that it is for (--nats-url)", ErrUntrusted, err)
	case err != nil && strings.Contains(err.Error(), "remote error: tls: "): // crypto/tls has no type for an alert
		return fmt.Errorf("%w: %w: name a client certificate that the server accepts (--nats-cert-file, --nats-key-file)", ErrAuthentication, err)
	case err != nil && strings.Contains(err.Error(), "after TLS handshake"): // the alert was lost with the connection
		return fmt.Errorf("%w: the server may want a client certificate, or another one (--nats-cert-file, --nats-key-file)", err)
	}
	return err
}

// Explain adds to the error of a request that had no answer what the server
// refused: it drops a message that is not permitted, and says so beside.
func (c *Config) Explain(err error) error {
	if c.Refusal == nil || !errors.Is(err, ErrUnavailable) && !errors.Is(err, ErrAmbiguous) {
		return err
	}
	if said := c.Refusal(); errors.Is(said, nats.ErrPermissionViolation) {
		return fmt.Errorf("%w (%w)", Refused(said), err)
	}
	return err
}

// classify wraps an error of the JetStream API or of the connection with the
// sentinel that says what mends it.
func classify(err error) error {
	if errors.Is(err, jetstream.ErrJetStreamNotEnabled) || errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount) {
		return fmt.Errorf("%w: %w: start nats-server with -js, or enable JetStream for the account", ErrNoJetStream, err)
	}
	var api *jetstream.APIError
	if errors.As(err, &api) {
		return classifyCode(int(api.ErrorCode), api.Code, api.Description, nil)
	}
	switch {
	case errors.Is(err, nats.ErrNoResponders), errors.Is(err, nats.ErrTimeout), errors.Is(err, nats.ErrConnectionClosed),
		errors.Is(err, nats.ErrDisconnected), errors.Is(err, nats.ErrReconnectBufExceeded),
		errors.Is(err, nats.ErrConnectionReconnecting), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return err
}

// classifyCode is classify for the server's own words. What they do not tell is
// otherwise, or nothing that a caller could ask about when that is nil.
func classifyCode(code, status int, text string, otherwise error) error {
	switch code {
	case codeInsufficientResources, codeStorageExceeded, codeStoreFailed, codeAccountResources:
		return fmt.Errorf("%w: %s (error %d): publishing stops and the slot keeps the WAL until there is room", ErrFull, text, code)
	case codeNotEnabled, codeNotEnabledForAccount:
		return fmt.Errorf("%w: %s (error %d): start nats-server with -js, or enable JetStream for the account", ErrNoJetStream, text, code)
	case codeStreamNotFound:
		return fmt.Errorf("%w: %s (error %d)", ErrStreamLost, text, code)
	case codeMessageTooLarge:
		return fmt.Errorf("%w: %s (error %d): raise the stream's max_msg_size", ErrStreamConfig, text, code)
	case codeSubjectOverlap:
		return fmt.Errorf("%w: %s (error %d): name another prefix (--subject-prefix), or the stream that has it (--stream)", ErrStreamConfig, text, code)
	case codeReplicasNotSupported:
		return fmt.Errorf("%w: %s (error %d): start a cluster, or ask for one replica (--stream-replicas)", ErrStreamConfig, text, code)
	}
	if status == 503 || status == 408 {
		return fmt.Errorf("%w: %s (error %d)", ErrUnavailable, text, code)
	}
	if otherwise != nil {
		return fmt.Errorf("%w: %s (error %d)", otherwise, text, code)
	}
	return fmt.Errorf("%s (error %d)", text, code)
}
