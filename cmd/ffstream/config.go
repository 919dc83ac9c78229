package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	"github.com/mattn/go-isatty"
	"go.yaml.in/yaml/v3"

	"github.com/ffstream/ffstream"
)

// logFlags say how the service logs.
type logFlags struct {
	LogLevel  string `help:"Least level that is logged: debug, info, warn, error." env:"FFSTREAM_LOG_LEVEL" default:"info" enum:"debug,info,warn,error"`
	LogFormat string `help:"auto (text on a terminal, JSON elsewhere), text or json." env:"FFSTREAM_LOG_FORMAT" default:"auto" enum:"auto,text,json"`
}

func (f *logFlags) logger(w io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(f.LogLevel)); err != nil {
		return nil, usagef("parse --log-level: %w", err)
	}
	options := &slog.HandlerOptions{Level: level}
	if f.LogFormat == "text" || f.LogFormat == "auto" && isTerminal(w) {
		return slog.New(slog.NewTextHandler(w, options)), nil
	}
	return slog.New(slog.NewJSONHandler(w, options)), nil
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && isatty.IsTerminal(f.Fd())
}

// databaseFlags name the source database.
type databaseFlags struct {
	DatabaseURL          string `help:"libpq URL of the database that the engine uses. Certificates, PGPASSFILE and ~/.pgpass are read again for each connection." env:"FFSTREAM_DATABASE_URL" placeholder:"URL"`
	DatabasePasswordFile string `help:"File with the role's password; read again for each connection. It wins over PGPASSWORD." env:"FFSTREAM_DATABASE_PASSWORD_FILE" placeholder:"FILE"`
}

// publicationFlags name what the source database is prepared with.
type publicationFlags struct {
	Publication     string `help:"Name of the publication." env:"FFSTREAM_PUBLICATION" default:"ffstream"`
	ReplicaIdentity string `help:"index: an index on each leaf of ff_exec_core tells what a state was before; none: no index may be added, every update that could be a transition is published." env:"FFSTREAM_REPLICA_IDENTITY" default:"index" enum:"index,none"`
}

// streamFlags name the stream and where it is.
type streamFlags struct {
	NATSURL       string `name:"nats-url" help:"NATS URL; without it, run starts an embedded server." env:"FFSTREAM_NATS_URL" placeholder:"URL" list:""`
	Stream        string `help:"Name of the JetStream stream." env:"FFSTREAM_STREAM" default:"FFSTREAM"`
	SubjectPrefix string `help:"First token of every subject." env:"FFSTREAM_SUBJECT_PREFIX" default:"ff"`
	natsAuth
}

var (
	slotName   = regexp.MustCompile(`^[a-z0-9_]{1,63}$`)
	streamName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,255}$`)
)

func checkSlot(name string) error {
	if !slotName.MatchString(name) {
		return usagef("--slot %q: want 1 to 63 lower-case letters, digits and underscores: Postgres takes no other", name)
	}
	return nil
}

func (f *publicationFlags) check() error {
	if f.Publication == "" || len(f.Publication) > 63 || strings.ContainsRune(f.Publication, 0) {
		return usagef("--publication %q: want 1 to 63 bytes", f.Publication)
	}
	return nil
}

func (f *streamFlags) check() error {
	if !streamName.MatchString(f.Stream) {
		return usagef("--stream %q: want letters, digits, dashes and underscores: NATS takes no dots, blanks or wildcards", f.Stream)
	}
	if !streamName.MatchString(f.SubjectPrefix) {
		return usagef("--subject-prefix %q: want one token of letters, digits, dashes and underscores", f.SubjectPrefix)
	}
	if f.NATSURL == "" {
		return f.natsAuth.check("")
	}
	for one := range strings.SplitSeq(f.NATSURL, ",") {
		u, err := url.Parse(strings.TrimSpace(one))
		if err != nil || u.Host == "" || !slices.Contains([]string{"nats", "tls", "ws", "wss"}, u.Scheme) {
			return usagef("parse --nats-url: want nats://host:port, tls://host:port or a list of such, separated by commas")
		}
	}
	return f.natsAuth.check(f.NATSURL)
}

// yamlFile is a configuration file: flag names as keys. It implements
// kong.Resolver. Values stay as they are written, since what YAML makes of a number
// or a date is not what its flag would make of it.
type yamlFile struct {
	path   string
	values map[string]yaml.Node
}

// withConfigFile gives the parser the values of the file that --config or
// FFSTREAM_CONFIG names. The file must be known before the flags are parsed.
func withConfigFile(parser *kong.Kong, args []string) (*kong.Kong, error) {
	path := os.Getenv("FFSTREAM_CONFIG")
	for i, a := range args {
		if value, ok := strings.CutPrefix(a, "--config="); ok {
			path = value
		} else if a == "--config" && i+1 < len(args) {
			path = args[i+1]
		}
	}
	if path == "" {
		return parser, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	file := &yamlFile{path: path}
	if err := yaml.NewDecoder(bytes.NewReader(text)).Decode(&file.values); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read configuration %s: %w", path, err)
	}
	return parser, kong.Resolvers(file).Apply(parser)
}

// Validate refuses keys that are no flag of any command.
func (y *yamlFile) Validate(app *kong.Application) error {
	known := map[string]bool{}
	var visit func(n *kong.Node)
	visit = func(n *kong.Node) {
		for _, f := range n.Flags {
			known[f.Name] = true
		}
		for _, c := range n.Children {
			visit(c)
		}
	}
	visit(app.Node)
	for key := range y.values {
		if !known[key] {
			return fmt.Errorf("read configuration %s: unknown key %q: keys are the names of flags without the dashes", y.path, key)
		}
	}
	return nil
}

// Resolve gives a flag the file's value unless the environment has one.
func (y *yamlFile) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	for _, env := range flag.Tag.Envs {
		if _, ok := os.LookupEnv(env); ok {
			return nil, nil
		}
	}
	v, ok := y.values[flag.Name]
	if !ok {
		return nil, nil
	}
	text, err := flagText(&v, flag)
	if err != nil {
		return nil, fmt.Errorf("read configuration %s: key %q: %w", y.path, flag.Name, err)
	}
	return text, nil
}

// flagText is what a flag reads of a value: a list's elements stand between the
// flag's separators, as on the command line. A null is the same as no key.
func flagText(v *yaml.Node, flag *kong.Flag) (any, error) {
	if v.Kind == yaml.AliasNode {
		v = v.Alias
	}
	switch {
	case v.Tag == "!!null":
		return nil, nil
	case v.Kind == yaml.ScalarNode:
		return v.Value, nil
	case v.Kind == yaml.SequenceNode && (flag.IsSlice() || flag.Tag.Has("list")):
		var elements []string
		for _, e := range v.Content {
			if e.Kind != yaml.ScalarNode {
				return nil, errors.New("want a list of single values")
			}
			elements = append(elements, e.Value)
		}
		return kong.JoinEscaped(elements, flag.Tag.Sep), nil
	}
	return nil, errors.New("want one value")
}

// oneLine flattens an error's text: an error that ends the program is one line.
func oneLine(err error) string {
	return strings.Join(strings.Fields(strings.ReplaceAll(err.Error(), "\n", "; ")), " ")
}

// stateNames lists the states for help texts.
func stateNames() string { return rowStateNames() + ", " + string(ffstream.StatePurged) }

// rowStateNames lists those in which a row can be.
func rowStateNames() string {
	var names []string
	for _, s := range ffstream.PublicStates() {
		names = append(names, string(s))
	}
	return strings.Join(names, ", ")
}

// parseSince reads a duration back from now, or a time.
func parseSince(s string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(s); err == nil {
		return now.Add(-d.Abs()), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, usagef("--since %q: want a duration such as 10m, or a time such as 2026-01-02T15:04:05Z", s)
}
