package reader_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/reader"
)

// One read of one execution.
func ExampleReader_ExecutionState() {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, os.Getenv("FFSTREAM_DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()

	id, err := ffstream.ParseExecutionID("{fp:86}:0190f5c2-0000-7000-8000-000000000001")
	if err != nil {
		log.Fatal(err)
	}
	state, found, err := reader.New(pool).ExecutionState(ctx, id)
	var corrupt *ffstream.CorruptionError
	switch {
	case errors.As(err, &corrupt): // the engine is newer than this program
		fmt.Println("cannot understand", corrupt.Column, corrupt.Literal)
	case err != nil:
		log.Fatal(err)
	case !found:
		fmt.Println("no such execution")
	default:
		fmt.Println(state, state.Terminal())
	}
	// Output: completed true
}

// Many executions in one round trip and one snapshot. The answers stand in the
// order of the ids.
func ExampleReader_ExecutionInfos() {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, os.Getenv("FFSTREAM_DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()

	var ids []ffstream.ExecutionID
	for _, text := range []string{
		"{fp:86}:0190f5c2-0000-7000-8000-000000000002",
		"{fp:86}:0190f5c2-0000-7000-8000-00000000dead",
		"{fp:86}:0190f5c2-0000-7000-8000-000000000001",
	} {
		id, err := ffstream.ParseExecutionID(text)
		if err != nil {
			log.Fatal(err)
		}
		ids = append(ids, id)
	}
	answers, err := reader.New(pool).ExecutionInfos(ctx, ids)
	if err != nil {
		log.Fatal(err)
	}
	for _, a := range answers {
		switch {
		case a.Err != nil: // this row alone cannot be understood
			fmt.Println(a.Err)
		case !a.Found:
			fmt.Println(a.ExecutionID, "does not exist")
		default:
			fmt.Println(a.ExecutionID, a.Value.LaneID, a.Value.PublicState, "stored as", a.Value.StoredPublicState)
		}
	}
	// Output:
	// {fp:86}:0190f5c2-0000-7000-8000-000000000002 default waiting stored as waiting
	// {fp:86}:0190f5c2-0000-7000-8000-00000000dead does not exist
	// {fp:86}:0190f5c2-0000-7000-8000-000000000001 default completed stored as active
}

// A page of a partition's executions at a time.
func ExampleReader_ListExecutions() {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, os.Getenv("FFSTREAM_DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()

	var cursor ffstream.Opt[ffstream.ExecutionID]
	for {
		page, err := reader.New(pool).ListExecutions(ctx, "{fp:86}", cursor, 1)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(page.IDs)
		if cursor = page.Next; !cursor.OK {
			break
		}
	}
	// Output:
	// [{fp:86}:0190f5c2-0000-7000-8000-000000000001]
	// [{fp:86}:0190f5c2-0000-7000-8000-000000000002]
}

// Reads inside a transaction see what it wrote, and under REPEATABLE READ they
// all see one moment.
func ExampleNew_transaction() {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, os.Getenv("FFSTREAM_DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()

	id, err := ffstream.ParseExecutionID("{fp:86}:0190f5c2-0000-7000-8000-000000000001")
	if err != nil {
		log.Fatal(err)
	}
	snapshot := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	err = pgx.BeginTxFunc(ctx, pool, snapshot, func(tx pgx.Tx) error {
		r := reader.New(tx)
		state, _, err := r.ExecutionState(ctx, id)
		if err != nil {
			return err
		}
		result, found, err := r.ExecutionResult(ctx, id)
		if err != nil {
			return err
		}
		fmt.Printf("%s %q %t\n", state, result, found)
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output: completed "42" true
}

// A replica answers reads too. What it answers may be older than what the stream
// has told already.
func ExampleNew_replica() {
	ctx := context.Background()
	// A URL may name several servers; target_session_attrs chooses among them.
	// Through a pooler in transaction mode, default_query_exec_mode=exec belongs
	// here as well.
	pool, err := pgxpool.New(ctx, os.Getenv("FFSTREAM_REPLICA_URL")+"&target_session_attrs=prefer-standby&default_query_exec_mode=exec")
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()

	id, err := ffstream.ParseExecutionID("{fp:86}:0190f5c2-0000-7000-8000-000000000001")
	if err != nil {
		log.Fatal(err)
	}
	attempts, found, err := reader.New(pool).ExecutionAttempts(ctx, id)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(found, len(attempts), attempts[0].Outcome.V)
	// Output: true 1 success
}

// Subscribe first, read second, deliver: nothing falls between.
func Example_readThenWatch() {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, os.Getenv("FFSTREAM_DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	nc, err := nats.Connect(os.Getenv("FFSTREAM_NATS_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		log.Fatal(err)
	}
	id, err := ffstream.ParseExecutionID("{fp:7}:0190f5c2-0000-7000-8000-000000000003")
	if err != nil {
		log.Fatal(err)
	}
	err = watch(ctx, source{js: js, stream: "FFSTREAM", prefix: "ff"}, reader.New(pool), id, func(state ffstream.PublicState) bool {
		fmt.Println(state)
		if state == ffstream.StateWaiting {
			playExample(ctx, pool, js, id) // stands for the engine and ffstream run
		}
		return !state.Terminal()
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output:
	// waiting
	// active
	// completed
}

// source is where the events come from.
type source struct {
	js             jetstream.JetStream
	stream, prefix string
}

// watch calls deliver with the state of an execution (empty when it does not
// exist yet), then with each that an event tells, until deliver returns false.
//
// The place in the stream is taken before the read, so a change that the read
// does not know has its event behind that place. The other way round is harmless:
// the first events may tell what the read knew already. For this r must read from
// the primary: a replica may not know yet what lies before that place.
func watch(ctx context.Context, from source, r *reader.Reader, id ffstream.ExecutionID, deliver func(ffstream.PublicState) bool) error {
	stream, err := from.js.Stream(ctx, from.stream) // asks the leader for its state
	if err != nil {
		return fmt.Errorf("open stream: %w", err)
	}
	// A sequence, not DeliverNewPolicy: a consumer that is made anew before its
	// first message would begin with what is new then.
	consumer, err := stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{fmt.Sprintf("%s.exec.%d.>", from.prefix, id.Partition())},
		DeliverPolicy:  jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:    stream.CachedInfo().State.LastSeq + 1,
	})
	if err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	messages, err := consumer.Messages()
	if err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	defer messages.Stop()

	state, _, err := r.ExecutionState(ctx, id)
	if err != nil {
		return err
	}
	for more := deliver(state); more; {
		m, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return fmt.Errorf("receive event: %w", err)
		}
		event, err := ffstream.ParseEvent(m.Data())
		if err != nil {
			return err
		}
		if event.Type == ffstream.TypeTransitioned && event.ExecutionID == id {
			more = deliver(event.To)
		}
	}
	return nil
}
