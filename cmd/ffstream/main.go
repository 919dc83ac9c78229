// Command ffstream turns the state changes of the FlowFabric execution engine
// into an event stream: it follows two tables of Postgres through a logical
// replication slot and publishes each public-state transition to NATS JetStream,
// in commit order, each once.
//
// It exits with 0 after a clean stop, 1 after a fatal error, which is one line
// on standard error, and 2 after a usage error.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"
)

// Exit codes.
const (
	exitOK    = 0
	exitFatal = 1
	exitUsage = 2
)

// commands is the whole command line: a field a subcommand.
type commands struct {
	Config string `help:"YAML file with flags as keys; flags and environment variables win over it." env:"FFSTREAM_CONFIG" type:"path" placeholder:"FILE"`
	logFlags

	Run      runCmd      `cmd:"" help:"Follow the slot and publish; the sidecar."`
	Resume   resumeCmd   `cmd:"" help:"Look whether continuity is lost, and go on over a gap."`
	Backfill backfillCmd `cmd:"" help:"Bring the state of executions that exist already into the stream."`
	Verify   verifyCmd   `cmd:"" help:"Compare what the stream tells with what the tables say; changes nothing."`
	Migrate  migrateCmd  `cmd:"" help:"Prepare the source database: publication and replica identity."`
	Tail     tailCmd     `cmd:"" help:"Print events as they come."`
	Doctor   doctorCmd   `cmd:"" help:"Say what is wrong with either end and what mends it; changes nothing."`
	Read     readCmd     `cmd:"" help:"Read one execution from Postgres."`
	Schema   schemaCmd   `cmd:"" help:"Print the JSON Schema of an event, or the AsyncAPI document of the stream."`
	Demo     demoCmd     `cmd:"" help:"Everything on this machine: Postgres, NATS, a workload, the live transitions."`
	Version  versionCmd  `cmd:"" help:"Print the version, its commit and what compiled it."`
}

// terminal is where a command writes; tests give it buffers.
type terminal struct {
	out, err io.Writer
}

func main() {
	os.Exit(execute(os.Args[1:], terminal{out: os.Stdout, err: os.Stderr}))
}

// execute runs one command line and returns the exit code.
func execute(args []string, term terminal) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	var cli commands
	exited, code := false, exitOK
	parser, err := newParser(&cli,
		kong.Writers(term.out, term.err),
		kong.Exit(func(c int) { exited, code = true, c }),
		kong.UsageOnError(),
	)
	if err != nil {
		return fail(term, exitFatal, err)
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	parser, err = withConfigFile(parser, args)
	if err != nil {
		return fail(term, exitUsage, err)
	}
	kctx, err := parser.Parse(args)
	if exited { // --help has printed
		return code
	}
	if err != nil {
		return fail(term, exitUsage, fmt.Errorf("%w; see ffstream --help", err))
	}
	kctx.BindTo(ctx, (*context.Context)(nil))
	kctx.Bind(term)
	log, err := cli.logger(term.err)
	if err != nil {
		return fail(term, exitUsage, err)
	}
	kctx.Bind(log)
	// The first signal asks to stop. From then on the default disposition is
	// back, so a second one ends the process at once.
	defer context.AfterFunc(ctx, func() {
		stop()
		if kctx.Command() == "run" {
			log.Info("stopping: what was read is stored and confirmed; a second signal ends the program at once")
		}
	})()
	if err := kctx.Run(); err != nil {
		var usage usageError
		if errors.As(err, &usage) {
			return fail(term, exitUsage, err)
		}
		return fail(term, exitFatal, err)
	}
	return exitOK
}

// newParser describes the command line.
func newParser(cli *commands, options ...kong.Option) (*kong.Kong, error) {
	return kong.New(cli, append(options,
		kong.Name("ffstream"),
		kong.Description("Public-state transitions of FlowFabric executions, from Postgres to NATS JetStream, each once."),
		kong.Vars{"stateNames": stateNames(), "rowStateNames": rowStateNames()},
	)...)
}

// usageError is a value of a flag that breaks its rule.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// fail prints the one line that a failed command ends with.
func fail(term terminal, code int, err error) int {
	_, _ = fmt.Fprintf(term.err, "ffstream: %s\n", oneLine(err))
	return code
}
