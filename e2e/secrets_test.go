package e2e

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/ffstream/ffstream/migrations"
)

// Secrets that no output may hold, each in a place of its own. None needs quoting
// in a URL, a file or YAML.
const (
	urlSecret   = "s3cretOfTheDatabaseURL"
	fileSecret  = "s3cretOfThePasswordFile"
	natsSecret  = "s3cretOfTheNatsURL"
	tokenSecret = "s3cretOfTheTokenFile"
)

var allSecrets = []string{urlSecret, fileSecret, natsSecret, tokenSecret}

// withLogin is a URL with a user and a password.
func withLogin(t testing.TB, text, user, password string) string {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(user, password)
	return u.String()
}

// discreet holds a text against all secrets, whole and in part, as they would be cut
// or quoted.
func discreet(t testing.TB, text string) {
	t.Helper()
	for _, secret := range allSecrets {
		for line := range strings.Lines(text) {
			if strings.Contains(line, secret[:10]) && strings.Contains(line, secret[6:]) {
				t.Errorf("%s is shown: %s", secret, line)
			}
		}
	}
}

// lacking are arguments without those that begin so.
func lacking(args []string, prefix string) []string {
	return slices.DeleteFunc(slices.Clone(args), func(a string) bool { return strings.HasPrefix(a, prefix) })
}

// TestSecretsService: a service at work, through the loss of both servers, shows no
// secret in its output at any level, in any format, or over HTTP.
func TestSecretsService(t *testing.T) {
	t.Parallel()
	for _, format := range []string{"json", "text"} {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, migrations.EngineNewest)
			server, _ := w.guarded(fmt.Sprintf("authorization { user: svc, password: %q }", natsSecret), nats.UserInfo("svc", natsSecret))
			source, err := url.Parse(w.db.URL)
			if err != nil {
				t.Fatal(err)
			}
			// On the command line, where this user's other processes see them anyway.
			p := start(t, w.env(), "run", "--database-url="+withLogin(t, w.db.URL, source.User.Username(), urlSecret), "--nats-url="+withLogin(t, w.nats, "svc", natsSecret),
				"--log-level=debug", "--log-format="+format, "--http-pprof", "--heartbeat=100ms")
			await(t, "the service to stream", func() (bool, string) { return strings.Contains(p.output(), "streaming"), p.output() })
			w.passes(p)
			pages := func() (all string) {
				for _, path := range []string{"/status", "/metrics", "/healthz", "/readyz", "/debug/pprof/", "/debug/pprof/cmdline", "/debug/pprof/goroutine?debug=2", "/nowhere"} {
					_, body := p.get(path)
					all += body
				}
				return all
			}
			said := pages()
			w.exec("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1 AND active", w.slot)
			server.Stop()
			await(t, "the loss to be told", func() (bool, string) { return strings.Contains(p.output(), "NATS connection lost"), p.output() })
			said += pages()
			if err := server.Start(); err != nil {
				t.Fatal(err)
			}
			w.passes(p)
			p.stop()
			discreet(t, said+p.output())
			if isJSON := strings.HasPrefix(p.output(), "{"); isJSON != (format == "json") {
				t.Errorf("--log-format=%s gives %s", format, p.output())
			}
		})
	}
}

// TestSecretsCommands: no command, whatever it fails of, shows a secret.
func TestSecretsCommands(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	password, token := writeFile(t, dir, "password", fileSecret), writeFile(t, dir, "token", tokenSecret)
	yaml := func(name, text string) []string { return []string{"--config=" + writeFile(t, dir, name, text)} }
	const id = "{fp:86}:0190f5c2-8f4e-7cc0-9d3a-2f1d6a4b8e11"
	commands := [][]string{{"run"}, {"resume", "--accept-gap"}, {"migrate"}, {"migrate", "--dry-run"}, {"migrate", "--engine-schema"}, {"doctor"}, {"doctor", "--json"},
		{"tail", "--follow=false"}, {"read", "state", id}, {"read", "info", id}, {"read", "result", id}, {"read", "attempts", id}}
	db := "postgres://svc:" + urlSecret + "@"
	for name, given := range map[string][]string{
		"nothing answers":      {"--database-url=" + db + "127.0.0.1:1/db", "--nats-url=nats://svc:" + natsSecret + "@127.0.0.1:1"},
		"no such host":         {"--database-url=" + db + "nowhere.invalid/db", "--nats-url=nats://svc:" + natsSecret + "@nowhere.invalid"},
		"port":                 {"--database-url=" + db + "h:port/db", "--nats-url=nats://svc:" + natsSecret + "@h:port"},
		"escape":               {"--database-url=postgres://svc:%zz" + urlSecret + "@h/db", "--nats-url=nats://svc:%zz" + natsSecret + "@h"},
		"scheme":               {"--database-url=pg://svc:" + urlSecret + "@h/db", "--nats-url=http://svc:" + natsSecret + "@h"},
		"keywords":             {"--database-url=host=127.0.0.1 port=x password=" + urlSecret, "--nats-url=svc:" + natsSecret + "@h"},
		"quotes":               {"--database-url=password='" + urlSecret, "--nats-url=nats://" + natsSecret + "@127.0.0.1:1"},
		"option":               {"--database-url=" + db + "127.0.0.1:1/db?sslmode=sometimes&password=" + urlSecret, "--nats-url=nats://svc:" + natsSecret + "@127.0.0.1:1"},
		"two":                  {"--database-url=" + db + "127.0.0.1:1/db", "--database-password-file=" + password},
		"files":                {"--database-url=postgres://svc@127.0.0.1:1/db", "--database-password-file=" + password, "--nats-url=nats://127.0.0.1:1", "--nats-token-file=" + token},
		"wrong files":          {"--database-url=postgres://svc@127.0.0.1:1/db?sslmode=verify-full&sslrootcert=" + password, "--nats-url=nats://127.0.0.1:1", "--nats-nkey-file=" + token},
		"credentials":          {"--database-url=" + db + "127.0.0.1:1/db", "--nats-url=nats://127.0.0.1:1", "--nats-creds-file=" + token, "--nats-ca-file=" + password},
		"YAML":                 yaml("a", "database-url: "+db+"127.0.0.1:1/db\nnats-url: nats://svc:"+natsSecret+"@127.0.0.1:1\n"),
		"YAML of another type": yaml("b", "database-url:\n  "+urlSecret+": "+natsSecret+"\n"),
		"YAML that is none":    yaml("c", "database-url: \"postgres://svc:"+urlSecret+"@h\nnats-url: ["+natsSecret+"\n"),
		"YAML of one text":     yaml("d", db+"h/db\n"),
		"YAML of a tab":        yaml("e", "database-url:\t"+db+"h/db\n\t"+natsSecret+": 1\n"),
		"YAML of a list":       yaml("f", "- "+urlSecret+"\n- "+natsSecret+"\n"),
		"YAML without a blank": yaml("g", "database-url:"+db+"h/db\n"),
		"unknown flag":         {"--database-uri=" + db + "h/db"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env := env{"FFSTREAM_HTTP_ADDR": "off"}
			for _, command := range commands {
				flags := given
				if command[0] == "migrate" || command[0] == "read" {
					flags = lacking(given, "--nats-")
				}
				if command[0] == "tail" {
					flags = lacking(given, "--database-")
				}
				p := start(t, env, append(append([]string{}, command...), append(flags, "--log-level=debug")...)...)
				if command[0] == "run" { // which waits for what may come
					await(t, "run to end or to say why not", func() (bool, string) {
						select {
						case <-p.done:
							return true, ""
						default:
							return strings.Contains(p.output(), `"level":"WARN"`), p.output()
						}
					})
					p.kill()
				} else if p.code() == 0 {
					t.Errorf("%s does not fail: %s", command, p.output())
				}
				discreet(t, p.output())
			}
		})
	}
}
