package main

import (
	"fmt"
	"testing"

	"github.com/nats-io/nats.go"
)

// TestReportsOnce: what the server refuses for one reason is logged once a
// connection, however many messages it refuses.
func TestReportsOnce(t *testing.T) {
	t.Parallel()
	var n novelties
	logged := 0
	report := func(format string, args ...any) {
		if n.add(fmt.Errorf("%w: nats: "+format, append([]any{nats.ErrPermissionViolation}, args...)...)) {
			logged++
		}
	}
	for range 2 {
		for i := range 100 {
			report(`Permissions Violation for Publish to "ff.exec.%d.ns.lane.active"`, i)
			report(`Permissions Violation for Publish to "$KV.FFSTREAM_states.%d.0190f5c2-0000"`, i)
			report(`Permissions Violation for Publish to "$JS.API.STREAM.MSG.GET.s%d"`, i)
			report(`Permissions Violation for Publish to "$JS.API.STREAM.INFO.s%d"`, i)
			report(`Permissions Violation for Subscription to "_INBOX.a%d.*"`, 7)
			report(`Permissions Violation for Publish`)
		}
		n.forget()
	}
	if logged != 2*6 {
		t.Errorf("%d lines on two connections, want one for each of six reasons on each", logged)
	}
}
