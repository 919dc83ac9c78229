package e2e

import (
	"bytes"
	"fmt"
	"os"
	"strings"
)

// outcome is a run of the mix, as the checker found it.
type outcome struct {
	verdict
	standing        standing
	brokers, events int
	kept            int // messages of the state bucket
	struck          map[string]int
}

const reportHead = `# Faults

Written by the fault suite; do not edit. To write it again:

    make faults DURATION=%s KILLS=%s SEED=%d REPORT=docs/faults.md

While writers commit (lives of executions with heartbeats, transactions of 1 to 5 000 executions, savepoints that are rolled back,
prepared transactions, bulk cancels, deletes), faults strike one after the other at random. At the end the stream is held, message by
message and field by field, against an oracle that shares no code with ffstream: a second slot, read with another output plugin and put
through a second implementation of the rule. A run that lost, repeated, reordered or altered one event fails and writes no table; meanwhile
a subscriber looks for transactions of up to 1000 events of which only a part can be read. Beside the stream the service keeps a state
bucket, of which no message is forgotten: whatever a reader could have seen of it at any moment is held against the stream.

`

// report writes what the mix did. It is called when everything held.
func report(path string, seed uint64, outcomes []outcome) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, reportHead, os.Getenv("FFSTREAM_FAULTS_DURATION"), os.Getenv("FFSTREAM_FAULTS_KILLS"), seed)
	fmt.Fprint(&b, "| fault | what was done |")
	for _, o := range outcomes {
		fmt.Fprintf(&b, " times, %d NATS |", o.brokers)
	}
	fmt.Fprintf(&b, " held |\n|---|---|%s---|\n", strings.Repeat("---:|", len(outcomes)))
	for _, f := range faults {
		fmt.Fprintf(&b, "| %s | %s |", f.name, f.did)
		held := "-" // for what did not strike
		for _, o := range outcomes {
			if o.struck[f.name] == 0 {
				fmt.Fprint(&b, " - |")
				continue
			}
			fmt.Fprintf(&b, " %d |", o.struck[f.name])
			held = "exact"
		}
		fmt.Fprintf(&b, " %s |\n", held)
	}
	fmt.Fprint(&b, "\n| | lost | duplicated | reordered | altered | half visible | events |\n|---|---:|---:|---:|---:|---:|---:|\n")
	for _, o := range outcomes {
		fmt.Fprintf(&b, "| %d NATS | %d | %d | %d | %d | %d | %d |\n", o.brokers, o.lost, o.duplicated, o.reordered, o.altered, o.half, o.events)
	}
	fmt.Fprint(&b, "\n| state bucket | older than it says | missing | ahead of the stream | altered | messages |\n|---|---:|---:|---:|---:|---:|\n")
	for _, o := range outcomes {
		s := &o.standing
		fmt.Fprintf(&b, "| %d NATS | %d | %d | %d | %d | %d |\n", o.brokers, s.stale, s.missing, s.early, s.altered, o.kept)
	}
	fmt.Fprint(&b, `
## What waiting cannot mend

Continuity that somebody broke ends the service with exit code 1 and a line that says what is lost between which positions. Nothing is
published behind the hole. `+"`ffstream resume --accept-gap`"+` records it in the stream, as an event of type `+"`ffstream.gap.v1`"+` with the reason,
and the stream goes on exactly behind it. TestContinuity, TestInvalidated and TestTimelineLost break and accept, in every run of the tests:

| what was done | while the service was | reason |
|---|---|---|
`)
	for _, c := range breaches {
		when := "stopped"
		if c.live {
			when = "at work"
		}
		fmt.Fprintf(&b, "| %s | %s | `%s` |\n", c.name, when, c.reason)
	}
	fmt.Fprint(&b, "| slot invalidated by max_slot_wal_keep_size | stopped | `slot_invalidated` |\n")
	fmt.Fprint(&b, "| database put back, on a new timeline or the old | stopped | none: positions would repeat, so only a new stream goes on |\n")
	return os.WriteFile(path, b.Bytes(), 0o644)
}
