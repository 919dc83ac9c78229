// Package testenv starts what tests and the demo run against: a real Postgres
// and a real JetStream, on loopback, with nothing left behind.
package testenv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// PostgresConfig says how a Postgres is started.
type PostgresConfig struct {
	// Settings are added to postgresql.conf.
	Settings map[string]string
	// Durable keeps fsync on. Without it a crash of the machine, though not of
	// the server, loses data.
	Durable bool
	// HBA is lines of pg_hba.conf that come before the others.
	HBA string
	// Files are written to the data directory, readable by the server alone.
	Files map[string][]byte
}

// Postgres is a server of this process, in a directory of its own. It ends when
// the process does: on Linux however that ends, elsewhere by Close.
type Postgres struct {
	BinDir string // of its programs
	Port   int
	dir    string
	attr   *syscall.SysProcAttr
	cmd    *exec.Cmd
	exited chan struct{} // closed by the goroutine that waits for the server
}

// minMajor is the oldest Postgres that ffstream works with.
const minMajor = 15

// ErrNoPostgres says that no server programs were found.
var ErrNoPostgres = errors.New("no PostgreSQL 15 or newer found: install it (apt-get install postgresql) or name its directory in FF_PG_BINDIR")

// findPostgres looks for server programs: FF_PG_BINDIR, the usual directories
// of distributions, then the path.
func findPostgres(ctx context.Context) (string, error) {
	dirs := []string{os.Getenv("FF_PG_BINDIR")}
	for _, pattern := range []string{"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/local/pgsql/bin"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return "", err
		}
		for i := len(found) - 1; i >= 0; i-- {
			dirs = append(dirs, found[i])
		}
	}
	if path, err := exec.LookPath("postgres"); err == nil {
		dirs = append(dirs, filepath.Dir(path))
	}
	for _, dir := range dirs {
		if dir == "" {
			continue
		}
		out, err := exec.CommandContext(ctx, filepath.Join(dir, "postgres"), "--version").Output()
		if err != nil {
			continue
		}
		words := strings.Fields(string(out))
		if len(words) < 3 {
			continue
		}
		number, _, _ := strings.Cut(words[2], ".")
		if major, err := strconv.Atoi(number); err == nil && major >= minMajor {
			if _, err := os.Stat(filepath.Join(dir, "initdb")); err == nil {
				return dir, nil
			}
		}
	}
	return "", ErrNoPostgres
}

// unprivileged is whom Postgres runs as when this process is root, whom it
// refuses.
func unprivileged() (*syscall.Credential, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, errUID := strconv.ParseUint(u.Uid, 10, 32)
		gid, errGID := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(errUID, errGID); err != nil {
			return nil, fmt.Errorf("look up user %s: %w", name, err)
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, errors.New("find a user to run Postgres as: neither postgres nor nobody exists, and it refuses root")
}

// StartPostgres makes a cluster in a temporary directory and starts it. The
// superuser is postgres, without a password on loopback; members of the role
// scram_users have to give one.
func StartPostgres(ctx context.Context, cfg PostgresConfig) (*Postgres, error) {
	bin, err := findPostgres(ctx)
	if err != nil {
		return nil, err
	}
	cred, err := unprivileged()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "ffstream-pg-")
	if err != nil {
		return nil, fmt.Errorf("make directory for Postgres: %w", err)
	}
	p := &Postgres{BinDir: bin, dir: dir, attr: child(cred, syscall.SIGQUIT)}
	if err := p.initialise(ctx, cfg, cred); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	if err := p.Start(ctx); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

func (p *Postgres) data() string { return filepath.Join(p.dir, "data") }

func (p *Postgres) initialise(ctx context.Context, cfg PostgresConfig, cred *syscall.Credential) error {
	if cred != nil {
		if err := os.Chown(p.dir, int(cred.Uid), int(cred.Gid)); err != nil {
			return fmt.Errorf("hand directory to Postgres: %w", err)
		}
	}
	cmd := exec.CommandContext(ctx, filepath.Join(p.BinDir, "initdb"), "-D", p.data(), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	cmd.Dir = p.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("run initdb: %w: %s", err, bytes.TrimSpace(out))
	}
	port, err := freePort()
	if err != nil {
		return err
	}
	p.Port = port
	settings := map[string]string{
		"listen_addresses": "'127.0.0.1'", "port": strconv.Itoa(port), "unix_socket_directories": "'" + p.dir + "'",
		"wal_level": "logical", "max_wal_senders": "64", "max_replication_slots": "64", "max_connections": "300",
		"max_locks_per_transaction": "512", "max_prepared_transactions": "64", "max_wal_size": "4GB", "shared_buffers": "256MB",
	}
	if !cfg.Durable {
		// Commits still wait for the WAL to be written, so that the flushed end of
		// WAL, which the walsender goes by, never stays behind a commit.
		settings["fsync"] = "off"
	}
	for k, v := range cfg.Settings {
		settings[k] = v
	}
	var conf bytes.Buffer
	for k, v := range settings {
		fmt.Fprintf(&conf, "%s = %s\n", k, v)
	}
	if err := appendFile(filepath.Join(p.data(), "postgresql.conf"), conf.Bytes()); err != nil {
		return err
	}
	const hba = "host all +scram_users 127.0.0.1/32 scram-sha-256\nlocal all all trust\nhost all all 127.0.0.1/32 trust\nhost replication all 127.0.0.1/32 trust\n"
	if err := os.WriteFile(filepath.Join(p.data(), "pg_hba.conf"), []byte(cfg.HBA+hba), 0o600); err != nil {
		return fmt.Errorf("write pg_hba.conf: %w", err)
	}
	return p.writeFiles(cfg.Files, cred)
}

func (p *Postgres) writeFiles(files map[string][]byte, cred *syscall.Credential) error {
	for name, text := range files {
		path := filepath.Join(p.data(), name)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
		if cred == nil {
			continue
		}
		if err := os.Chown(path, int(cred.Uid), int(cred.Gid)); err != nil {
			return fmt.Errorf("hand %s to Postgres: %w", name, err)
		}
	}
	return nil
}

func appendFile(path string, text []byte) (err error) {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open configuration: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	_, err = f.Write(text)
	return err
}

// Start starts the server and waits until it takes connections.
func (p *Postgres) Start(ctx context.Context) error {
	log, err := os.OpenFile(filepath.Join(p.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open log of Postgres: %w", err)
	}
	// The server outlives ctx, which bounds its start.
	p.cmd = exec.CommandContext(context.WithoutCancel(ctx), filepath.Join(p.BinDir, "postgres"), "-D", p.data())
	p.cmd.SysProcAttr, p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = p.attr, p.dir, log, log
	p.exited = make(chan struct{})
	started := make(chan error, 1)
	go func() {
		// The kernel ends the server when the thread that started it ends, so
		// that thread waits here for it.
		runtime.LockOSThread()
		defer close(p.exited)
		err := p.cmd.Start()
		started <- err
		if err == nil {
			_ = p.cmd.Wait() // its state is what the log says
		}
		_ = log.Close()
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start Postgres: %w", err)
	}
	return p.await(ctx)
}

const startTimeout = 60 * time.Second

func (p *Postgres) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := pgx.Connect(ctx, p.URL("postgres"))
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-tick.C:
		case <-p.exited:
			return fmt.Errorf("start Postgres: it ended: %s", p.LogTail())
		case <-ctx.Done():
			return fmt.Errorf("start Postgres: %w: %s", err, p.LogTail())
		}
	}
}

// URL is the superuser's URL of a database.
func (p *Postgres) URL(database string) string {
	return (&url.URL{Scheme: "postgres", User: url.User("postgres"), Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(p.Port)), Path: "/" + database, RawQuery: "sslmode=disable"}).String()
}

// Stop ends the server: smart waits for its clients, fast disconnects them,
// immediate is a crash.
func (p *Postgres) Stop(mode string) error {
	signals := map[string]os.Signal{"smart": syscall.SIGTERM, "fast": syscall.SIGINT, "immediate": syscall.SIGQUIT}
	signal, ok := signals[mode]
	if !ok {
		return fmt.Errorf("stop Postgres: no mode %q", mode)
	}
	if err := p.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop Postgres: %w", err)
	}
	<-p.exited
	return nil
}

// LogTail is the end of the server's log, on one line.
func (p *Postgres) LogTail() string {
	text, err := os.ReadFile(filepath.Join(p.dir, "log"))
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], "; ")
}

// Dir is the directory that holds the cluster and the log.
func (p *Postgres) Dir() string { return p.dir }

// DataDir is the server's data directory.
func (p *Postgres) DataDir() string { return p.data() }

// Close crashes the server and removes its directory.
func (p *Postgres) Close() error {
	var err error
	if p.cmd != nil && p.cmd.Process != nil {
		err = p.Stop("immediate")
	}
	return errors.Join(err, os.RemoveAll(p.dir))
}
