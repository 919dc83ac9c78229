package reader

import (
	"context"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/read"
)

// Answer is what a read of many executions says of one.
type Answer[T any] struct {
	ExecutionID ffstream.ExecutionID // as the caller spelt it
	Value       T
	Found       bool // false: there is no such execution, and Value is the zero value
	// Err is a *ffstream.CorruptionError, wrapped, when the row has a literal that
	// no rule knows. Found is true then and Value the zero value.
	Err error
}

// ExecutionStates returns the effective states of many executions in the order
// of ids, in one round trip and one snapshot. An id may occur more than once. A
// row that cannot be understood is its own Answer's error; the error returned is
// that of the whole read.
//
// Executions that share a partition, as those of one flow or one lane do, are
// read the fastest.
func (r *Reader) ExecutionStates(ctx context.Context, ids []ffstream.ExecutionID) ([]Answer[ffstream.PublicState], error) {
	answers := unanswered[ffstream.PublicState](ids)
	err := read.States(ctx, r.db, ids, func(i int, state ffstream.PublicState, err error) {
		answers[i].Value, answers[i].Found, answers[i].Err = state, true, err
	})
	if err != nil {
		return nil, err
	}
	return answers, nil
}

// ExecutionInfos returns what is known of many executions, as ExecutionStates
// returns their states.
func (r *Reader) ExecutionInfos(ctx context.Context, ids []ffstream.ExecutionID) ([]Answer[ffstream.ExecutionInfo], error) {
	answers := unanswered[ffstream.ExecutionInfo](ids)
	err := read.Infos(ctx, r.db, ids, func(i int, info ffstream.ExecutionInfo, err error) {
		answers[i].Value, answers[i].Found, answers[i].Err = info, true, err
	})
	if err != nil {
		return nil, err
	}
	return answers, nil
}

func unanswered[T any](ids []ffstream.ExecutionID) []Answer[T] {
	answers := make([]Answer[T], len(ids))
	for i, id := range ids {
		answers[i].ExecutionID = id
	}
	return answers
}

// FlowInfos returns what is known of all executions of a flow, in the order of
// their UUIDs, in one round trip and one snapshot. A flow that does not exist has
// none. See FlowPartitions.
func (r *Reader) FlowInfos(ctx context.Context, flow ffstream.FlowID) ([]Answer[ffstream.ExecutionInfo], error) {
	var answers []Answer[ffstream.ExecutionInfo]
	partition := ffstream.FlowPartition(flow, r.flowPartitions)
	err := read.FlowInfos(ctx, r.db, partition, flow, func(id ffstream.ExecutionID, info ffstream.ExecutionInfo, err error) {
		answers = append(answers, Answer[ffstream.ExecutionInfo]{ExecutionID: id, Value: info, Found: true, Err: err})
	})
	if err != nil {
		return nil, err
	}
	return answers, nil
}
