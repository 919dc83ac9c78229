package e2e

import (
	"bufio"
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ffstream/ffstream/internal/testenv"
	"github.com/ffstream/ffstream/internal/testenv/engine"
	"github.com/ffstream/ffstream/migrations"
)

// line is one line of a block of a document that a reader may paste.
type line struct {
	place    string // file:line
	language string // sh or sql
	text     string
}

// languages of blocks, and whether their lines are commands.
var languages = map[string]bool{"sh": true, "sql": true, "json": false, "go": false, "text": false, "yaml": false, "promql": false, "mermaid": false}

// blocks reads what a document shows in fences, and indented, which is a shell's.
// Lines of SQL are joined to statements.
func blocks(t *testing.T, file string) (all []line) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	language, fenced, number := "", false, 0
	var whole line // continued by a backslash, or not ended by a semicolon
	lines := bufio.NewScanner(strings.NewReader(string(text)))
	for lines.Scan() {
		number++
		s := lines.Text()
		place := fmt.Sprintf("%s:%d", filepath.Base(file), number)
		if name, ok := strings.CutPrefix(strings.TrimSpace(s), "```"); ok {
			if fenced = !fenced; fenced {
				if _, known := languages[name]; !known {
					t.Errorf("%s: a block of %q: say what it is, sh for commands", place, name)
				}
				language = name
			}
			continue
		}
		code := s
		if !fenced {
			if code, fenced = strings.CutPrefix(s, "    "); !fenced {
				continue
			}
			language, fenced = "sh", false
		}
		if !languages[language] || strings.TrimSpace(code) == "" {
			continue
		}
		if whole.text == "" {
			whole = line{place: place, language: language}
		}
		code, more := strings.CutSuffix(strings.TrimSpace(code), "\\")
		whole.text += code
		if more || language == "sql" && !strings.HasSuffix(code, ";") {
			whole.text += " "
			continue
		}
		all, whole = append(all, whole), line{}
	}
	return all
}

// pasting is a reader who pastes what a document shows, one block after the other.
type pasting struct {
	*world
	root     string // of the repository
	bin      string // directory with the program, by its name
	host     map[string]string
	vars     map[string]string
	services []*process
}

// newReader prepares a machine: servers without ffstream's things, with a database
// of the engine's in which one execution ended.
func newReader(t *testing.T, setup string) *pasting {
	t.Helper()
	ctx := context.Background()
	pg, err := testenv.StartPostgres(ctx, testenv.PostgresConfig{Settings: map[string]string{"shared_buffers": "32MB", "max_connections": "60"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := pg.Close(); err != nil {
			t.Error(err)
		}
	})
	w := &world{t: t, stream: "FFSTREAM", prefix: "ff", slot: "ffstream"}
	for _, step := range []struct{ database, sql string }{{"postgres", "CREATE DATABASE flowfabric"}, {"flowfabric", setup}} {
		pool, err := pgxpool.New(ctx, pg.URL(step.database))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(pool.Close)
		w.db = &testenv.Database{Name: step.database, URL: pg.URL(step.database), Pool: pool}
		w.exec(step.sql)
	}
	if err := migrations.EngineSchema(ctx, w.db.URL, migrations.EngineNewest); err != nil {
		t.Fatal(err)
	}
	documented := uuid.MustParse("0190f5c2-8f4e-7cc0-9d3a-2f1d6a4b8e11")
	w.play(&engine.Engine{Version: engine.Newest}, &engine.StoriesOf(engine.Newest)[0], engine.Exec{Partition: 86, ID: documented, Lane: "default", Namespace: "ns-a"})
	w.guarded("max_payload: 1MB")
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	for name, file := range map[string]string{"ffstream": program, "nats": testenv.NATSCommand(t)} {
		if err := os.Symlink(file, filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	return &pasting{
		world: w, root: root, bin: bin,
		host: map[string]string{"db.example": fmt.Sprintf("127.0.0.1:%d", pg.Port), "nats.example:4222": strings.TrimPrefix(w.nats, "nats://")},
		vars: map[string]string{
			"PATH": bin + ":" + testenv.PostgresBinDir(t) + ":" + os.Getenv("PATH"), "HOME": t.TempDir(), "FFSTREAM_HTTP_ADDR": "127.0.0.1:0",
			"NATS_URL": w.nats, "NATS_TIMEOUT": "1m", "PGHOST": "127.0.0.1", "PGPORT": fmt.Sprint(pg.Port), "PGUSER": "postgres",
		},
	}
}

// command prepares a line for a shell.
func (r *pasting) command(text string) *exec.Cmd {
	cmd := exec.Command("sh", "-c", "exec "+text)
	cmd.Dir, cmd.SysProcAttr = r.root, &syscall.SysProcAttr{Setpgid: true}
	for _, k := range slices.Sorted(maps.Keys(r.vars)) {
		cmd.Env = append(cmd.Env, k+"="+r.vars[k])
	}
	return cmd
}

// finish runs a command to its end, which must be good, as asks does.
func (r *pasting) finish(l *line, cmd *exec.Cmd) {
	r.t.Helper()
	p := launch(r.t, cmd)
	for began := time.Now(); p.wasSlow() && time.Since(began) < patience; {
		again := exec.Command(cmd.Args[0], cmd.Args[1:]...)
		again.Dir, again.Env, again.SysProcAttr = cmd.Dir, cmd.Env, cmd.SysProcAttr
		p = launch(r.t, again)
	}
	if code := p.code(); code != 0 {
		r.t.Errorf("%s: %s ends with %d: %s", l.place, l.text, code, p.output())
	}
}

// stop ends the services that run.
func (r *pasting) stop() {
	for _, p := range r.services {
		p.stop()
	}
	r.services = nil
}

var port = regexp.MustCompile(`(--http-addr=127\.0\.0\.1):\d+`) // may be taken here

// ffstream pastes a command of ours.
func (r *pasting) ffstream(l *line, text string) {
	r.t.Helper()
	text = port.ReplaceAllString(text, "$1:0")
	switch words := strings.Fields(text); words[1] {
	case "run":
		p := launch(r.t, r.command(text))
		await(r.t, l.place+": the service to run", func() (bool, string) {
			select {
			case <-p.done:
				r.t.Fatalf("%s: the service ended: %s", l.place, p.output())
			default:
			}
			return strings.Contains(p.output(), `"msg":"streaming"`) || strings.Contains(p.output(), "standby: "), p.output()
		})
		r.services = append(r.services, p)
	case "tail":
		if strings.Contains(text, "--follow=false") {
			r.finish(l, r.command(text))
			return
		}
		r.shows(l, r.command(text), "-> completed").stop()
	case "resume": // with the service stopped, as the text says
		r.stop()
		r.finish(l, r.command(text))
	case "backfill": // the one of the first start may not have ended
		await(r.t, l.place+": no other backfill to be open", func() (bool, string) {
			p := launch(r.t, r.command(text))
			if p.code() != 0 && !strings.Contains(p.output(), "another backfill is open") {
				r.t.Fatalf("%s: %s ends with %d: %s", l.place, l.text, p.code(), p.output())
			}
			return p.code() == 0, p.output()
		})
	default:
		r.finish(l, r.command(text))
	}
}

// shows runs a command that goes on for ever until it has printed something.
func (r *pasting) shows(l *line, cmd *exec.Cmd, want string) *process {
	r.t.Helper()
	p := launch(r.t, cmd)
	await(r.t, l.place+": "+want+" to be printed", func() (bool, string) { return strings.Contains(p.output(), want), p.output() })
	return p
}

// broker pastes a command of the broker's.
func (r *pasting) broker(l *line, text string) {
	r.t.Helper()
	if strings.HasPrefix(text, "nats stream rm ") { // with the service stopped, as the text says
		r.stop()
	}
	cmd := r.command(text)
	cmd.Dir = r.vars["HOME"] // where backups go
	if strings.HasPrefix(text, "nats subscribe ") {
		r.shows(l, cmd, `"to":"completed"`).kill()
		return
	}
	r.finish(l, cmd)
}

var ourFile = regexp.MustCompile(`\b(?:deploy|docs|scripts)/[\w./-]+`)

// foreign are programs that are not run here, and why. Files of ours that their
// lines name must exist.
var foreign = map[string]string{
	"install": "it writes outside of the test's directories", "docker": "needs a daemon",
	"kubectl": "needs a cluster", "helm": "needs a cluster", "systemctl": "needs systemd as the first process", "sudo": "needs a machine of one's own",
	"apt-get": "needs a machine of one's own", "curl": "asks a service on a fixed port", "promtool": "checked beside the rules", "systemd-analyze": "checked beside the unit",
}

// paste does what a line says.
func (r *pasting) paste(l *line) {
	r.t.Helper()
	if l.language == "sql" {
		if strings.Contains(l.text, "pg_drop_replication_slot") { // which nobody holds, as the text says
			r.stop()
			awaitInactive(r.t, r.db.Pool, "ffstream")
		}
		r.exec(l.text)
		return
	}
	text, _, _ := strings.Cut(l.text, "  #")
	text = strings.TrimPrefix(strings.TrimSpace(text), "bin/")
	for example, real := range r.host {
		text = strings.ReplaceAll(text, example, real)
	}
	switch word, rest, _ := strings.Cut(text, " "); {
	case word == "export":
		name, value, _ := strings.Cut(rest, "=")
		r.vars[name] = value
	case word == "make":
		r.finish(l, r.command("make --dry-run "+rest))
	case word == "psql":
		r.finish(l, r.command(text+" -v ON_ERROR_STOP=1"))
	case word == "ffstream":
		r.ffstream(l, text)
	case word == "nats":
		r.broker(l, text)
	case foreign[word] != "":
		for _, file := range ourFile.FindAllString(text, -1) {
			if _, err := os.Stat(filepath.Join(r.root, file)); err != nil {
				r.t.Errorf("%s: %s: %v", l.place, l.text, err)
			}
		}
	default:
		r.t.Errorf("%s: nothing runs %q here, and nothing holds it against what it is for", l.place, l.text)
	}
}

// TestDocumentedCommands pastes every command of the README and the documents, each
// on a machine of its own, in the order of the text.
func TestDocumentedCommands(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	total := 0
	for _, file := range append(files, "../README.md") {
		lines := blocks(t, file)
		if len(lines) == 0 {
			continue
		}
		total += len(lines)
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			setup := "SELECT"
			if strings.HasSuffix(file, "README.md") { // whose one role does everything
				setup = "CREATE ROLE ffstream LOGIN SUPERUSER"
			}
			r := newReader(t, setup)
			for i := range lines {
				r.paste(&lines[i])
			}
			r.stop()
		})
	}
	if total < 30 {
		t.Errorf("%d lines were found: the documents have more", total)
	}
}

var inline = regexp.MustCompile("`(?:bin/)?(ffstream [^`<]*)`")

// TestMentionedCommands holds commands in running text against the parser.
func TestMentionedCommands(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range append(files, "../README.md") {
		text := strings.Join(strings.Fields(readFile(t, file)), " ")
		for _, m := range inline.FindAllStringSubmatch(text, -1) {
			if p := start(t, nil, append(words(t, m[1]), "--help")...); p.code() != 0 {
				t.Errorf("%s: %s: %s", file, m[1], lastLines(p.output(), 1))
			}
		}
	}
}
