package shard

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/ffstream/ffstream/internal/publish"
	"github.com/ffstream/ffstream/internal/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m.Run)) }

const patience = time.Minute // with what a test waits for; a green one never takes it

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// broker connects to the test binary's NATS server and names a stream that the test
// may write, which is gone at its end; none without a name.
func broker(t *testing.T, stream string) (*nats.Conn, publish.Config) {
	t.Helper()
	nc, err := nats.Connect(testenv.NATSURL(t), nats.Timeout(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	if stream == "" {
		return nc, publish.Config{}
	}
	t.Cleanup(func() {
		for _, name := range []string{stream, "KV_" + publish.Bucket(stream)} {
			if _, err := nc.Request("$JS.API.STREAM.DELETE."+name, nil, patience); err != nil {
				t.Error(err)
			}
		}
	})
	return nc, publish.Config{Stream: stream, Prefix: stream, Replicas: 1, MaxAge: time.Hour, SystemID: 1, Slot: stream}
}
