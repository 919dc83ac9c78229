package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/ffstream/ffstream/internal/publish"
)

// natsAuth says who the program is to NATS, and whom it trusts. A secret is in a
// file, never on the command line or in the environment, where others read it.
type natsAuth struct {
	NATSUser         string `name:"nats-user" help:"User; with --nats-password-file." env:"FFSTREAM_NATS_USER" placeholder:"NAME"`
	NATSPasswordFile string `name:"nats-password-file" help:"File with the user's password; read again at each reconnect." env:"FFSTREAM_NATS_PASSWORD_FILE" placeholder:"FILE"`
	NATSTokenFile    string `name:"nats-token-file" help:"File with a token; read again at each reconnect." env:"FFSTREAM_NATS_TOKEN_FILE" placeholder:"FILE"`
	NATSNKeyFile     string `name:"nats-nkey-file" help:"File with the seed of a user's NKey." env:"FFSTREAM_NATS_NKEY_FILE" placeholder:"FILE"`
	NATSCredsFile    string `name:"nats-creds-file" help:"Credentials file (JWT and seed); read again at each reconnect." env:"FFSTREAM_NATS_CREDS_FILE" placeholder:"FILE"`
	NATSCAFile       string `name:"nats-ca-file" help:"PEM file with the authorities that may have signed the server's certificate; TLS is then required. Read again at each reconnect." env:"FFSTREAM_NATS_CA_FILE" placeholder:"FILE"`
	NATSCertFile     string `name:"nats-cert-file" help:"PEM file with the client's certificate; with --nats-key-file. Read again at each reconnect." env:"FFSTREAM_NATS_CERT_FILE" placeholder:"FILE"`
	NATSKeyFile      string `name:"nats-key-file" help:"PEM file with the key of the client's certificate." env:"FFSTREAM_NATS_KEY_FILE" placeholder:"FILE"`
}

// check refuses flags that contradict each other or servers, a list of URLs, and
// files that do not hold what they should.
func (a *natsAuth) check(servers string) error {
	if a.NATSUser != "" && a.NATSPasswordFile == "" {
		return usagef("--nats-user needs --nats-password-file, a file with the user's password")
	}
	if a.NATSUser == "" && a.NATSPasswordFile != "" {
		return usagef("--nats-password-file needs --nats-user: whose password is it?")
	}
	if (a.NATSCertFile == "") != (a.NATSKeyFile == "") {
		return usagef("--nats-cert-file and --nats-key-file: want both or neither: a certificate proves nothing without its key")
	}
	ways := a.ways()
	if hasUser(servers) {
		ways = append(ways, "the user in --nats-url")
	}
	if len(ways) > 1 {
		return usagef("%s and %s: want one way to authenticate", ways[0], ways[1])
	}
	options, err := a.options(slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	scratch := nats.GetDefaultOptions()
	for _, o := range options { // the certificates' options read their files here
		if err := o(&scratch); err != nil {
			return usagef("read the files of --nats-ca-file, --nats-cert-file, --nats-key-file or --nats-creds-file: %w", err)
		}
	}
	return nil
}

// ways lists the flags that authenticate by a secret. A client certificate goes
// with any of them.
func (a *natsAuth) ways() []string {
	var set []string
	for _, w := range []struct{ flag, value string }{
		{"--nats-user", a.NATSUser}, {"--nats-token-file", a.NATSTokenFile},
		{"--nats-nkey-file", a.NATSNKeyFile}, {"--nats-creds-file", a.NATSCredsFile},
	} {
		if w.value != "" {
			set = append(set, w.flag)
		}
	}
	return set
}

func hasUser(servers string) bool {
	for one := range strings.SplitSeq(servers, ",") {
		if u, err := url.Parse(strings.TrimSpace(one)); err == nil && u.User != nil {
			return true
		}
	}
	return false
}

const natsDialTimeout = 5 * time.Second

// options is how a connection authenticates. Secrets that change are found by the
// next reconnect; one that cannot be read then is the last one that could.
func (a *natsAuth) options(log *slog.Logger) ([]nats.Option, error) {
	options := []nats.Option{nats.SetCustomDialer(natsDialer{natsDialTimeout})}
	switch {
	case a.NATSUser != "":
		password, err := newSecret("--nats-password-file", a.NATSPasswordFile, log)
		if err != nil {
			return nil, err
		}
		options = append(options, nats.UserInfoHandler(func() (string, string) { return a.NATSUser, password.value() }))
	case a.NATSTokenFile != "":
		token, err := newSecret("--nats-token-file", a.NATSTokenFile, log)
		if err != nil {
			return nil, err
		}
		options = append(options, nats.TokenHandler(token.value))
	case a.NATSNKeyFile != "":
		option, err := nats.NkeyOptionFromSeed(a.NATSNKeyFile)
		if err != nil {
			return nil, usagef("read --nats-nkey-file: %w: want a file with a user's seed, which begins with SU", err)
		}
		options = append(options, option)
	case a.NATSCredsFile != "":
		if err := checkCreds(a.NATSCredsFile); err != nil {
			return nil, err
		}
		options = append(options, nats.UserCredentials(a.NATSCredsFile))
	}
	if a.NATSCAFile != "" {
		options = append(options, nats.RootCAs(a.NATSCAFile))
	}
	if a.NATSCertFile != "" {
		options = append(options, nats.ClientCert(a.NATSCertFile, a.NATSKeyFile))
	}
	return options, nil
}

// checkCreds looks for both parts of a credentials file: nats.go takes any text
// for a JWT, and sends it.
func checkCreds(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return usagef("read --nats-creds-file: %w", err)
	}
	key, err := nkeys.ParseDecoratedUserNKey(text)
	if err != nil {
		return usagef("read --nats-creds-file: %s: %w: want a file with a user's JWT and seed, as nsc generate creds prints", path, err)
	}
	key.Wipe()
	return nil
}

// secret is a file's content without the line's end.
type secret struct {
	flag, path string
	log        *slog.Logger
	mu         sync.Mutex // guards last
	last       string
}

func newSecret(flag, path string, log *slog.Logger) (*secret, error) {
	text, err := readSecret(path)
	if err != nil {
		return nil, usagef("read %s: %w", flag, err)
	}
	return &secret{flag: flag, path: path, log: log, last: text}, nil
}

// value reads the file again.
func (s *secret) value() string {
	text, err := readSecret(s.path)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.log.Warn("read "+s.flag+": using what it held before", "error", err)
		return s.last
	}
	s.last = text
	return text
}

func readSecret(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	s := strings.TrimRight(string(text), "\r\n")
	if s == "" {
		return "", fmt.Errorf("%s: the file is empty", path)
	}
	return s, nil
}

// checkEmbedded refuses an embedded server that other machines can reach and that
// asks nobody who they are.
func (a *natsAuth) checkEmbedded(host string) error {
	switch {
	case a.NATSCredsFile != "":
		return usagef("--nats-creds-file needs --nats-url: the embedded server knows no operator who could have signed it")
	case a.NATSCAFile != "" || a.NATSCertFile != "":
		return usagef("--nats-ca-file and --nats-cert-file need --nats-url: the embedded server speaks no TLS")
	case len(a.ways()) == 0 && !isLoopback(host):
		return usagef("--nats-embedded-host %q lets other machines in, and the embedded server would ask none of them who it is: "+
			"add --nats-token-file, --nats-nkey-file, or --nats-user and --nats-password-file, or listen on 127.0.0.1", host)
	}
	return nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// guard makes the embedded server ask its clients for what this program has. The
// files are read once: the server keeps no other secret than the first.
func (a *natsAuth) guard(o *server.Options) error {
	var err error
	switch {
	case a.NATSUser != "":
		o.Username = a.NATSUser
		o.Password, err = readSecret(a.NATSPasswordFile)
	case a.NATSTokenFile != "":
		o.Authorization, err = readSecret(a.NATSTokenFile)
	case a.NATSNKeyFile != "":
		var public string
		public, err = publicKey(a.NATSNKeyFile)
		o.Nkeys = []*server.NkeyUser{{Nkey: public}}
	}
	if err != nil {
		return fmt.Errorf("start embedded NATS server: read its secret: %w", err)
	}
	return nil
}

func publicKey(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	key, err := nkeys.ParseDecoratedUserNKey(text)
	if err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	defer key.Wipe()
	return key.PublicKey()
}

// natsConn is a connection that tells what was refused.
type natsConn struct {
	*nats.Conn
	refused *refusals
}

// refusal is what the server refused since the last call, or why there is no
// connection; nil when neither is known.
func (c *natsConn) refusal() error {
	if c.IsConnected() {
		return c.refused.take()
	}
	if err := c.LastError(); err != nil && !errors.Is(err, nats.ErrPermissionViolation) {
		return err
	}
	return c.refused.last()
}

// permitted gives a context that ends when the server refuses a message for want of
// a permission: it says so beside and never answers. The function, called at the end,
// gives that refusal, also one that came last and failed nothing; nil: none came.
func (c *natsConn) permitted(ctx context.Context) (context.Context, func() error) {
	ctx, end := context.WithCancelCause(ctx)
	c.refused.watch(func(err error) { end(publish.Refused(err)) })
	return ctx, func() error {
		defer end(nil)
		return c.violation(ctx)
	}
}

// violation is what the server refused until now, nil for nothing. What it says stands
// before its answer to a ping, and is known here before the error handler is told.
func (c *natsConn) violation(ctx context.Context) error {
	if cause := context.Cause(ctx); errors.Is(cause, publish.ErrNotPermitted) {
		return cause
	}
	if !c.IsConnected() || c.FlushTimeout(natsDialTimeout) != nil {
		return nil
	}
	if err := c.LastError(); errors.Is(err, nats.ErrPermissionViolation) {
		return publish.Refused(err)
	}
	return nil
}

// refusals remembers the last refusal: nats.go forgets it before its next try.
type refusals struct {
	mu      sync.Mutex // guards err and watcher
	err     error
	watcher func(error) // is told of messages that are not permitted
}

func (r *refusals) set(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
	if r.watcher != nil && errors.Is(err, nats.ErrPermissionViolation) {
		r.watcher(err)
	}
}

func (r *refusals) watch(f func(error)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.watcher = f
}

func (r *refusals) take() error {
	err := r.last()
	r.set(nil)
	return err
}

func (r *refusals) last() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// novelties tells what a server reports for the first time on a connection. It
// reports each message that is not permitted, and each has another subject.
type novelties struct {
	mu   sync.Mutex // guards said
	said map[string]bool
}

// add reports whether err is of a kind that was not added before.
func (n *novelties) add(err error) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	kind := reportKind(err)
	if n.said[kind] {
		return false
	}
	if n.said == nil {
		n.said = make(map[string]bool)
	}
	n.said[kind] = true
	return true
}

func (n *novelties) forget() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.said)
}

// reportKind is a report without what differs from message to message: of a subject
// it keeps the head, which tells events, notes, requests and answers apart.
func reportKind(err error) string {
	text, subject, quoted := strings.Cut(err.Error(), `"`)
	if !quoted || !errors.Is(err, nats.ErrPermissionViolation) {
		return err.Error()
	}
	tokens := strings.SplitN(subject, ".", 5)
	if tokens[0] == "$JS" { // $JS.API.STREAM.INFO
		return text + strings.Join(tokens[:min(4, len(tokens))], ".")
	}
	return text + strings.Join(tokens[:min(2, len(tokens))], ".")
}
