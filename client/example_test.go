package client_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/client"
	"github.com/ffstream/ffstream/reader"
)

// React to completions: three lines, and the connection.
func Example() {
	nc, err := nats.Connect(os.Getenv("FFSTREAM_NATS_URL"), nats.MaxReconnects(-1))
	if err != nil {
		log.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()

	s, err := client.New(js, client.Config{
		Durable: "billing",
		From:    client.All(),
		Filter:  client.Filter{States: []ffstream.PublicState{ffstream.StateCompleted}, Lanes: []string{"default"}},
	})
	if err != nil {
		log.Fatal(err)
	}
	err = s.Run(ctx, func(_ context.Context, m *client.Message) error {
		fmt.Println(m.From, "->", m.To)
		stop()
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output: active -> completed
}

// Resume from a position that was stored with the last effect.
func ExampleAfter() {
	nc, err := nats.Connect(os.Getenv("FFSTREAM_NATS_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		log.Fatal(err)
	}
	stored, err := ffstream.ParsePosition("0000000000001010/0000")
	if err != nil {
		log.Fatal(err)
	}
	s, err := client.New(js, client.Config{Ordered: true, UntilEnd: true, From: client.After(stored)})
	if err != nil {
		log.Fatal(err)
	}
	err = s.Run(context.Background(), func(_ context.Context, m *client.Message) error {
		fmt.Println(m.Position(), m.To)
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output: 0000000000001020/0000 completed
}

// Wait for one result: whether the execution ended before, ends while waiting, or
// does not exist yet. One Waiter serves any number of them.
func ExampleWaiter_Wait() {
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	pool, err := pgxpool.New(ctx, os.Getenv("FFSTREAM_DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	js := connect()
	defer js.Conn().Close()

	w, err := client.OpenWaiter(ctx, js, client.Config{}, reader.New(pool))
	if err != nil {
		log.Fatal(err)
	}
	defer w.Close()
	id, err := ffstream.ParseExecutionID("{fp:86}:0190f5c2-0000-7000-8000-000000000001")
	if err != nil {
		log.Fatal(err)
	}
	outcome, err := w.Wait(ctx, id)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s, %s, %q\n", outcome.State, outcome.How, outcome.Result.V)
	// Output: completed, success, "42"
}

// Watch one execution: its state, then each transition.
func ExampleWatch() {
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	pool, err := pgxpool.New(ctx, os.Getenv("FFSTREAM_DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	js := connect()
	defer js.Conn().Close()

	id, err := ffstream.ParseExecutionID("{fp:86}:0190f5c2-0000-7000-8000-000000000001")
	if err != nil {
		log.Fatal(err)
	}
	for change, err := range client.Watch(ctx, js, client.Config{}, reader.New(pool), id) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(change.State)
		if change.State.Terminal() {
			break
		}
	}
	// Output: completed
}

// Fan out by lane: each lane has a consumer of its own, so that a slow one holds
// up no other, and each keeps its place under its own name.
func Example_lanes() {
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	js := connect()
	defer js.Conn().Close()

	var lanes sync.WaitGroup
	var mutex sync.Mutex
	counts := map[string]int{}
	for lane, workers := range map[string]int{"default": 16, "bulk": 2} {
		s, err := client.New(js, client.Config{
			Durable: "mailer-" + lane,
			Workers: workers,
			From:    client.All(),
			Filter:  client.Filter{Lanes: []string{lane}},
		})
		if err != nil {
			log.Fatal(err)
		}
		inner, done := context.WithCancel(ctx)
		lanes.Go(func() {
			err := s.Run(inner, func(_ context.Context, m *client.Message) error {
				mutex.Lock()
				defer mutex.Unlock()
				if counts[lane]++; m.To == ffstream.StateCompleted || lane == "bulk" {
					done() // the end of the example
				}
				return nil
			})
			if err != nil {
				log.Fatal(err)
			}
		})
	}
	lanes.Wait()
	fmt.Println(counts)
	// Output: map[bulk:1 default:2]
}

// An effect in a database, exactly once: the event's id is stored in the same
// transaction, so an event that comes again changes nothing.
func Example_exactlyOnce() {
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	pool, err := pgxpool.New(ctx, os.Getenv("FFSTREAM_DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	js := connect()
	defer js.Conn().Close()
	const tables = `CREATE TABLE handled (event text PRIMARY KEY); CREATE TABLE bill (completed int); INSERT INTO bill VALUES (0)`
	if _, err := pool.Exec(ctx, tables); err != nil {
		log.Fatal(err)
	}

	s, err := client.New(js, client.Config{
		Durable:  "exactly-once",
		From:     client.All(),
		RetryMin: time.Millisecond,
		Filter:   client.Filter{States: []ffstream.PublicState{ffstream.StateCompleted}},
	})
	if err != nil {
		log.Fatal(err)
	}
	err = s.Run(ctx, func(ctx context.Context, m *client.Message) error {
		err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			tag, err := tx.Exec(ctx, "INSERT INTO handled VALUES ($1) ON CONFLICT DO NOTHING", m.ID.String())
			if err != nil || tag.RowsAffected() == 0 {
				return err
			}
			_, err = tx.Exec(ctx, "UPDATE bill SET completed = completed + 1")
			return err
		})
		if err == nil && m.Try == 1 {
			return fmt.Errorf("the process crashes here") // and so the event comes again
		}
		stop()
		return err
	})
	if err != nil {
		log.Fatal(err)
	}
	var completed int
	if err := pool.QueryRow(context.Background(), "SELECT completed FROM bill").Scan(&completed); err != nil {
		log.Fatal(err)
	}
	fmt.Println(completed)
	// Output: 1
}

// connect opens the connection of an example.
func connect() jetstream.JetStream {
	nc, err := nats.Connect(os.Getenv("FFSTREAM_NATS_URL"), nats.MaxReconnects(-1))
	if err != nil {
		log.Fatal(err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		log.Fatal(err)
	}
	return js
}
