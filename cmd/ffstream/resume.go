package main

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/nats-io/nats.go"

	"github.com/ffstream/ffstream/internal/shard"
)

// resumeCmd goes on over a gap that an operator accepts.
type resumeCmd struct {
	serviceFlags
	AcceptGap bool `help:"Give up what is lost: record the gap in the stream, as an event of type ffstream.gap.v1, and go on behind it. Creates the slot or the stream anew where it is gone, and the slot where what is lost is in its log."`
}

// Run prints what was accepted, or that nothing had to be.
func (c *resumeCmd) Run(ctx context.Context, term terminal, log *slog.Logger) error {
	database, err := c.check()
	if err != nil {
		return err
	}
	if !c.AcceptGap {
		return usagef("--accept-gap is required: resume gives up transitions that run refuses to give up, and says so in the stream; what is lost is what run says when it stops")
	}
	nc, closeNATS, err := c.connectNATS(ctx, log, nats.RetryOnFailedConnect(false))
	if err != nil {
		return err
	}
	defer closeNATS()
	cfg, closeSource := c.shard(database, log)
	defer closeSource()
	cfg.Sink.Refusal = nc.refusal
	gap, err := shard.New(nc.Conn, cfg).Accept(ctx)
	if err != nil {
		return err
	}
	if gap == nil {
		_, err = fmt.Fprintf(term.out, "Nothing is lost between slot %s and stream %s: nothing was changed.\n", c.Slot, c.Stream)
		return err
	}
	_, err = fmt.Fprintf(term.out, "Accepted: %s. The gap is an event on %s.gap; the next run goes on at %s.\n", gap.Detail, c.SubjectPrefix, gap.ResumesAt)
	return err
}
