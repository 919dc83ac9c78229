package verify

import (
	"context"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/publish"
)

// follow reads the events of some subjects, all with none, from a sequence on to the
// stream's end as it is now, and gives that end: a stream that grows as fast as it is
// read has no other. An error of f ends it.
func (v *verifier) follow(ctx context.Context, subjects []string, from uint64, f func(e *ffstream.Event, sequence uint64) error) (end uint64, err error) {
	if end, err = publish.Last(ctx, v.js.Conn(), v.cfg.Stream, v.cfg.Prefix+".>"); err != nil {
		return 0, err
	}
	r := publish.Reading{Stream: v.cfg.Stream, Subjects: subjects, From: from, To: end, Patience: v.cfg.Timeout}
	return end, r.Events(ctx, v.js, f)
}
