package repl

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// What a caller of Open, CreateSlot, Start and Run may ask about an error.
var (
	// ErrSlotBusy: another process holds the slot (SQLSTATE 55006). Waiting
	// makes this process its standby.
	ErrSlotBusy = errors.New("replication slot is in use by another process")
	// ErrSlotLost: the slot is gone or invalidated, so what it kept is gone too.
	ErrSlotLost = errors.New("replication slot is lost")
	// ErrSlotForeign: a slot of that name exists and is not ours to read.
	ErrSlotForeign = errors.New("replication slot belongs to something else")
	// ErrPublicationMissing: the slot's position predates the publication, or it was dropped.
	ErrPublicationMissing = errors.New("publication does not exist")
	// ErrNotPermitted: the role may not replicate (SQLSTATE 42501).
	ErrNotPermitted = errors.New("role is not permitted to replicate")
	// ErrAuthentication: the server refused the role or its password.
	ErrAuthentication = errors.New("authentication failed")
	// ErrDatabaseMissing: the database does not exist (SQLSTATE 3D000).
	ErrDatabaseMissing = errors.New("database does not exist")
	// ErrServerTooOld: the server is older than Postgres 15.
	ErrServerTooOld = errors.New("server is too old")
	// ErrWALLevel: wal_level is not logical.
	ErrWALLevel = errors.New("wal_level is not logical")
	// ErrRecovery: the server is a standby. Its promotion mends it, or an address
	// that leads to the primary.
	ErrRecovery = errors.New("server is in recovery")
	// ErrSilent: nothing came from the server, not even a reply that was asked for.
	// A new connection tells whether it is there.
	ErrSilent = errors.New("server is silent")
	// ErrUnknownHost: the name of the server's host does not resolve.
	ErrUnknownHost = errors.New("host name does not resolve")
	// ErrUntrusted: no authority that is trusted signed the server's certificate.
	ErrUntrusted = errors.New("server is not trusted")
)

// step says what a Postgres error interrupted, for the same SQLSTATE means
// different things at different steps.
type step int

const (
	stepConnect step = iota
	stepCreate
	stepStart
	stepStream
)

// classify wraps err with the sentinel that its SQLSTATE stands for at a step,
// and with what mends it. Other errors come back as they are.
func (c *Config) classify(at step, err error) error {
	var dns *net.DNSError
	if errors.As(err, &dns) && dns.IsNotFound {
		return fmt.Errorf("%w: %s: correct the host in the database URL", ErrUnknownHost, dns.Name)
	}
	var untrusted *tls.CertificateVerificationError
	if errors.As(err, &untrusted) {
		return fmt.Errorf("%w: %w: correct sslrootcert, sslmode or the host in the database URL", ErrUntrusted, untrusted)
	}
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		if strings.Contains(err.Error(), "remote error: tls: ") { // crypto/tls has no type for an alert
			return fmt.Errorf("%w: %w: correct sslcert and sslkey in the database URL", ErrAuthentication, err)
		}
		return err
	}
	switch {
	case pg.Code == "28P01" || pg.Code == "28000" && at == stepConnect:
		return fmt.Errorf("%w: %s: correct the user or password in the database URL or the file that holds it, sslcert and sslkey, or pg_hba.conf", ErrAuthentication, pg.Message)
	case pg.Code == "3D000":
		return fmt.Errorf("%w: %s: correct the database URL", ErrDatabaseMissing, pg.Message)
	case pg.Code == "42501" && at == stepConnect && pg.Routine == "CheckMyDatabase": // its text may be translated
		return fmt.Errorf("%w: %s: run: GRANT CONNECT ON DATABASE %q TO %q", ErrNotPermitted, pg.Message, c.Conn.Database, c.Conn.User)
	case pg.Code == "42501":
		return fmt.Errorf("%w: %s: run: ALTER ROLE %q REPLICATION", ErrNotPermitted, pg.Message, c.Conn.User)
	case pg.Code == "55006":
		return fmt.Errorf("%w: %s", ErrSlotBusy, pg.Message)
	case pg.Code == "55000" && at == stepCreate:
		return fmt.Errorf("%w: %s: set wal_level = logical and restart Postgres", ErrWALLevel, pg.Message)
	case pg.Code == "42704" && at == stepStart, pg.Code == "55000" && (at == stepStart || at == stepStream):
		return fmt.Errorf("%w: %s", ErrSlotLost, pg.Message)
	case pg.Code == "42704" && at == stepStream:
		return fmt.Errorf("%w: %s: run: ffstream migrate", ErrPublicationMissing, pg.Message)
	}
	return err
}
