package publish

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Partitions gives the partitions of whose executions a stream has events, by its
// subjects, as its leader knows. The server tells some 100 000 subjects at a time, and no
// more are held.
func Partitions(ctx context.Context, nc *nats.Conn, stream, prefix string) ([]uint16, error) {
	found := map[uint16]struct{}{}
	for offset, more := 0, true; more; {
		subjects, total, err := subjectsOf(ctx, nc, stream, prefix+".>", offset)
		if err != nil {
			return nil, fmt.Errorf("read subjects of stream %s: %w", stream, classify(err))
		}
		for _, s := range subjects {
			tokens := strings.SplitN(s, ".", 4)
			if len(tokens) < 3 || tokens[1] != "exec" && tokens[1] != "corrupt" {
				continue
			}
			if p, err := strconv.ParseUint(tokens[2], 10, 16); err == nil {
				found[uint16(p)] = struct{}{}
			}
		}
		offset += len(subjects)
		more = len(subjects) > 0 && offset < total
	}
	return slices.Sorted(maps.Keys(found)), nil
}

func subjectsOf(ctx context.Context, nc *nats.Conn, stream, filter string, offset int) (subjects []string, total int, err error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	request, err := json.Marshal(struct {
		Filter string `json:"subjects_filter"`
		Offset int    `json:"offset"`
	}{filter, offset})
	if err != nil {
		return nil, 0, err
	}
	reply, err := nc.RequestWithContext(ctx, "$JS.API.STREAM.INFO."+stream, request)
	if err != nil {
		return nil, 0, err
	}
	var response struct {
		Error *jetstream.APIError `json:"error"`
		Total int                 `json:"total"`
		State *struct {
			Subjects map[string]uint64 `json:"subjects"`
		} `json:"state"`
	}
	if err := json.Unmarshal(reply.Data, &response); err != nil {
		return nil, 0, err
	}
	if response.Error != nil {
		return nil, 0, response.Error
	}
	if response.State == nil {
		return nil, 0, errors.New("the server's answer holds no state")
	}
	return slices.Collect(maps.Keys(response.State.Subjects)), response.Total, nil
}
