package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// config parses the URL. Each connection that is made with what it returns reads
// the secrets again, so that they can be rotated: the password's file, PGPASSFILE
// and the client's certificate.
func (f *databaseFlags) config() (*pgconn.Config, error) {
	if f.DatabaseURL == "" {
		return nil, usagef("--database-url (FFSTREAM_DATABASE_URL) is required: a libpq URL, such as postgres://user@host/database")
	}
	if f.DatabasePasswordFile != "" && hasPassword(f.DatabaseURL) {
		return nil, usagef("--database-password-file and the password in --database-url: want one of them")
	}
	cfg, err := f.read()
	if err != nil {
		return nil, usageError{err}
	}
	cfg.AfterNetConnect = func(_ context.Context, cfg *pgconn.Config, conn net.Conn) (net.Conn, error) {
		now, err := f.read()
		if err != nil {
			return conn, err
		}
		cfg.Password = now.Password
		return conn, nil
	}
	listenToPostgres(cfg)
	f.renew(cfg.TLSConfig)
	for _, b := range cfg.Fallbacks {
		f.renew(b.TLSConfig)
	}
	return cfg, nil
}

// renew makes each handshake read the client's certificate, if there is one.
func (f *databaseFlags) renew(cfg *tls.Config) {
	if cfg == nil || len(cfg.Certificates) == 0 {
		return
	}
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		now, err := f.read()
		if err != nil {
			return nil, err
		}
		if now.TLSConfig == nil || len(now.TLSConfig.Certificates) == 0 {
			return &tls.Certificate{}, nil
		}
		return &now.TLSConfig.Certificates[0], nil
	}
}

// read parses the URL and reads the files that it and the flags name. pgconn quotes
// the URL in its errors with the password hidden, and hides nothing when it cannot
// tell which part that is, so of its words only those on files are passed on.
func (f *databaseFlags) read() (*pgconn.Config, error) {
	cfg, err := pgconn.ParseConfig(f.DatabaseURL)
	if err != nil {
		inner := errors.Unwrap(err)
		var parse *url.Error
		if errors.As(err, &parse) {
			inner = parse.Err
		} else if inner == nil || !strings.Contains(err.Error(), "failed to configure TLS (") {
			inner = errors.New("it is no libpq URL or keyword/value string")
		}
		return nil, fmt.Errorf("parse --database-url: %w: want postgres://user:password@host:port/database?options", inner)
	}
	if f.DatabasePasswordFile == "" {
		return cfg, nil
	}
	if cfg.Password, err = readSecret(f.DatabasePasswordFile); err != nil {
		return nil, fmt.Errorf("read --database-password-file: %w", err)
	}
	return cfg, nil
}

var passwordKey = regexp.MustCompile(`(^|\s)password\s*=`)

// hasPassword reports whether a URL or keyword/value string holds a password.
func hasPassword(text string) bool {
	if !strings.Contains(text, "://") {
		return passwordKey.MatchString(text)
	}
	u, err := url.Parse(text)
	if err != nil {
		return false
	}
	_, set := u.User.Password()
	return set || u.Query().Has("password")
}
