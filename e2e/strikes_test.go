package e2e

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream/internal/shard"
	"github.com/ffstream/ffstream/internal/testenv"
	"github.com/ffstream/ffstream/internal/web"
)

// fault is one way in which the world breaks and heals.
type fault struct {
	name  string
	did   string // what is done, for the report
	where place  // in TestFaults; the mix plays everything everywhere, but for what needs a cluster
	do    func(ctx context.Context, a *arena)
}

// place is where TestFaults plays a fault.
type place int

const (
	everywhere place = iota
	single           // the number of NATS servers makes no difference
	three            // likewise, and the cluster has the time
	cluster          // it takes a cluster
	mixed            // only the mix plays it: it takes long, or another fault is as good
)

// plays tells whether a number of brokers is the place.
func (p place) plays(brokers int) bool {
	switch p {
	case everywhere:
		return true
	case single:
		return brokers == 1
	case three, cluster:
		return brokers > 1
	default:
		return false
	}
}

const (
	// senderTimeout is the wal_sender_timeout of an arena.
	senderTimeout = 3 * time.Second
	// dedupeWindow is the duplicate_window of an arena's stream, the shortest that
	// there is: no message id stands in for what the tail has to tell.
	dedupeWindow = 100 * time.Millisecond
)

var faults = []fault{
	{"ffstream killed", "SIGKILL, started again", single, func(_ context.Context, a *arena) {
		a.service.kill()
		a.startService()
	}},
	{"ffstream killed before publishing", "nothing reaches NATS any more; SIGKILL when it has published more than is stored", single, killedBeforePublishing},
	{"ffstream killed between publishing and acknowledgement", "nothing comes from NATS any more; SIGKILL when more is stored", everywhere, killedBeforeAcknowledgement},
	{"ffstream killed between acknowledgement and confirmation", "nothing reaches Postgres any more; SIGKILL when it would confirm more than the slot shows", single, killedBeforeConfirmation},
	{"ffstream killed after confirmation, Postgres crashed before it saved the slot", "SIGKILL, then `pg_ctl stop -m immediate`, until the slot was seen to go back", single, killedBeforeSaving},
	{"ffstream killed in the middle of an atomic batch", "NATS gets the beginning of a batch and then nothing; SIGKILL", everywhere, killedInBatch},
	{"ffstream stopped and continued, another taking over", "SIGSTOP, beyond `wal_sender_timeout`, until a second instance publishes; SIGCONT beside it; SIGKILL", three, zombie},
	{"ffstream told to end and started", "SIGTERM, to be followed by exit code 0; started again", single, func(_ context.Context, a *arena) {
		await(a.t, "the service to begin", func() (bool, string) { return a.service.output() != "", "" })
		a.service.stop()
		a.startService()
	}},
	{"Postgres crashed", "`pg_ctl stop -m immediate`: confirmations since the last checkpoint are forgotten", single, func(ctx context.Context, a *arena) { a.restartPostgres(ctx, "immediate") }},
	{"Postgres restarted", "`pg_ctl stop -m fast`", single, func(ctx context.Context, a *arena) { a.restartPostgres(ctx, "fast") }},
	{"Postgres restarted when its clients have gone", "`pg_ctl stop -m smart`, `-m fast` after 2 s", single, func(ctx context.Context, a *arena) { a.restartPostgres(ctx, "smart") }},
	{"Postgres out of WAL senders", "others take all of `max_wal_senders` while the connection is away", single, outOfSenders},
	{"NATS killed", "SIGKILL of any server, started again", single, func(ctx context.Context, a *arena) {
		a.restartBroker(ctx, a.brokers[a.rng.IntN(len(a.brokers))], time.Second)
	}},
	{"NATS leader killed", "SIGKILL of the stream's leader", cluster, func(ctx context.Context, a *arena) { a.restartBroker(ctx, a.leader(ctx), 2*time.Second) }},
	{"NATS stopped and continued", "SIGSTOP and SIGCONT of the leader", three, func(ctx context.Context, a *arena) { a.stall(ctx, a.leader(ctx)) }},
	{"NATS follower stopped and continued", "SIGSTOP and SIGCONT of a server that does not lead the stream", cluster, func(ctx context.Context, a *arena) {
		leader := a.leader(ctx)
		for _, b := range a.brokers {
			if b != leader {
				a.stall(ctx, b)
				return
			}
		}
	}},
	{"NATS away longer than the dedupe window", "nothing comes from NATS while publishes are stored, for ten times the `duplicate_window` of 100 ms, which holds for the whole suite", everywhere, forgottenIDs},
	{"stream full", "`max_bytes` of what it holds, until the service says so; lifted", mixed, full},
	{"connection to Postgres reset", "TCP reset", single, toxic(source, time.Second, `{"name":"x","type":"reset_peer","stream":"downstream","attributes":{"timeout":0}}`)},
	{"connection to Postgres cut mid-way", "closed after 20 000 bytes, in the middle of a transaction", single, toxic(source, time.Second, `{"name":"x","type":"limit_data","stream":"downstream","attributes":{"bytes":20000}}`)},
	{"connection to Postgres half-closed", "the server's end closed and ours open, then ours closed and the server's open", single, both(halfOpen(source), halfClosed(source))},
	{"Postgres silent", "nothing comes any more on the connections that there are; new ones pass", single, silentPostgres},
	{"status messages lost", "nothing reaches Postgres, until it has cut the connection after `wal_sender_timeout`", three, statusLost},
	{"Postgres throttled", "200 KB/s", mixed, toxic(source, 2*time.Second, `{"name":"x","type":"bandwidth","stream":"downstream","attributes":{"rate":200}}`)},
	{"Postgres in small pieces", "packets of 10 to 70 bytes", single, toxic(source, time.Second, `{"name":"x","type":"slicer","stream":"downstream","attributes":{"average_size":40,"size_variation":30,"delay":10}}`)},
	{"connection to NATS reset", "TCP reset", everywhere, toxic(broker, time.Second, `{"name":"x","type":"reset_peer","stream":"downstream","attributes":{"timeout":0}}`)},
	{"connection to NATS cut mid-way", "closed after 20 000 bytes, in the middle of a batch", everywhere, toxic(broker, time.Second, `{"name":"x","type":"limit_data","stream":"upstream","attributes":{"bytes":20000}}`)},
	{"connection to NATS half-closed", "the server's end closed and ours open, then ours closed and the server's open", mixed, both(halfOpen(broker), halfClosed(broker))},
	{"acknowledgements lost", "nothing arrives from NATS for up to 3 s while publishes are stored", mixed, toxic(broker, 3*time.Second, `{"name":"x","type":"timeout","stream":"downstream","attributes":{"timeout":0}}`)},
	{"publishes lost", "nothing reaches NATS for up to 3 s", everywhere, toxic(broker, 3*time.Second, `{"name":"x","type":"timeout","stream":"upstream","attributes":{"timeout":0}}`)},
	{"NATS silent longer than wal_sender_timeout", "nothing passes in either direction for 4 s, and Postgres keeps the connection", single, silentBroker},
	{"NATS slow", "100 to 500 ms of latency", mixed, toxic(broker, 2*time.Second, `{"name":"x","type":"latency","stream":"downstream","attributes":{"latency":300,"jitter":200}}`)},
}

func source(a *arena) []*proxy { return []*proxy{a.source} }
func broker(a *arena) []*proxy { return a.fronts }

// toxic adds faults to what passes the proxies of a side, for a random time.
func toxic(side func(a *arena) []*proxy, most time.Duration, specs ...string) func(ctx context.Context, a *arena) {
	return func(ctx context.Context, a *arena) {
		defer a.spoil(side(a), specs...)()
		a.moment(ctx, most)
	}
}

// spoil adds faults until the function that it returns is called.
func (a *arena) spoil(side []*proxy, specs ...string) (heal func()) {
	for _, p := range side {
		for _, spec := range specs {
			p.add(spec)
		}
	}
	return func() {
		for _, p := range side {
			p.heal()
		}
	}
}

const (
	nothingSent     = `{"name":"up","type":"timeout","stream":"upstream","attributes":{"timeout":0}}`
	nothingReceived = `{"name":"down","type":"timeout","stream":"downstream","attributes":{"timeout":0}}`
)

// halfOpen closes the server's end of the connections, and ours 2 s later.
func halfOpen(side func(a *arena) []*proxy) func(ctx context.Context, a *arena) {
	return toxic(side, 3*time.Second, `{"name":"x","type":"limit_data","stream":"upstream","attributes":{"bytes":0}}`, `{"name":"y","type":"slow_close","stream":"downstream","attributes":{"delay":2000}}`)
}

// halfClosed closes our end of the connections, and the server's 2 s later.
func halfClosed(side func(a *arena) []*proxy) func(ctx context.Context, a *arena) {
	return toxic(side, 3*time.Second, `{"name":"x","type":"limit_data","stream":"downstream","attributes":{"bytes":0}}`, `{"name":"y","type":"slow_close","stream":"upstream","attributes":{"delay":2000}}`)
}

func both(first, second func(ctx context.Context, a *arena)) func(ctx context.Context, a *arena) {
	return func(ctx context.Context, a *arena) {
		first(ctx, a)
		second(ctx, a)
	}
}

// active waits until the service follows the slot, Postgres sends to it, and it
// knows of everything that is stored now: the last fault is over.
func (a *arena) active() {
	a.t.Helper()
	n := a.last()
	await(a.t, "the service to be active", func() (bool, string) {
		r := a.report()
		return r.Role == string(shard.RoleActive) && r.Stream.AckedSequence >= n && a.sender() != 0, fmt.Sprintf("%s; %s", mustJSON(r), lastLines(a.service.output(), 5))
	})
}

// report is what the service says of itself.
func (a *arena) report() web.Report {
	a.t.Helper()
	a.alive("asking it")
	return a.service.report()
}

// lsn asks Postgres for a position, when it answers.
func (a *arena) lsn(sql string, args ...any) (lsn uint64) {
	a.t.Helper()
	await(a.t, "Postgres to answer", func() (bool, string) {
		err := a.db.Pool.QueryRow(context.Background(), "SELECT (("+sql+") - '0/0'::pg_lsn)::bigint", args...).Scan(&lsn)
		return err == nil, fmt.Sprint(err)
	})
	return lsn
}

func (a *arena) confirmed() uint64 {
	a.t.Helper()
	return a.lsn("SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = $1", a.slot)
}

// sender is the process number of the slot's WAL sender; 0: there is none.
func (a *arena) sender() (pid int) {
	a.t.Helper()
	await(a.t, "Postgres to answer", func() (bool, string) {
		err := a.db.Pool.QueryRow(context.Background(), "SELECT coalesce(active_pid, 0) FROM pg_replication_slots WHERE slot_name = $1", a.slot).Scan(&pid)
		return err == nil, fmt.Sprint(err)
	})
	return pid
}

// last is the sequence of the stream's last message.
func (a *arena) last() (sequence uint64) {
	a.t.Helper()
	await(a.t, "NATS to answer", func() (bool, string) {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		stream, err := a.js.Stream(ctx, a.stream)
		if err == nil {
			sequence = stream.CachedInfo().State.LastSeq
		}
		return err == nil, fmt.Sprint(err)
	})
	return sequence
}

// grows waits until the stream has more messages, and tells whether it got them.
func (a *arena) grows() bool {
	a.t.Helper()
	n := a.last()
	return a.comes("the stream to grow", func() bool { return a.last() > n })
}

func killedBeforePublishing(_ context.Context, a *arena) {
	a.active()
	heal := a.spoil(a.fronts, nothingSent)
	var sent uint64
	a.comes("something to be published", func() bool {
		sent = a.report().Stream.Sequence
		return sent > a.last()
	})
	a.service.kill()
	if a.last() >= sent {
		a.missed("what was published had come through")
	}
	heal()
	a.startService()
}

func killedBeforeAcknowledgement(_ context.Context, a *arena) {
	a.active()
	heal := a.spoil(a.fronts, nothingReceived)
	a.grows() // what is stored from here on is not acknowledged
	a.service.kill()
	heal()
	a.startService()
}

func killedBeforeConfirmation(_ context.Context, a *arena) {
	a.active()
	heal := a.spoil(source(a), nothingSent)
	end := a.lsn("SELECT pg_current_wal_flush_lsn()") // a status message that came through before tells of no more
	var told uint64
	a.comes("what is stored to be confirmed", func() bool {
		told = parseLSN(a, a.report().Postgres.ConfirmedLSN)
		return told > end
	})
	a.service.kill()
	if a.confirmed() >= told {
		a.missed("the confirmation had come through")
	}
	heal()
	a.startService()
}

func parseLSN(a *arena, text string) uint64 {
	high, low, _ := strings.Cut(text, "/")
	h, err1 := strconv.ParseUint(high, 16, 32)
	l, err2 := strconv.ParseUint(low, 16, 32)
	a.must(errors.Join(err1, err2))
	return h<<32 | l
}

// killedBeforeSaving tries until the confirmation goes back: Postgres saves a slot
// whenever its restart_lsn moves.
func killedBeforeSaving(ctx context.Context, a *arena) {
	for range 5 {
		a.active()
		from := a.confirmed()
		if !a.comes("the slot to be confirmed further", func() bool { return a.confirmed() > from }) {
			return
		}
		a.service.kill()
		was := a.confirmed()
		a.restartPostgres(ctx, "immediate")
		back := a.confirmed() < was
		a.startService()
		if back {
			return
		}
	}
	a.missed("no crash made Postgres forget what was confirmed")
}

func killedInBatch(ctx context.Context, a *arena) {
	a.active()
	var begun []func() bool
	for _, p := range a.fronts {
		begun = append(begun, p.halve())
	}
	if _, err := a.db.Pool.Exec(ctx, fmt.Sprintf(insertBulk, 800)); err != nil {
		a.missed(err.Error())
	}
	a.comes("a batch to begin", func() bool { return slices.ContainsFunc(begun, func(b func() bool) bool { return b() }) })
	a.service.kill()
	for _, p := range a.fronts {
		p.heal()
	}
	a.startService()
}

var streamingFrom = regexp.MustCompile(`"msg":"streaming".*"sequence":(\d+)`)

// zombie leaves two instances of which each takes itself for the only one, until
// the first has noticed.
func zombie(_ context.Context, a *arena) {
	a.active()
	old := a.service
	old.signal(syscall.SIGSTOP)
	a.startService()
	published := a.comes("another instance to take over and publish", func() bool {
		all := streamingFrom.FindAllStringSubmatch(a.service.output(), -1)
		if len(all) == 0 {
			return false
		}
		from, err := strconv.ParseUint(all[len(all)-1][1], 10, 64)
		return err == nil && a.report().Stream.AckedSequence > from
	})
	old.signal(syscall.SIGCONT)
	if published && a.comes("the first instance to notice", func() bool { return old.report().Role != string(shard.RoleActive) }) {
		a.grows()
	}
	old.kill()
}

func (a *arena) restartBroker(ctx context.Context, b *testenv.NATSProcess, most time.Duration) {
	b.Kill()
	a.moment(ctx, most)
	if err := b.Start(); err != nil {
		a.t.Error(err)
	}
}

// stall stops a server and lets it go on.
func (a *arena) stall(ctx context.Context, b *testenv.NATSProcess) {
	for _, s := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGCONT} {
		if err := b.Signal(s); err != nil {
			a.t.Error(err)
		}
		a.moment(ctx, 2*time.Second)
	}
}

// leader is the server that leads the stream, or any when none is known.
func (a *arena) leader(ctx context.Context) *testenv.NATSProcess {
	if len(a.brokers) > 1 {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		if s, err := a.js.Stream(ctx, a.stream); err == nil && s.CachedInfo().Cluster != nil {
			for _, b := range a.brokers {
				if b.Name() == s.CachedInfo().Cluster.Leader {
					return b
				}
			}
		}
	}
	return a.brokers[a.rng.IntN(len(a.brokers))]
}

// forgottenIDs leaves the tail as the only thing that tells what was stored.
func forgottenIDs(ctx context.Context, a *arena) {
	a.active()
	heal := a.spoil(a.fronts, nothingReceived)
	a.grows()
	a.hold(ctx, 10*dedupeWindow)
	heal()
}

// full gives the stream no room until the service has noticed.
func full(_ context.Context, a *arena) {
	a.active()
	refused := a.report().Counters.Retries["stream_full"]
	a.limit(func(c *jetstream.StreamConfig, s *jetstream.StreamState) {
		c.MaxBytes, c.Discard = max(1, int64(s.Bytes)), jetstream.DiscardNew
	})
	a.comes("the service to find the stream full", func() bool { return a.report().Counters.Retries["stream_full"] > refused })
	a.limit(func(c *jetstream.StreamConfig, _ *jetstream.StreamState) {
		c.MaxBytes, c.Discard = -1, jetstream.DiscardOld
	})
}

// limit changes the stream's configuration.
func (a *arena) limit(change func(c *jetstream.StreamConfig, s *jetstream.StreamState)) {
	a.t.Helper()
	await(a.t, "the stream to be edited", func() (bool, string) {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		stream, err := a.js.Stream(ctx, a.stream)
		if err == nil {
			c := stream.CachedInfo().Config
			change(&c, &stream.CachedInfo().State)
			_, err = a.js.UpdateStream(ctx, c)
		}
		return err == nil, fmt.Sprint(err)
	})
}

func (a *arena) restartPostgres(ctx context.Context, mode string) {
	stopped := make(chan error, 1)
	go func() { stopped <- a.pg.Stop(mode) }()
	patient := time.After(2 * time.Second)
	for ended := false; !ended; {
		select {
		case err := <-stopped:
			if err != nil {
				a.t.Error(err)
			}
			ended = true
		case <-patient: // smart waits for connections that are idle
			if err := a.pg.Stop("fast"); err != nil {
				a.t.Error(err)
			}
		case <-time.After(50 * time.Millisecond):
			a.db.Pool.Reset()
		}
	}
	a.moment(ctx, 300*time.Millisecond)
	if err := a.pg.Start(context.WithoutCancel(ctx)); err != nil {
		a.t.Error(err)
	}
}

// silentPostgres: the service may find out by itself, or when the connection is closed.
func silentPostgres(ctx context.Context, a *arena) {
	a.active()
	a.source.freeze()
	a.hold(ctx, senderTimeout+time.Second)
	a.source.heal()
}

func statusLost(_ context.Context, a *arena) {
	a.active()
	pid := a.sender()
	heal := a.spoil(source(a), nothingSent)
	a.comes("Postgres to cut the connection", func() bool { return a.sender() != pid })
	heal()
}

func silentBroker(ctx context.Context, a *arena) {
	a.active()
	pid := a.sender()
	heal := a.spoil(a.fronts, nothingSent, nothingReceived)
	a.hold(ctx, senderTimeout+time.Second)
	if a.sender() != pid {
		a.missed("Postgres had cut the connection: " + a.pg.LogTail())
	}
	heal()
}

// outOfSenders takes every WAL sender and gives them back when the service has
// said that it has none.
func outOfSenders(ctx context.Context, a *arena) {
	a.active()
	heal := a.spoil(source(a), nothingSent)
	defer heal()
	if _, err := a.db.Pool.Exec(ctx, "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1", a.slot); err != nil {
		a.missed(err.Error())
		return
	}
	var taken []*pgconn.PgConn
	defer func() {
		for _, c := range taken {
			_ = c.Close(context.WithoutCancel(ctx))
		}
	}()
	if !a.comes("all WAL senders to be taken", func() bool {
		c, err := pgconn.Connect(ctx, a.db.URL+"&replication=database")
		if err == nil {
			taken = append(taken, c)
		}
		return a.sender() == 0 && err != nil && strings.Contains(err.Error(), "max_wal_senders")
	}) {
		return
	}
	heal()
	a.comes("the service to find no WAL sender", func() bool {
		e := a.report().LastError
		return e != nil && strings.Contains(*e, "max_wal_senders")
	})
}
