package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream/internal/backfill"
	"github.com/ffstream/ffstream/internal/testenv/engine"
)

// tally counts what succeeded, by name.
type tally struct {
	mu sync.Mutex // guards n
	n  map[string]int
}

func (c *tally) of(name string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n[name]
}

func (c *tally) add(name string, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = map[string]int{}
	}
	c.n[name] += n
}

// write plays lives and bulk transactions until ctx ends. Statements fail while
// Postgres is down, and what then became of them is for the log to say; written
// counts those that did not.
func (a *arena) write(ctx context.Context, seed uint64) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for n := uint64(0); ctx.Err() == nil; n++ {
			_, _ = engine.Run(ctx, a.db.Pool, engine.WorkloadConfig{
				Version: engine.Newest, Writers: 4, Rate: a.rate, Seed: seed + n<<32, Heartbeats: 1,
				Lanes: []string{"default", "other lane"}, Namespaces: []string{"ns-a", "ns-b"},
				OnTransition: func(engine.Transition) { a.written.add(steps, 1) },
			})
			pause(ctx, a.pace)
		}
	})
	wg.Go(func() {
		rng := rand.New(rand.NewPCG(seed, 8))
		for n := 0; ctx.Err() == nil; n++ {
			d := &deeds[n%len(deeds)]
			if tag, err := a.db.Pool.Exec(ctx, d.sql(rng, a.large, n)); err == nil && (!d.touches || tag.RowsAffected() > 0) {
				a.written.add(d.name, 1)
			}
			pause(ctx, a.pace)
		}
	})
}

// What the writers do beside their deeds, and the watcher.
const (
	steps      = "steps of lives"
	committed  = "prepared transactions committed"
	rolledBack = "prepared transactions rolled back"
	watched    = "transactions looked at while they were stored"
)

const insertBulk = `INSERT INTO ff_exec_core (partition_key, execution_id, lane_id, lifecycle_phase, ownership_state, eligibility_state, public_state, attempt_state, created_at_ms, raw_fields)
	SELECT n %% 256, gen_random_uuid(), 'bulk', 'submitted', 'unowned', 'eligible_now', 'waiting', 'pending', n, '{"namespace":"ns-bulk"}' FROM generate_series(1, %d) n`

// deed is a kind of transaction of many executions.
type deed struct {
	name    string
	touches bool // it counts when it touched a row
	sql     func(rng *rand.Rand, large, n int) string
}

var deeds = []deed{
	{"a few executions", true, func(rng *rand.Rand, _, _ int) string { return fmt.Sprintf(insertBulk, 2+rng.IntN(20)) }},
	{"up to a batch", true, func(rng *rand.Rand, large, _ int) string {
		return fmt.Sprintf(insertBulk, 100+rng.IntN(min(901, large-1000)))
	}},
	{"more than a batch", true, func(rng *rand.Rand, large, _ int) string { return fmt.Sprintf(insertBulk, 1001+rng.IntN(large-1000)) }},
	{"deletion", true, func(*rand.Rand, int, int) string {
		return "DELETE FROM ff_exec_core WHERE lane_id = 'bulk' AND partition_key = (SELECT max(partition_key) FROM ff_exec_core WHERE lane_id = 'bulk')"
	}},
	{"savepoint rolled back", false, func(rng *rand.Rand, _, _ int) string {
		return fmt.Sprintf("BEGIN; %s; SAVEPOINT s; DELETE FROM ff_exec_core WHERE lane_id = 'bulk'; ROLLBACK TO s; COMMIT", fmt.Sprintf(insertBulk, 1+rng.IntN(5)))
	}},
	{"prepared transaction", false, func(rng *rand.Rand, _, n int) string {
		return fmt.Sprintf("BEGIN; %s; PREPARE TRANSACTION 'p%d'", fmt.Sprintf(insertBulk, 1+rng.IntN(50)), n)
	}},
	{"cancellation", true, func(*rand.Rand, int, int) string {
		return "UPDATE ff_exec_core SET lifecycle_phase = 'cancelled', public_state = 'cancelled', cancelled_by = 'cancel_flow' WHERE lane_id = 'bulk' AND lifecycle_phase = 'submitted'"
	}},
}

// awaitWritten lets the writers go on until every kind of transaction was committed.
func (a *arena) awaitWritten() {
	a.t.Helper()
	names := []string{steps, committed, rolledBack, watched}
	for i := range deeds {
		names = append(names, deeds[i].name)
	}
	for _, name := range names {
		await(a.t, name, func() (bool, string) { return a.written.of(name) > 0, lastLines(a.service.output(), 5) })
	}
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
		_ = a.settlePrepared(ctx) // the end settles what is left
	}
	return runs
}

// settlePrepared ends the prepared transactions, every second by a rollback.
func (a *arena) settlePrepared(ctx context.Context) error {
	var gids []string
	if err := a.db.Pool.QueryRow(ctx, "SELECT coalesce(array_agg(gid ORDER BY gid), '{}') FROM pg_prepared_xacts").Scan(&gids); err != nil {
		return err
	}
	for _, gid := range gids {
		end, name := "COMMIT", committed
		if strings.ContainsRune("13579", rune(gid[len(gid)-1])) {
			end, name = "ROLLBACK", rolledBack
		}
		if _, err := a.db.Pool.Exec(ctx, end+" PREPARED '"+gid+"'"); err != nil {
			return err
		}
		a.written.add(name, 1)
	}
	return nil
}

// filled waits until the backfill that is open has ended, as long as it gets on.
func (a *arena) filled() {
	a.t.Helper()
	order, _, found, err := a.orders().Current(context.Background())
	a.must(err)
	if !found {
		a.t.Fatal("no backfill was ordered")
	}
	a.ended(order.Run)
}

// watch reads the stream while it grows and looks for transactions of which only
// a part can be read: when the first event of one was delivered, the last message
// that the stream's leader has is not one from its middle. That is asked of the
// leader: a consumer is handed the messages of a batch one by one, in a cluster
// nats-server lets it begin while it writes the rest, and a direct read is
// answered by any replica.
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
	open, half := "", ""
	for {
		m, err := messages.Next()
		if err != nil {
			return err
		}
		if !isTransition(m.Data()) {
			continue // snapshots stand between the batches of a large transaction
		}
		commit, index, _ := strings.Cut(m.Headers().Get("Ffstream-Position"), "/")
		if commit != open {
			began := open != "" // the consumer's first transaction may have begun before it did
			open, half = commit, ""
			if began && !isLast(m.Data()) {
				position, last, err := a.end(ctx)
				if err != nil {
					return err
				}
				if strings.HasPrefix(position, commit) && !last {
					half = position
				}
				a.written.add(watched, 1)
			}
		}
		if half != "" && isLast(m.Data()) {
			// There are no more events than the last one's index says.
			if n, err := strconv.ParseUint(index, 16, 32); err == nil && n < wholeUpTo {
				a.half++
				a.t.Errorf("transaction %s was half visible: the stream ended with %s, the transaction with %s", commit, half, index)
			}
		}
	}
}

// end asks the stream's leader for the last message: its position, and whether it
// is the last of its transaction.
func (a *arena) end(ctx context.Context) (position string, last bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	reply, err := a.js.Conn().RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+a.stream, fmt.Appendf(nil, `{"last_by_subj":"%s.>"}`, a.prefix))
	if err != nil {
		return "", false, err
	}
	var answer struct {
		Message struct {
			Header []byte `json:"hdrs"`
			Data   []byte `json:"data"`
		} `json:"message"`
	}
	if err := json.Unmarshal(reply.Data, &answer); err != nil {
		return "", false, err
	}
	header, err := nats.DecodeHeadersMsg(answer.Message.Header)
	return header.Get("Ffstream-Position"), isLast(answer.Message.Data), err
}

func isLast(body []byte) bool { return bytes.Contains(body, []byte(`"last":true`)) }

// pause keeps a writer from spinning while Postgres is down.
func pause(ctx context.Context, pace time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(pace):
	}
}
