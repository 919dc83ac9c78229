package e2e

import (
	"context"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ffstream/ffstream/internal/testenv"
	"github.com/ffstream/ffstream/migrations"
)

// guardedPostgres is a server that takes nobody but its superuser without TLS: roles
// of the group passwords have to give one, those of certificates a certificate.
type guardedPostgres struct {
	*testenv.Postgres
	ca *authority
}

const guardedHBA = "hostssl all +passwords all scram-sha-256\nhostssl all +certificates all cert clientcert=verify-full\nhost all +passwords all reject\nhost all +certificates all reject\n"

func startGuarded(t testing.TB) *guardedPostgres {
	t.Helper()
	g := &guardedPostgres{ca: newAuthority(t)}
	server := g.ca.server()
	var err error
	g.Postgres, err = testenv.StartPostgres(context.Background(), testenv.PostgresConfig{
		Settings: map[string]string{"ssl": "on", "ssl_ca_file": "'ca.crt'", "max_connections": "40", "shared_buffers": "32MB"},
		HBA:      guardedHBA,
		Files: map[string][]byte{
			"server.crt": []byte(readFile(t, server.cert)), "server.key": []byte(readFile(t, server.key)), "ca.crt": []byte(readFile(t, g.ca.file)),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	database := g.URL("postgres")
	if err := migrations.EngineSchema(context.Background(), database, migrations.EngineNewest); err != nil {
		t.Fatal(err)
	}
	if p := start(t, map[string]string{"FFSTREAM_DATABASE_URL": database}, "migrate"); p.code() != 0 {
		t.Fatal(p.output())
	}
	g.world(t, "setup").exec("CREATE ROLE passwords; CREATE ROLE certificates; GRANT SELECT ON ff_exec_core, ff_attempt TO passwords, certificates")
	return g
}

// world is a world on this server: a slot and a stream of its own, and the database
// that all share.
func (g *guardedPostgres) world(t testing.TB, name string) *world {
	t.Helper()
	w := newWorld(t, 0)
	pool, err := pgxpool.New(context.Background(), g.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	w.db = &testenv.Database{Name: "postgres", URL: g.URL("postgres"), Pool: pool}
	w.slot = "slot_" + name
	return w
}

// role makes a role that may replicate, and the URL that names it and options.
func (g *guardedPostgres) role(w *world, name, group, options string) string {
	w.t.Helper()
	w.exec(fmt.Sprintf("CREATE ROLE %s LOGIN REPLICATION PASSWORD '%s' IN ROLE %s", name, rightSecret, group))
	u := url.URL{Scheme: "postgres", User: url.User(name), Host: fmt.Sprintf("127.0.0.1:%d", g.Port), Path: "/postgres", RawQuery: options}
	return u.String()
}

type env = map[string]string // of a program

// TestPostgresAuthentication: under each method events arrive, and a secret of
// somebody else ends the service and says what to correct.
func TestPostgresAuthentication(t *testing.T) {
	t.Parallel()
	g := startGuarded(t)
	other, dir := newAuthority(t), t.TempDir()
	right, wrong := writeFile(t, dir, "right", rightSecret+"\n"), writeFile(t, dir, "wrong", wrongSecret+"\n")
	full := "sslmode=verify-full&sslrootcert=" + url.QueryEscape(g.ca.file)
	denied := []string{"authentication failed", "correct the user or password"}
	withPassword := func(base, password string) env {
		return env{"FFSTREAM_DATABASE_URL": strings.Replace(base, "@", ":"+password+"@", 1)}
	}
	passfile := func(name, password string) env {
		return env{"PGPASSFILE": writeFile(t, dir, name, fmt.Sprintf("127.0.0.1:%d:postgres:in_passfile:%s\n", g.Port, password))}
	}
	client, stranger, somebody := g.ca.client("by_certificate"), other.client("by_certificate"), g.ca.client("somebody")
	certificate := func(base string, p pair) env {
		return env{"FFSTREAM_DATABASE_URL": base + "&sslcert=" + url.QueryEscape(p.cert) + "&sslkey=" + url.QueryEscape(p.key)}
	}
	for _, c := range []struct {
		role, group string
		right       func(base string) env
		wrong       func(base string) env
		says        []string
	}{
		{"in_url", "passwords", func(b string) env { return withPassword(b, rightSecret) }, func(b string) env { return withPassword(b, wrongSecret) }, denied},
		{"in_passfile", "passwords", func(string) env { return passfile("pgpass", rightSecret) }, func(string) env { return passfile("wrongpass", wrongSecret) }, denied},
		{"in_file", "passwords", func(string) env { return env{"FFSTREAM_DATABASE_PASSWORD_FILE": right} },
			func(string) env { return env{"FFSTREAM_DATABASE_PASSWORD_FILE": wrong} }, denied},
		{"without_tls", "passwords", func(b string) env { return withPassword(b, rightSecret) },
			func(b string) env { return withPassword(strings.Replace(b, "verify-full", "disable", 1), rightSecret) }, []string{"authentication failed", "pg_hba.conf"}},
		{"wrong_authority", "passwords", func(b string) env { return withPassword(b, rightSecret) },
			func(b string) env {
				return withPassword(strings.Replace(b, url.QueryEscape(g.ca.file), url.QueryEscape(other.file), 1), rightSecret)
			}, []string{"server is not trusted", "unknown authority", "sslrootcert"}},
		{"by_certificate", "certificates", func(b string) env { return certificate(b, client) }, func(b string) env { return certificate(b, somebody) }, []string{"authentication failed", "sslcert"}},
		{"foreign_certificate", "certificates", func(b string) env { return certificate(b, g.ca.client("foreign_certificate")) },
			func(b string) env { return certificate(b, stranger) }, []string{"authentication failed", "remote error: tls: ", "sslcert"}},
		{"no_certificate", "certificates", func(b string) env { return certificate(b, g.ca.client("no_certificate")) },
			func(b string) env { return env{"FFSTREAM_DATABASE_URL": b} }, []string{"authentication failed", "sslcert"}},
	} {
		t.Run(c.role, func(t *testing.T) {
			w := g.world(t, c.role)
			base := g.role(w, c.role, c.group, full)
			secrets := []string{rightSecret, wrongSecret, readFile(t, client.key), readFile(t, stranger.key)}
			plain := env{"FFSTREAM_DATABASE_URL": base}
			refused(t, start(t, w.with(plain, c.wrong(base)), "run"), 1, c.says, secrets)
			p := start(t, w.with(plain, c.right(base)), "run")
			w.awaitActive(p)
			w.passes(p)
			p.stop()
			silent(t, p, secrets...)
			for with, code := range map[string]int{"right": 0, "wrong": 1} {
				more := map[string]env{"right": c.right(base), "wrong": c.wrong(base)}[with]
				p := start(t, w.with(plain, more), "doctor")
				if p.code() != code {
					t.Errorf("doctor with what is %s ends with %d: %s", with, p.code(), p.output())
				}
				silent(t, p, secrets...)
			}
			dropSlot(w)
		})
	}
}

// TestPostgresRotation: the next connection has the new password, and the new
// certificate, whichever file they are in.
func TestPostgresRotation(t *testing.T) {
	t.Parallel()
	g := startGuarded(t)
	dir := t.TempDir()
	full := "sslmode=verify-full&sslrootcert=" + url.QueryEscape(g.ca.file)
	cert, key := filepath.Join(dir, "cert"), filepath.Join(dir, "key")
	for _, c := range []struct {
		role, group, options string
		env                  env
		install              func(secret string)
	}{
		{"file", "passwords", "", env{"FFSTREAM_DATABASE_PASSWORD_FILE": filepath.Join(dir, "password")}, func(s string) { writeFile(t, dir, "password", s) }},
		{"passfile", "passwords", "", env{"PGPASSFILE": filepath.Join(dir, "pgpass")}, func(s string) { writeFile(t, dir, "pgpass", "*:*:*:*:"+s+"\n") }},
		{"certificate", "certificates", "&sslcert=" + url.QueryEscape(cert) + "&sslkey=" + url.QueryEscape(key), nil, func(s string) {
			p := g.ca.client("certificate")
			if s == rightSecret { // that of another role does until the rotation, by name
				p = g.ca.client("certificate_old")
			}
			writeFile(t, dir, "cert", readFile(t, p.cert))
			writeFile(t, dir, "key", readFile(t, p.key))
		}},
	} {
		t.Run(c.role, func(t *testing.T) {
			w := g.world(t, c.role)
			name := c.role
			if c.group == "certificates" {
				name += "_old"
			}
			base := g.role(w, name, c.group, full+c.options)
			c.install(rightSecret)
			p := start(t, w.with(env{"FFSTREAM_DATABASE_URL": base}, c.env), "run")
			w.awaitActive(p)
			w.passes(p)
			if c.group == "certificates" {
				c.install(newSecret)
				w.exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1", name)
				await(t, "the other certificate to be used", func() (bool, string) {
					return strings.Contains(p.output(), "certificate authentication failed"), p.output()
				})
				c.install(rightSecret)
				w.passes(p)
			} else {
				w.exec("ALTER ROLE " + name + " PASSWORD '" + newSecret + "'")
				c.install(newSecret)
				w.exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1", name)
				w.passes(p)
			}
			p.stop()
			silent(t, p, rightSecret, newSecret)
			dropSlot(w)
		})
	}
}
