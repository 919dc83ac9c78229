package client_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/client"
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
