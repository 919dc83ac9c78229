package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream/internal/testenv"
	"github.com/ffstream/ffstream/migrations"
)

// arena is a world whose servers may be broken: they are its own.
type arena struct {
	*world
	pg      *testenv.Postgres
	brokers []*testenv.NATSProcess
	source  *proxy            // in front of Postgres
	fronts  []*proxy          // in front of the NATS servers
	env     map[string]string // of the service
	service *process
	rng     *rand.Rand
	struck  map[string]int
	pace    time.Duration // of the writer of bulk transactions
	rate    float64       // of lives, executions begun a second
	large   int           // executions of the greatest transaction
	written tally
	miss    string // why the fault at work did not strike
	half    int    // transactions that watch saw a part of; its own until it has ended
}

func newArena(t *testing.T, brokers int, seed uint64) *arena {
	t.Helper()
	ctx := context.Background()
	pg, err := testenv.StartPostgres(ctx, testenv.PostgresConfig{Settings: map[string]string{
		"wal_sender_timeout": senderTimeout.String(), "checkpoint_timeout": "30s", "max_wal_senders": "8",
	}})
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
	a := &arena{world: w, pg: pg, source: through(t, w.db.URL), rng: rand.New(rand.NewPCG(seed, 7)), struck: map[string]int{}, pace: 2 * time.Second, rate: 5, large: 1300}
	if brokers == 1 {
		a.brokers = []*testenv.NATSProcess{testenv.Server(t)}
	} else {
		a.brokers = testenv.Cluster(t, brokers)
	}
	var servers, fronts []string
	for _, b := range a.brokers {
		front := through(t, b.URL())
		a.fronts = append(a.fronts, front)
		servers, fronts = append(servers, b.URL()), append(fronts, front.url)
	}
	w.connect(strings.Join(servers, ","))
	// A question to a broker that is struck is lost, and asked again by who awaits the answer.
	if w.js, err = jetstream.New(w.js.Conn(), jetstream.WithDefaultTimeout(5*time.Second)); err != nil {
		t.Fatal(err)
	}
	a.env = w.env()
	a.env["FFSTREAM_NATS_URL"], a.env["FFSTREAM_STREAM_REPLICAS"] = strings.Join(fronts, ","), fmt.Sprint(brokers)
	a.env["FFSTREAM_DATABASE_URL"] = a.source.url
	return a
}

// missed says why a fault did not strike: it was too late, or the service was away.
// That is counted as nothing and fails nothing.
func (a *arena) missed(why string) { a.miss = why }

// comes waits for what a fault needs to strike, and tells whether it came.
func (a *arena) comes(what string, ok func() bool) bool {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience / 8)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			a.missed("waited in vain for " + what + ": " + lastLines(a.service.output(), 3))
			return false
		}
	}
	return true
}

// moment waits up to a bound, cut short when the test's time is up. It is how
// long a fault lasts, and asserts nothing.
func (a *arena) moment(ctx context.Context, most time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(time.Duration(a.rng.Int64N(int64(most)))):
	}
}

// hold lets a fault last, unless the test's time is up.
func (a *arena) hold(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func (a *arena) startService() { a.service = start(a.t, a.env, "run") }

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
	o.bounded = os.Getenv("FFSTREAM_FAULTS_DURATION") != "" // then there are more executions than the memory holds
	a.populate(500)
	o.forget()
	await(t, "the stream to be made", func() (bool, string) {
		_, err := a.js.CreateStream(context.Background(), jetstream.StreamConfig{
			Name: a.stream, Subjects: []string{a.prefix + ".>"}, Storage: jetstream.FileStorage, Replicas: len(a.brokers),
			AllowAtomicPublish: true, AllowDirect: true, Duplicates: dedupeWindow,
		})
		return err == nil, fmt.Sprint(err)
	})
	bucket := a.stream + "_states"
	a.keepAll(bucket, len(a.brokers))
	a.env["FFSTREAM_BACKFILL"], a.env["FFSTREAM_STATE_BUCKET"] = "initial", bucket
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
		began := time.Now()
		a.miss = ""
		f.do(ctx, a)
		if a.miss == "" {
			a.struck[f.name]++
		} else {
			a.miss = ", which did not strike: " + a.miss
		}
		t.Logf("%5.1f s  %s%s", time.Since(began).Seconds(), f.name, a.miss)
		a.alive(f.name)
		a.moment(ctx, 300*time.Millisecond)
	}
	a.awaitWritten()
	end()
	a.db.Pool.Reset() // its connections may be to a server that crashed
	a.must(a.settlePrepared(context.Background()))
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
	stands, kept := a.keeps(bucket, all)
	t.Logf("%d messages in the state bucket, held against the stream: %s", kept, &stands)
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
	return outcome{verdict: v, standing: stands, brokers: len(a.brokers), events: len(o.want), kept: kept, struck: a.struck}
}

// TestFaults strikes once with each fault; with those that concern Postgres alone,
// or no NATS server in particular, on one broker. FFSTREAM_E2E_SEED repeats it.
func TestFaults(t *testing.T) {
	t.Parallel()
	for _, brokers := range []int{1, 3} {
		t.Run(fmt.Sprintf("R%d", brokers), func(t *testing.T) {
			t.Parallel()
			seed := uint64(setting(t, "FFSTREAM_E2E_SEED", 1))
			t.Logf("FFSTREAM_E2E_SEED=%d", seed)
			var due []*fault
			for i := range faults {
				if f := &faults[i]; f.where.plays(brokers) {
					due = append(due, f)
				}
			}
			newArena(t, brokers, seed).run(seed, func(n int) *fault {
				if n == len(due) {
					return nil
				}
				return due[n]
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
			a.pace, a.rate, a.large = 100*time.Millisecond, 60, 5000
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

// faultNamed is the fault of that name.
func faultNamed(name string) *fault {
	return &faults[slices.IndexFunc(faults, func(f fault) bool { return f.name == name })]
}

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
		return faultNamed(name)
	}
	for {
		if f := &faults[a.rng.IntN(len(faults))]; f.where != cluster || len(a.brokers) > 1 {
			return f
		}
	}
}
