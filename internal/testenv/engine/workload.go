package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ffstream/ffstream"
)

// WorkloadConfig says what Run writes. The zero value is one writer that plays
// without end and as fast as it can.
type WorkloadConfig struct {
	Version    Version
	Writers    int     // concurrent, each holds a connection of the pool; zero is 1
	Rate       float64 // executions begun a second; zero is unlimited
	Executions int     // zero is until the context ends
	Seed       uint64
	Heartbeats int      // more renewals in each step that leaves an execution active
	Lanes      []string // empty is "default"
	Namespaces []string // empty is "ns-a"
	Stories    []Story  // empty is all of Stories, by weight
	// OnTransition is told of each public transition once its transaction is
	// committed: in order for one execution, from several goroutines at a time.
	OnTransition func(Transition)
}

// Transition is one public transition that was committed.
type Transition struct {
	Exec     Exec
	Op       string
	From, To ffstream.PublicState // From is empty for null
}

// Summary counts what was committed, but for RolledBack.
type Summary struct {
	Executions   int
	Transactions int
	RolledBack   int // transactions, and savepoints within committed ones
	CoreRows     int // changes of ff_exec_core that a decoder sees
	AttemptRows  int // of ff_attempt
	Transitions  int
	ByState      map[ffstream.PublicState]int // of the transitions, where they led
}

func (s *Summary) add(o Summary) {
	s.Executions += o.Executions
	s.Transactions += o.Transactions
	s.RolledBack += o.RolledBack
	s.CoreRows += o.CoreRows
	s.AttemptRows += o.AttemptRows
	s.Transitions += o.Transitions
	for state, n := range o.ByState {
		if s.ByState == nil {
			s.ByState = map[ffstream.PublicState]int{}
		}
		s.ByState[state] += n
	}
}

// Run plays life stories until cfg.Executions were played or ctx ends; that it
// ended is no error when there is no number of them. A transaction that began is
// finished, so the summary is exact, unless an error is returned: then the last
// transaction of a writer may be in doubt. What is played depends on the seed
// and the number of writers alone; the interleaving of writers does not repeat.
func Run(ctx context.Context, pool *pgxpool.Pool, cfg WorkloadConfig) (Summary, error) {
	cfg.Writers = max(cfg.Writers, 1)
	if most := pool.Config().MaxConns; cfg.Writers > int(most) {
		return Summary{}, fmt.Errorf("start writers: %d want a connection each, the pool has %d", cfg.Writers, most)
	}
	if len(cfg.Lanes) == 0 {
		cfg.Lanes = []string{"default"}
	}
	if len(cfg.Namespaces) == 0 {
		cfg.Namespaces = []string{"ns-a"}
	}
	if len(cfg.Stories) == 0 {
		cfg.Stories = Stories()
	}
	p, err := pick(cfg)
	if err != nil {
		return Summary{}, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex // guards total and errs
		total = Summary{ByState: map[ffstream.PublicState]int{}}
		errs  []error
		start = time.Now()
	)
	for number := range cfg.Writers {
		wg.Go(func() {
			w := &writer{
				cfg: cfg, picker: p, next: number, start: start,
				engine: &Engine{Version: cfg.Version, Worker: fmt.Sprintf("worker-%d", number)},
				rng:    rand.New(rand.NewPCG(cfg.Seed, uint64(number)^0x9e3779b97f4a7c15)),
				sum:    Summary{ByState: map[ffstream.PublicState]int{}},
			}
			err := w.run(ctx, pool)
			if err != nil {
				cancel(err)
			}
			mu.Lock()
			defer mu.Unlock()
			total.add(w.sum)
			if err != nil {
				errs = append(errs, err)
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return total, err
	}
	if cfg.Executions > 0 && total.Executions < cfg.Executions {
		return total, context.Cause(ctx)
	}
	return total, nil
}

// picker draws stories by weight.
type picker struct {
	stories []Story
	sums    []int // running sums of the weights
}

func pick(cfg WorkloadConfig) (picker, error) {
	var p picker
	sum := 0
	for _, s := range cfg.Stories {
		if s.Weight > 0 && s.Plays(cfg.Version) {
			sum += s.Weight
			p.stories, p.sums = append(p.stories, s), append(p.sums, sum)
		}
	}
	if sum == 0 {
		return p, errors.New("pick stories: none has a weight and can be played by this version")
	}
	return p, nil
}

func (p *picker) draw(rng *rand.Rand) *Story {
	n := rng.IntN(p.sums[len(p.sums)-1])
	for i, sum := range p.sums {
		if n < sum {
			return &p.stories[i]
		}
	}
	return &p.stories[0]
}

// life is a group of executions that go through one story together: a step of
// all of them is one transaction.
type life struct {
	story *Story
	step  int
	execs []Exec
	beats int // renewals still due
}

// window is how many lives a writer interleaves.
const window = 8

// writer plays the executions next, next+Writers, next+2*Writers and so on.
type writer struct {
	cfg    WorkloadConfig
	conn   *pgxpool.Conn
	picker picker
	engine *Engine
	rng    *rand.Rand // which life goes on
	next   int
	start  time.Time
	open   []*life
	sum    Summary
}

func (w *writer) run(ctx context.Context, pool *pgxpool.Pool) (err error) {
	conn, release, err := session(context.WithoutCancel(ctx), pool, "plan_cache_mode=force_custom_plan")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	w.conn = conn
	for ctx.Err() == nil {
		for len(w.open) < window && w.due() {
			w.begin()
		}
		if len(w.open) == 0 {
			if w.exhausted() {
				return nil
			}
			w.wait(ctx)
			continue
		}
		i := w.rng.IntN(len(w.open))
		if err := w.advance(ctx, w.open[i]); err != nil {
			return err
		}
		if l := w.open[i]; l.beats == 0 && l.step == len(l.story.Steps) {
			w.sum.Executions += len(l.execs)
			w.open = append(w.open[:i], w.open[i+1:]...)
		}
	}
	return nil
}

func (w *writer) exhausted() bool { return w.cfg.Executions > 0 && w.next >= w.cfg.Executions }

// when is the time at which the next execution may begin.
func (w *writer) when() time.Time {
	if w.cfg.Rate <= 0 {
		return w.start
	}
	return w.start.Add(time.Duration(float64(w.next) / w.cfg.Rate * float64(time.Second)))
}

func (w *writer) due() bool { return !w.exhausted() && !time.Now().Before(w.when()) }

func (w *writer) wait(ctx context.Context) {
	t := time.NewTimer(time.Until(w.when()))
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// begin opens a life: one execution, or a few that go together.
func (w *writer) begin() {
	rng := rand.New(rand.NewPCG(w.cfg.Seed, uint64(w.next)))
	l := &life{story: w.picker.draw(rng)}
	n := 1
	if rng.IntN(20) == 0 {
		n += 1 + rng.IntN(4)
	}
	partition := int16(rng.IntN(256))
	for range n {
		if w.exhausted() {
			break
		}
		var id uuid.UUID
		for i := range id {
			id[i] = byte(rng.Uint32())
		}
		id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
		l.execs = append(l.execs, Exec{
			Partition: partition, ID: id,
			Lane:      w.cfg.Lanes[rng.IntN(len(w.cfg.Lanes))],
			Namespace: w.cfg.Namespaces[rng.IntN(len(w.cfg.Namespaces))],
			Kind:      "task", Tags: map[string]string{"cairn.instance_id": fmt.Sprintf("i-%d", rng.IntN(4))},
		})
		w.next += w.cfg.Writers
	}
	w.open = append(w.open, l)
}

// advance plays the next transaction of a life: a renewal when one is due, else
// a step, now and then after an attempt that was rolled back.
func (w *writer) advance(ctx context.Context, l *life) error {
	if l.beats > 0 {
		l.beats--
		return w.transact(ctx, l, w.heartbeat(l), false)
	}
	step := &l.story.Steps[l.step]
	chance := w.rng.IntN(100)
	if chance < 3 {
		if err := w.transact(ctx, l, step, true); err != nil {
			return err
		}
	}
	if err := w.transactSaved(ctx, l, step, chance >= 97); err != nil {
		return err
	}
	if step.Event && step.State == ffstream.StateActive {
		l.beats = w.cfg.Heartbeats
	}
	l.step++
	return nil
}

func (w *writer) heartbeat(l *life) *Step {
	do := (*Engine).Renew
	if last := &l.story.Steps[l.step-1]; last.Op == "TCL" {
		do = (*Engine).TypedRenew
	}
	return &Step{Op: "RN", Do: simple(do)}
}

func (w *writer) transact(ctx context.Context, l *life, step *Step, rollback bool) error {
	if !rollback {
		return w.transactSaved(ctx, l, step, false)
	}
	ctx = context.WithoutCancel(ctx) // a transaction that began is finished
	err := pgx.BeginFunc(ctx, w.conn, func(tx pgx.Tx) error {
		if err := w.play(ctx, tx, l, step); err != nil {
			return err
		}
		return errAbandoned
	})
	if errors.Is(err, errAbandoned) {
		w.sum.RolledBack++
		return nil
	}
	return err
}

var errAbandoned = errors.New("rolled back on purpose")

// transactSaved commits a step; with saved, after the same step was done and
// undone inside a savepoint.
func (w *writer) transactSaved(ctx context.Context, l *life, step *Step, saved bool) error {
	// A commit whose answer is not awaited would leave the counts in doubt.
	ctx = context.WithoutCancel(ctx)
	count := &counter{}
	err := pgx.BeginFunc(ctx, w.conn, func(tx pgx.Tx) error {
		if saved {
			if err := w.undone(ctx, tx, l, step); err != nil {
				return err
			}
		}
		count.Tx = tx
		return w.play(ctx, count, l, step)
	})
	if err != nil {
		return fmt.Errorf("play step %d of %q: %w", l.step, l.story.Name, err)
	}
	w.sum.Transactions++
	w.sum.CoreRows += count.core
	w.sum.AttemptRows += count.attempt
	if !step.Event {
		return nil
	}
	for _, x := range l.execs {
		w.sum.Transitions++
		w.sum.ByState[step.State]++
		if w.cfg.OnTransition != nil {
			w.cfg.OnTransition(Transition{Exec: x, Op: step.Op, From: step.From, To: step.State})
		}
	}
	return nil
}

func (w *writer) undone(ctx context.Context, tx pgx.Tx, l *life, step *Step) error {
	err := pgx.BeginFunc(ctx, tx, func(nested pgx.Tx) error {
		if err := w.play(ctx, nested, l, step); err != nil {
			return err
		}
		return errAbandoned
	})
	if !errors.Is(err, errAbandoned) {
		return err
	}
	w.sum.RolledBack++
	return nil
}

func (w *writer) play(ctx context.Context, tx Tx, l *life, step *Step) error {
	for _, x := range l.execs {
		if err := step.Do(ctx, w.engine, tx, x); err != nil {
			return err
		}
	}
	return nil
}
