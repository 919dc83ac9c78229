package e2e

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream/internal/backfill"
	"github.com/ffstream/ffstream/internal/testenv"
	"github.com/ffstream/ffstream/internal/testenv/engine"
	"github.com/ffstream/ffstream/migrations"
)

// arena is a world whose servers may be broken: they are its own.
type arena struct {
	*world
	pg      *testenv.Postgres
	brokers []*testenv.NATSProcess
	source  *proxy            // in front of Postgres
	broker  *proxy            // in front of the only NATS server; nil with a cluster
	env     map[string]string // of the service
	service *process
	rng     *rand.Rand
	struck  map[string]int
	pace    time.Duration // of the writer of bulk transactions
	half    int           // transactions that watch saw a part of; its own until it has ended
	watched int           // transactions of several events that watch looked at; likewise
}

func newArena(t *testing.T, brokers int, seed uint64) *arena {
	t.Helper()
	ctx := context.Background()
	pg, err := testenv.StartPostgres(ctx, testenv.PostgresConfig{Settings: map[string]string{"wal_sender_timeout": "4s", "checkpoint_timeout": "30s"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := pg.Close(); err != nil {
			t.Error(err)
		}
	})
	w := &world{t: t, slot: "ffstream", stream: "FFSTREAM", prefix: "ff", db: &testenv.Database{Name: "postgres", URL: pg.URL("postgres")}}
	if err := migrations.EngineSchema(ctx, w.db.URL, migrations.EngineNewest); err != nil {
		t.Fatal(err)
	}
	if p := start(t, map[string]string{"FFSTREAM_DATABASE_URL": w.db.URL}, "migrate"); p.code() != 0 {
		t.Fatal(p.output())
	}
	cfg, err := pgxpool.ParseConfig(w.db.URL)
	if err != nil {
		t.Fatal(err)
	}
	cfg.MaxConns = 16
	if w.db.Pool, err = pgxpool.NewWithConfig(ctx, cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.db.Pool.Close)
	a := &arena{world: w, pg: pg, source: through(t, w.db.URL), rng: rand.New(rand.NewPCG(seed, 7)), struck: map[string]int{}, pace: 100 * time.Millisecond}
	if brokers == 1 {
		a.brokers = []*testenv.NATSProcess{testenv.Server(t)}
		a.broker = through(t, a.brokers[0].URL())
		w.connect(a.brokers[0].URL())
		a.env = w.env()
		a.env["FFSTREAM_NATS_URL"] = a.broker.url
	} else {
		a.brokers = testenv.Cluster(t, brokers)
		var urls []string
		for _, b := range a.brokers {
			urls = append(urls, b.URL())
		}
		w.connect(strings.Join(urls, ","))
		a.env = w.env()
		a.env["FFSTREAM_STREAM_REPLICAS"] = fmt.Sprint(brokers)
	}
	a.env["FFSTREAM_DATABASE_URL"] = a.source.url
	return a
}

// moment waits up to a bound, cut short when the test's time is up. It is how
// long a fault lasts, and asserts nothing.
func (a *arena) moment(ctx context.Context, most time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(time.Duration(a.rng.Int64N(int64(most)))):
	}
}

func (a *arena) startService() { a.service = start(a.t, a.env, "run") }

// fault is one way in which the world breaks and heals.
type fault struct {
	name  string
	did   string // what is done, for the report
	alone bool   // needs the only NATS server and its proxy
	do    func(ctx context.Context, a *arena)
}

func toxic(side func(a *arena) *proxy, spec string, most time.Duration) func(ctx context.Context, a *arena) {
	return func(ctx context.Context, a *arena) {
		p := side(a)
		p.add(spec)
		a.moment(ctx, most)
		p.heal()
	}
}

func source(a *arena) *proxy { return a.source }
func broker(a *arena) *proxy { return a.broker }

var faults = []fault{
	{"ffstream killed", "SIGKILL, started again", false, func(_ context.Context, a *arena) {
		a.service.kill()
		a.startService()
	}},
	{"ffstream stopped and continued, another taking over", "SIGSTOP for up to 6 s, beyond `wal_sender_timeout`, while a second instance takes over; SIGCONT beside it; SIGKILL", false, func(ctx context.Context, a *arena) {
		zombie := a.service
		zombie.signal(syscall.SIGSTOP)
		a.startService()
		a.moment(ctx, 6*time.Second) // beyond wal_sender_timeout, the server gives the slot away
		zombie.signal(syscall.SIGCONT)
		a.moment(ctx, time.Second)
		zombie.kill()
	}},
	{"ffstream told to end and started", "SIGTERM, started again", false, func(_ context.Context, a *arena) {
		a.service.signal(syscall.SIGTERM)
		a.service.code()
		a.startService()
	}},
	{"Postgres crashed", "`pg_ctl stop -m immediate`: confirmations since the last checkpoint are forgotten", false, func(ctx context.Context, a *arena) { a.restartPostgres(ctx, "immediate") }},
	{"Postgres restarted", "`pg_ctl stop -m fast`", false, func(ctx context.Context, a *arena) { a.restartPostgres(ctx, "fast") }},
	{"NATS killed", "SIGKILL of any server, started again", false, func(ctx context.Context, a *arena) {
		b := a.brokers[a.rng.IntN(len(a.brokers))]
		b.Kill()
		a.moment(ctx, time.Second)
		if err := b.Start(); err != nil {
			a.t.Error(err)
		}
	}},
	{"NATS leader killed", "SIGKILL of the stream's leader", false, func(ctx context.Context, a *arena) {
		b := a.leader(ctx)
		b.Kill()
		a.moment(ctx, 2*time.Second)
		if err := b.Start(); err != nil {
			a.t.Error(err)
		}
	}},
	{"NATS stopped and continued", "SIGSTOP and SIGCONT of the leader", false, func(ctx context.Context, a *arena) {
		b := a.leader(ctx)
		for _, s := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGCONT} {
			if err := b.Signal(s); err != nil {
				a.t.Error(err)
			}
			a.moment(ctx, 2*time.Second)
		}
	}},
	{"connection to Postgres reset", "TCP reset", false, toxic(source, `{"name":"x","type":"reset_peer","stream":"downstream","attributes":{"timeout":0}}`, time.Second)},
	{"connection to Postgres cut mid-way", "closed after 20 000 bytes, in the middle of a transaction", false, toxic(source, `{"name":"x","type":"limit_data","stream":"downstream","attributes":{"bytes":20000}}`, time.Second)},
	{"Postgres silent", "nothing arrives for up to 6 s", false, toxic(source, `{"name":"x","type":"timeout","stream":"downstream","attributes":{"timeout":0}}`, 6*time.Second)},
	{"status messages lost", "nothing reaches Postgres for up to 6 s, beyond `wal_sender_timeout`", false, toxic(source, `{"name":"x","type":"timeout","stream":"upstream","attributes":{"timeout":0}}`, 6*time.Second)},
	{"Postgres throttled", "200 KB/s", false, toxic(source, `{"name":"x","type":"bandwidth","stream":"downstream","attributes":{"rate":200}}`, 2*time.Second)},
	{"Postgres in small pieces", "packets of 10 to 70 bytes", false, toxic(source, `{"name":"x","type":"slicer","stream":"downstream","attributes":{"average_size":40,"size_variation":30,"delay":10}}`, time.Second)},
	{"connection to NATS reset", "TCP reset", true, toxic(broker, `{"name":"x","type":"reset_peer","stream":"downstream","attributes":{"timeout":0}}`, time.Second)},
	{"connection to NATS cut mid-way", "closed after 20 000 bytes, in the middle of a batch", true, toxic(broker, `{"name":"x","type":"limit_data","stream":"upstream","attributes":{"bytes":20000}}`, time.Second)},
	{"acknowledgements lost", "nothing arrives from NATS for up to 3 s while publishes are stored", true, toxic(broker, `{"name":"x","type":"timeout","stream":"downstream","attributes":{"timeout":0}}`, 3*time.Second)},
	{"publishes lost", "nothing reaches NATS for up to 3 s", true, toxic(broker, `{"name":"x","type":"timeout","stream":"upstream","attributes":{"timeout":0}}`, 3*time.Second)},
	{"NATS silent longer than wal_sender_timeout", "6 s of latency", true, toxic(broker, `{"name":"x","type":"latency","stream":"upstream","attributes":{"latency":6000}}`, 7*time.Second)},
	{"NATS slow", "100 to 500 ms of latency", true, toxic(broker, `{"name":"x","type":"latency","stream":"downstream","attributes":{"latency":300,"jitter":200}}`, 2*time.Second)},
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

func (a *arena) restartPostgres(ctx context.Context, mode string) {
	if err := a.pg.Stop(mode); err != nil {
		a.t.Error(err)
	}
	a.moment(ctx, 300*time.Millisecond)
	if err := a.pg.Start(context.WithoutCancel(ctx)); err != nil {
		a.t.Error(err)
	}
}

// write plays lives and bulk transactions until ctx ends. Statements fail while
// Postgres is down, and what then became of them is for the log to say.
func (a *arena) write(ctx context.Context, seed uint64) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for n := uint64(0); ctx.Err() == nil; n++ {
			_, _ = engine.Run(ctx, a.db.Pool, engine.WorkloadConfig{
				Version: engine.Newest, Writers: 4, Rate: 60, Seed: seed + n<<32, Heartbeats: 1,
				Lanes: []string{"default", "other lane"}, Namespaces: []string{"ns-a", "ns-b"},
			})
			pause(ctx, a.pace)
		}
	})
	wg.Go(func() {
		rng := rand.New(rand.NewPCG(seed, 8))
		for ctx.Err() == nil {
			_, _ = a.db.Pool.Exec(ctx, bulk[rng.IntN(len(bulk))](rng))
			pause(ctx, a.pace)
		}
	})
}

// refill orders one backfill after the other until ctx ends, and settles the
// prepared transactions, which a backfill waits for. It returns how many it
// ordered, and the initial one.
func (a *arena) refill(ctx context.Context) int {
	runs := 1
	for ctx.Err() == nil {
		if store, err := backfill.Open(ctx, a.js, a.bucket()); err == nil {
			if _, err := store.Place(ctx, backfill.Order{}); err == nil {
				runs++
			}
		}
		pause(ctx, 5*a.pace)
		var gids []string
		if err := a.db.Pool.QueryRow(ctx, "SELECT coalesce(array_agg(gid ORDER BY gid), '{}') FROM pg_prepared_xacts").Scan(&gids); err != nil {
			continue
		}
		for i, gid := range gids {
			_, _ = a.db.Pool.Exec(ctx, []string{"COMMIT", "ROLLBACK"}[i%2]+" PREPARED '"+gid+"'") // the end settles what is left
		}
	}
	return runs
}

// filled waits until the backfill that is open has ended.
func (a *arena) filled() {
	a.t.Helper()
	store := a.orders()
	await(a.t, "the last backfill to end", func() (bool, string) {
		order, report, found, err := store.Current(context.Background())
		a.must(err)
		return found && report.State.Ended(), fmt.Sprintf("%+v %+v %s", order, report, lastLines(a.service.output(), 5))
	})
}

// pause keeps a writer from spinning while Postgres is down.
func pause(ctx context.Context, pace time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(pace):
	}
}

const insertBulk = `INSERT INTO ff_exec_core (partition_key, execution_id, lane_id, lifecycle_phase, ownership_state, eligibility_state, public_state, attempt_state, created_at_ms, raw_fields)
	SELECT n %% 256, gen_random_uuid(), 'bulk', 'submitted', 'unowned', 'eligible_now', 'waiting', 'pending', n, '{"namespace":"ns-bulk"}' FROM generate_series(1, %d) n`

// bulk are transactions of many executions.
var bulk = []func(rng *rand.Rand) string{
	func(rng *rand.Rand) string { return fmt.Sprintf(insertBulk, 2+rng.IntN(20)) },
	func(rng *rand.Rand) string { return fmt.Sprintf(insertBulk, 900+rng.IntN(4100)) },
	func(*rand.Rand) string {
		return "UPDATE ff_exec_core SET lifecycle_phase = 'cancelled', public_state = 'cancelled', cancelled_by = 'cancel_flow' WHERE lane_id = 'bulk' AND lifecycle_phase = 'submitted'"
	},
	func(rng *rand.Rand) string {
		return fmt.Sprintf("DELETE FROM ff_exec_core WHERE lane_id = 'bulk' AND partition_key = %d", rng.IntN(256))
	},
	func(rng *rand.Rand) string {
		return fmt.Sprintf("BEGIN; %s; SAVEPOINT s; DELETE FROM ff_exec_core WHERE lane_id = 'bulk'; ROLLBACK TO s; COMMIT", fmt.Sprintf(insertBulk, 1+rng.IntN(5)))
	},
	func(rng *rand.Rand) string {
		return fmt.Sprintf("BEGIN; %s; PREPARE TRANSACTION 'p%d'", fmt.Sprintf(insertBulk, 1+rng.IntN(50)), rng.Uint32())
	},
	func(*rand.Rand) string {
		return "SELECT 'the prepared ones are settled at the end'"
	},
}

// settlePrepared ends the prepared transactions, half of them by a rollback.
func (a *arena) settlePrepared() {
	rows, err := a.db.Pool.Query(context.Background(), "SELECT gid FROM pg_prepared_xacts ORDER BY gid")
	if err != nil {
		a.t.Fatal(err)
	}
	defer rows.Close()
	var gids []string
	for rows.Next() {
		var gid string
		if err := rows.Scan(&gid); err != nil {
			a.t.Fatal(err)
		}
		gids = append(gids, gid)
	}
	rows.Close()
	for i, gid := range gids {
		a.exec([]string{"COMMIT", "ROLLBACK"}[i%2] + " PREPARED '" + gid + "'")
	}
}

// watch reads the stream while it grows and looks for transactions of which only
// a part can be read: when the first event of one was delivered, the last message
// that the stream has is not one from its middle. That is asked of the stream:
// a consumer is handed the messages of a batch one by one, and in a cluster
// nats-server lets it begin while it writes the rest.
func (a *arena) watch(ctx context.Context) {
	for ctx.Err() == nil {
		if err := a.watchOnce(ctx); err != nil {
			pause(ctx, a.pace)
		}
	}
}

func (a *arena) watchOnce(ctx context.Context) error {
	stream, err := a.js.Stream(ctx, a.stream)
	if err != nil {
		return err
	}
	consumer, err := stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverNewPolicy})
	if err != nil {
		return err
	}
	messages, err := consumer.Messages()
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, messages.Stop)()
	defer messages.Stop()
	open, first, half := "", uint64(0), ""
	for {
		m, err := messages.Next()
		if err != nil {
			return err
		}
		meta, err := m.Metadata()
		if err != nil {
			return err
		}
		commit, index, _ := strings.Cut(m.Headers().Get("Ffstream-Position"), "/")
		if commit != open {
			open, first, half = commit, 0, ""
			if index == "0000" && !isLast(m.Data()) { // one that began before this consumer did is not looked at
				end, err := stream.GetLastMsgForSubject(ctx, a.prefix+".>")
				if err != nil {
					return err
				}
				first = meta.Sequence.Stream
				if position := end.Header.Get("Ffstream-Position"); strings.HasPrefix(position, commit) && !isLast(end.Data) {
					half = position
				}
			}
		}
		if size := meta.Sequence.Stream - first + 1; half != "" && isLast(m.Data()) && size <= 1000 {
			a.t.Errorf("transaction %s of %d events was half visible: the stream ended with %s", commit, size, half)
		}
	}
}

func isLast(body []byte) bool { return bytes.Contains(body, []byte(`"last":true`)) }

// alive checks that the service runs: a fault that waiting mends ends nothing.
func (a *arena) alive(after string) {
	a.t.Helper()
	select {
	case <-a.service.done:
		a.t.Fatalf("after %q the service ended by itself with code %d: %s", after, a.service.cmd.ProcessState.ExitCode(), lastLines(a.service.output(), 3))
	default:
	}
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// run strikes with the faults that next gives until it gives none, while writers
// go on, and then holds the stream against the oracle.
func (a *arena) run(seed uint64, next func(n int) *fault) outcome {
	t := a.t
	t.Helper()
	o := newOracle(a.world)
	a.populate(2000)
	o.forget()
	a.env["FFSTREAM_BACKFILL"] = "initial"
	a.startService()
	a.awaitActive(a.service)
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { a.write(ctx, seed) })
	runs := 0
	wg.Go(func() { runs = a.refill(ctx) })
	wg.Go(func() { a.watch(ctx) })
	ended := false
	end := func() {
		if !ended {
			ended = true
			stop()
			wg.Wait()
		}
	}
	defer end()
	for n := 0; ; n++ {
		f := next(n)
		if f == nil {
			break
		}
		if f.alone && a.broker == nil {
			continue
		}
		f.do(ctx, a)
		a.struck[f.name]++
		a.alive(f.name)
		a.moment(ctx, 300*time.Millisecond)
	}
	end()
	a.db.Pool.Reset() // its connections may be to a server that crashed
	a.settlePrepared()
	a.awaitActive(a.service)
	a.filled()
	a.caughtUp(a.service)
	all := a.stored()
	transitions, added := split(t, all)
	v := o.compareWith(transitions)
	v.half += a.half
	t.Logf("%d events, none lost, none twice, all in order; %d snapshots of %d backfills beside them, none twice in a run, none that contradicts; faults:", len(o.want), a.snapshotted(all), runs)
	if len(added) == 0 {
		t.Error("no backfill published anything")
	}
	names := make([]string, 0, len(a.struck))
	for name := range a.struck {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		t.Logf("  %4d  %s", a.struck[name], name)
	}
	if len(o.want) == 0 {
		t.Error("nothing was published")
	}
	a.service.stop()
	return outcome{verdict: v, brokers: len(a.brokers), events: len(o.want), struck: a.struck}
}

// TestFaults strikes once with each fault.
func TestFaults(t *testing.T) {
	t.Parallel()
	for _, brokers := range []int{1, 3} {
		t.Run(fmt.Sprintf("R%d", brokers), func(t *testing.T) {
			t.Parallel()
			seed := uint64(setting(t, "FFSTREAM_E2E_SEED", 1))
			newArena(t, brokers, seed).run(seed, func(n int) *fault {
				if n == len(faults) {
					return nil
				}
				return &faults[n]
			})
		})
	}
}

// TestFaultMix strikes at random for as long as FFSTREAM_FAULTS_DURATION says and
// until FFSTREAM_FAULTS_KILLS processes of each kind were killed, and a fifth of
// that in a cluster.
func TestFaultMix(t *testing.T) {
	text := os.Getenv("FFSTREAM_FAULTS_DURATION")
	if text == "" {
		t.Skip("make faults runs it")
	}
	duration, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	kills := setting(t, "FFSTREAM_FAULTS_KILLS", 0)
	seed := uint64(setting(t, "FFSTREAM_E2E_SEED", int(time.Now().UnixNano()&0xffffff)))
	var outcomes []outcome
	for _, brokers := range []int{1, 3} {
		t.Run(fmt.Sprintf("R%d", brokers), func(t *testing.T) {
			t.Logf("FFSTREAM_E2E_SEED=%d", seed)
			a := newArena(t, brokers, seed)
			if kills > 0 {
				a.pace = time.Second // the oracle holds every event
			}
			if brokers > 1 {
				kills /= 5 // an election takes its time
			}
			over := time.Now().Add(duration / 2)
			outcomes = append(outcomes, a.run(seed, func(int) *fault { return a.any(over, kills) }))
		})
	}
	if path := os.Getenv("FFSTREAM_FAULTS_REPORT"); path != "" && !t.Failed() {
		if err := report(path, seed, outcomes); err != nil {
			t.Fatal(err)
		}
	}
}

// killings are the faults that FFSTREAM_FAULTS_KILLS counts.
var killings = []string{"ffstream killed", "Postgres crashed", "NATS killed"}

// any picks a fault until the time is over and there were kills enough; while
// there were not, most are kills.
func (a *arena) any(over time.Time, kills int) *fault {
	var due []string
	for _, name := range killings {
		if a.struck[name] < kills {
			due = append(due, name)
		}
	}
	if len(due) == 0 && time.Now().After(over) {
		return nil
	}
	if len(due) > 0 && a.rng.IntN(8) > 0 {
		name := due[a.rng.IntN(len(due))]
		return &faults[slices.IndexFunc(faults, func(f fault) bool { return f.name == name })]
	}
	return &faults[a.rng.IntN(len(faults))]
}
