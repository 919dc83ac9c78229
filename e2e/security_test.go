package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/ffstream/ffstream/internal/testenv"
	"github.com/ffstream/ffstream/internal/testenv/engine"
	"github.com/ffstream/ffstream/migrations"
)

// method is a way to authenticate: what the server demands, what satisfies it and
// what does not.
type method struct {
	name         string
	conf         string // of the NATS server
	client       []nats.Option
	right, wrong map[string]string // environment; wrong is added to right
	says         []string          // of wrong
	secrets      []string          // what no output may hold
}

const (
	rightSecret = "s3cret-of-the-service"
	wrongSecret = "s3cret-of-somebody-else"
	newSecret   = "s3cret-of-the-next-month"
)

func natsMethods(t testing.TB) []method {
	ca, other := newAuthority(t), newAuthority(t)
	server, client, stranger := ca.server(), ca.client("ffstream"), other.client("ffstream")
	dir := t.TempDir()
	right, wrong := writeFile(t, dir, "right", rightSecret+"\n"), writeFile(t, dir, "wrong", wrongSecret+"\n")
	texts := []string{rightSecret, wrongSecret}
	tls := fmt.Sprintf("tls { cert_file: %q, key_file: %q, ca_file: %q, ", server.cert, server.key, ca.file)
	password := method{
		name: "user and password", conf: fmt.Sprintf("authorization { user: svc, password: %q }", rightSecret),
		client: []nats.Option{nats.UserInfo("svc", rightSecret)},
		right:  map[string]string{"FFSTREAM_NATS_USER": "svc", "FFSTREAM_NATS_PASSWORD_FILE": right},
		wrong:  map[string]string{"FFSTREAM_NATS_PASSWORD_FILE": wrong},
		says:   []string{"NATS authentication failed", "--nats-user"}, secrets: texts,
	}
	methods := []method{password, {
		name: "TLS", conf: tls + "}", client: []nats.Option{nats.RootCAs(ca.file)},
		right: map[string]string{"FFSTREAM_NATS_CA_FILE": ca.file}, wrong: map[string]string{"FFSTREAM_NATS_CA_FILE": other.file},
		says: []string{"NATS server is not trusted", "unknown authority", "--nats-ca-file"},
	}, {
		name: "client certificate", conf: tls + "verify: true }", client: []nats.Option{nats.RootCAs(ca.file), nats.ClientCert(client.cert, client.key)},
		right:   map[string]string{"FFSTREAM_NATS_CA_FILE": ca.file, "FFSTREAM_NATS_CERT_FILE": client.cert, "FFSTREAM_NATS_KEY_FILE": client.key},
		wrong:   map[string]string{"FFSTREAM_NATS_CERT_FILE": stranger.cert, "FFSTREAM_NATS_KEY_FILE": stranger.key},
		says:    []string{"NATS authentication failed", "remote error: tls: ", "--nats-cert-file"},
		secrets: []string{readFile(t, client.key), readFile(t, stranger.key)},
	}, {
		name: "token", conf: fmt.Sprintf("authorization { token: %q }", rightSecret), client: []nats.Option{nats.Token(rightSecret)},
		right: map[string]string{"FFSTREAM_NATS_TOKEN_FILE": right}, wrong: map[string]string{"FFSTREAM_NATS_TOKEN_FILE": wrong},
		says: []string{"NATS authentication failed", "--nats-token-file"}, secrets: texts,
	}}
	return append(methods, nkeyMethod(t, dir), credsMethod(t, dir))
}

// newKey makes a key pair and gives its public key and seed.
func newKey(t testing.TB, prefix nkeys.PrefixByte) (kp nkeys.KeyPair, public, seed string) {
	t.Helper()
	kp, err := nkeys.CreatePair(prefix)
	if err != nil {
		t.Fatal(err)
	}
	text, err := kp.Seed()
	if err != nil {
		t.Fatal(err)
	}
	if public, err = kp.PublicKey(); err != nil {
		t.Fatal(err)
	}
	return kp, public, string(text)
}

func nkeyMethod(t testing.TB, dir string) method {
	_, public, seed := newKey(t, nkeys.PrefixByteUser)
	_, _, stranger := newKey(t, nkeys.PrefixByteUser)
	right, wrong := writeFile(t, dir, "right.nk", seed+"\n"), writeFile(t, dir, "wrong.nk", stranger+"\n")
	option, err := nats.NkeyOptionFromSeed(right)
	if err != nil {
		t.Fatal(err)
	}
	return method{
		name: "NKey", conf: "authorization { users [ { nkey: " + public + " } ] }", client: []nats.Option{option},
		right: map[string]string{"FFSTREAM_NATS_NKEY_FILE": right}, wrong: map[string]string{"FFSTREAM_NATS_NKEY_FILE": wrong},
		says: []string{"NATS authentication failed", "--nats-nkey-file"}, secrets: []string{seed, stranger},
	}
}

// credsMethod is an operator with an account that may use JetStream, and a user
// whom it signed; the wrong user is signed by an account that the server knows not.
func credsMethod(t testing.TB, dir string) method {
	operator, operatorName, _ := newKey(t, nkeys.PrefixByteOperator)
	account, accountName, _ := newKey(t, nkeys.PrefixByteAccount)
	_, systemName, _ := newKey(t, nkeys.PrefixByteAccount)
	unknown, _, _ := newKey(t, nkeys.PrefixByteAccount)
	oc := jwt.NewOperatorClaims(operatorName)
	oc.SystemAccount = systemName
	ac := jwt.NewAccountClaims(accountName)
	ac.Limits.JetStreamLimits = jwt.JetStreamLimits{MemoryStorage: -1, DiskStorage: -1, Streams: -1, Consumer: -1}
	conf := fmt.Sprintf("operator: %s\nsystem_account: %s\nresolver: MEMORY\nresolver_preload: { %s: %s, %s: %s }\n", encode(t, oc, operator),
		systemName, accountName, encode(t, ac, operator), systemName, encode(t, jwt.NewAccountClaims(systemName), operator))
	right, seed := creds(t, dir, "right.creds", account)
	wrong, stranger := creds(t, dir, "wrong.creds", unknown)
	return method{
		name: "credentials", conf: conf, client: []nats.Option{nats.UserCredentials(right)},
		right: map[string]string{"FFSTREAM_NATS_CREDS_FILE": right}, wrong: map[string]string{"FFSTREAM_NATS_CREDS_FILE": wrong},
		says: []string{"NATS authentication failed", "--nats-creds-file"}, secrets: []string{seed, stranger},
	}
}

func encode(t testing.TB, c jwt.Claims, by nkeys.KeyPair) string {
	t.Helper()
	text, err := c.Encode(by)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// creds writes the credentials of a new user of an account, and gives the seed too.
func creds(t testing.TB, dir, name string, account nkeys.KeyPair) (path, seed string) {
	t.Helper()
	_, public, seed := newKey(t, nkeys.PrefixByteUser)
	text, err := jwt.FormatUserConfig(encode(t, jwt.NewUserClaims(public), account), []byte(seed))
	if err != nil {
		t.Fatal(err)
	}
	return writeFile(t, dir, name, string(text)), seed
}

// guarded gives the world a NATS server of its own with a configuration, whose file
// it returns.
func (w *world) guarded(conf string, client ...nats.Option) (*testenv.NATS, string) {
	w.t.Helper()
	file := writeFile(w.t, w.t.TempDir(), "nats.conf", conf)
	server := testenv.NewNATS(w.t, testenv.NATSConfig{File: file})
	w.nats = server.URL()
	w.connectAs(client...)
	return server, file
}

// connectAs connects the test to the world's NATS server.
func (w *world) connectAs(client ...nats.Option) {
	w.t.Helper()
	w.js = testenv.JetStream(w.t, testenv.Connect(w.t, w.nats, append(client, nats.MaxReconnects(-1))...))
}

// passes plays one execution and waits until its events are in the stream.
func (w *world) passes(p *process) {
	w.t.Helper()
	before := w.messages()
	w.play(&engine.Engine{Version: engine.Newest}, &engine.StoriesOf(engine.Newest)[0], engine.Exec{Partition: 1, ID: uuid.New()})
	await(w.t, "events to arrive", func() (bool, string) { return w.messages() > before, p.output() })
}

// messages is how many messages the stream holds; 0 when it is not there.
func (w *world) messages() uint64 {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	stream, err := w.js.Stream(ctx, w.stream)
	if err != nil {
		return 0
	}
	return stream.CachedInfo().State.Msgs
}

// with is the world's environment with more.
func (w *world) with(more ...map[string]string) map[string]string {
	env := w.env()
	for _, m := range more {
		maps.Copy(env, m)
	}
	return env
}

// silent checks that a program's output holds no secret, in no line of it.
func silent(t testing.TB, p *process, secrets ...string) {
	t.Helper()
	for _, s := range secrets {
		for line := range strings.Lines(s) {
			if line = strings.TrimSpace(line); len(line) > 6 && !strings.HasPrefix(line, "-----") && strings.Contains(p.output(), line) {
				t.Errorf("the output shows a secret: %s", p.output())
			}
		}
	}
}

// refused checks that the program ends and says so, without a secret.
func refused(t testing.TB, p *process, code int, says, secrets []string) {
	t.Helper()
	if got := p.code(); got != code {
		t.Errorf("exit code %d, want %d", got, code)
	}
	lines := strings.Split(strings.TrimSpace(p.output()), "\n")
	for _, word := range says {
		if last := lines[len(lines)-1]; !strings.Contains(last, word) {
			t.Errorf("%q does not say %q", last, word)
		}
	}
	silent(t, p, secrets...)
}

// TestNATSAuthentication: under each method events arrive and are read back, and a
// secret of somebody else ends each command with what to do.
func TestNATSAuthentication(t *testing.T) {
	t.Parallel()
	for _, m := range natsMethods(t) {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, migrations.EngineNewest)
			w.guarded(m.conf, m.client...)
			for _, command := range [][]string{{"run"}, {"resume", "--accept-gap"}, {"tail", "--follow=false"}} {
				p, _ := asks(t, w.with(m.right, m.wrong), command...)
				refused(t, p, 1, m.says, m.secrets)
			}
			p := start(t, w.with(m.right), "run")
			w.awaitActive(p)
			w.passes(p)
			p.stop()
			silent(t, p, m.secrets...)
			for _, command := range [][]string{{"resume", "--accept-gap"}, {"tail", "--follow=false"}} {
				p, code := asks(t, w.with(m.right), command...)
				if code != 0 || p.output() == "" {
					t.Errorf("%s ends with %d: %s", command, code, p.output())
				}
				silent(t, p, m.secrets...)
			}
		})
	}
}

// TestNATSRotation: a password, and the authorities and certificates of both ends,
// change while the service runs; its next connection has the new ones.
func TestNATSRotation(t *testing.T) {
	t.Parallel()
	w := newWorld(t, migrations.EngineNewest)
	dir := t.TempDir()
	configure := func(secret string, ca *authority) string {
		server := ca.server()
		return fmt.Sprintf("authorization { user: svc, password: %q }\ntls { cert_file: %q, key_file: %q, ca_file: %q, verify: true }", secret, server.cert, server.key, ca.file)
	}
	env := map[string]string{"FFSTREAM_NATS_USER": "svc"}
	install := func(secret string, ca *authority) {
		client := ca.client("ffstream")
		env["FFSTREAM_NATS_PASSWORD_FILE"] = writeFile(t, dir, "password", secret)
		env["FFSTREAM_NATS_CA_FILE"] = writeFile(t, dir, "ca", readFile(t, ca.file))
		env["FFSTREAM_NATS_CERT_FILE"] = writeFile(t, dir, "cert", readFile(t, client.cert))
		env["FFSTREAM_NATS_KEY_FILE"] = writeFile(t, dir, "key", readFile(t, client.key))
	}
	old, next := newAuthority(t), newAuthority(t)
	install(rightSecret, old)
	options := []nats.Option{
		nats.UserInfoHandler(func() (string, string) { return "svc", readFile(t, env["FFSTREAM_NATS_PASSWORD_FILE"]) }),
		nats.RootCAs(env["FFSTREAM_NATS_CA_FILE"]), nats.ClientCert(env["FFSTREAM_NATS_CERT_FILE"], env["FFSTREAM_NATS_KEY_FILE"]), nats.IgnoreAuthErrorAbort(),
	}
	server, file := w.guarded(configure(rightSecret, old), options...)
	p := start(t, w.with(env), "run")
	w.awaitActive(p)
	w.passes(p)
	server.Stop()
	install(newSecret, next)
	writeFile(t, filepath.Dir(file), filepath.Base(file), configure(newSecret, next))
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	w.passes(p)
	p.stop()
	silent(t, p, rightSecret, newSecret)
}

// TestEmbeddedAuthentication: an embedded server that other machines reach is
// refused unless it asks who they are, and then it does ask.
func TestEmbeddedAuthentication(t *testing.T) {
	t.Parallel()
	w := newWorld(t, migrations.EngineNewest)
	dir := t.TempDir()
	everywhere := map[string]string{"FFSTREAM_NATS_URL": "", "FFSTREAM_NATS_EMBEDDED_HOST": "0.0.0.0", "FFSTREAM_NATS_EMBEDDED_PORT": "0", "FFSTREAM_NATS_EMBEDDED_DIR": dir}
	refused(t, start(t, w.with(everywhere), "run"), 2, []string{`--nats-embedded-host "0.0.0.0"`, "--nats-token-file", "127.0.0.1"}, nil)
	creds := map[string]string{"FFSTREAM_NATS_CA_FILE": newAuthority(t).file}
	refused(t, start(t, w.with(everywhere, creds), "run"), 2, []string{"--nats-ca-file", "need --nats-url"}, nil)
	for _, m := range natsMethods(t) {
		if m.right["FFSTREAM_NATS_CA_FILE"] != "" || m.name == "credentials" {
			continue
		}
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, migrations.EngineNewest)
			p := start(t, w.with(everywhere, map[string]string{"FFSTREAM_NATS_EMBEDDED_DIR": t.TempDir()}, m.right), "run")
			w.awaitActive(p)
			found := embeddedAddress.FindStringSubmatch(p.output())
			if found == nil {
				t.Fatalf("no address in %s", p.output())
			}
			w.nats = "nats://127.0.0.1:" + found[1]
			if nc, err := nats.Connect(w.nats, nats.Timeout(patience)); !errors.Is(err, nats.ErrAuthorization) {
				nc.Close()
				t.Errorf("somebody without a name connects: %v", err)
			}
			w.connectAs(m.client...)
			w.passes(p)
			p.stop()
			silent(t, p, m.secrets...)
		})
	}
}

var embeddedAddress = regexp.MustCompile(`"url":"nats://[^"]*:([0-9]+)"`)

// TestContradictions: flags that contradict each other, and files that do not serve,
// are refused before anything is connected to.
func TestContradictions(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	some, empty := writeFile(t, dir, "some", rightSecret), writeFile(t, dir, "empty", "\n")
	missing := filepath.Join(dir, "missing")
	nowhere := "--nats-url=nats://127.0.0.1:1"
	database := "--database-url=postgres://ffstream@127.0.0.1:1/db"
	for _, c := range []struct {
		args []string
		says []string
	}{
		{[]string{"--nats-user=a"}, []string{"--nats-user needs --nats-password-file"}},
		{[]string{"--nats-password-file=" + some}, []string{"--nats-password-file needs --nats-user"}},
		{[]string{"--nats-cert-file=" + some}, []string{"--nats-cert-file and --nats-key-file"}},
		{[]string{"--nats-key-file=" + some}, []string{"--nats-cert-file and --nats-key-file"}},
		{[]string{"--nats-token-file=" + some, "--nats-creds-file=" + some}, []string{"--nats-token-file and --nats-creds-file"}},
		{[]string{"--nats-user=a", "--nats-password-file=" + some, "--nats-nkey-file=" + some}, []string{"--nats-user and --nats-nkey-file"}},
		{[]string{"--nats-url=nats://a:" + rightSecret + "@127.0.0.1:1", "--nats-token-file=" + some}, []string{"--nats-token-file and the user in --nats-url"}},
		{[]string{"--nats-token-file=" + missing}, []string{"--nats-token-file", missing, "no such file"}},
		{[]string{"--nats-token-file=" + empty}, []string{"--nats-token-file", empty, "is empty"}},
		{[]string{"--nats-nkey-file=" + missing}, []string{"--nats-nkey-file", missing, "no such file"}},
		{[]string{"--nats-nkey-file=" + some}, []string{"--nats-nkey-file", "begins with SU"}},
		{[]string{"--nats-creds-file=" + missing}, []string{"--nats-creds-file", missing, "no such file"}},
		{[]string{"--nats-creds-file=" + some}, []string{"--nats-creds-file", some, "JWT and seed"}},
		{[]string{"--nats-ca-file=" + missing}, []string{"--nats-ca-file", missing, "no such file"}},
		{[]string{"--nats-ca-file=" + some}, []string{"--nats-ca-file", some}},
		{[]string{"--nats-cert-file=" + missing, "--nats-key-file=" + some}, []string{"--nats-cert-file", missing}},
		{[]string{"--database-password-file=" + missing}, []string{"--database-password-file", missing, "no such file"}},
		{[]string{"--database-password-file=" + some, "--database-url=postgres://a:" + rightSecret + "@127.0.0.1:1/db"}, []string{"--database-password-file and the password in --database-url"}},
		{[]string{"--database-password-file=" + some, "--database-url=host=127.0.0.1 password=" + rightSecret}, []string{"--database-password-file and the password in --database-url"}},
		{[]string{"--database-url=postgres://a:" + rightSecret + "@127.0.0.1:1/db?sslmode=verify-full&sslrootcert=" + missing}, []string{"--database-url", missing, "no such file"}},
	} {
		p := start(t, nil, append([]string{"run", nowhere, database}, c.args...)...)
		refused(t, p, 2, c.says, []string{rightSecret})
		oneError(t, p)
	}
}
