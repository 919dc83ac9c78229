package engine

import (
	"context"
	"fmt"
	"strings"

	"github.com/google/uuid"
)

type operation = func(ctx context.Context, e *Engine, tx Tx, x Exec) error

// FlowOf is the flow of which a story's execution becomes a member.
func FlowOf(x Exec) uuid.UUID { return uuid.NewSHA1(x.ID, []byte("flow")) }

// create inserts what the key itself says, with a few words where it is silent.
func create(ctx context.Context, e *Engine, tx Tx, x Exec) error {
	n := NewExecution{Exec: x, Lane: x.Lane, Namespace: x.Namespace, Kind: x.Kind, Tags: x.Tags, Payload: []byte("{}")}
	if n.Kind == "" {
		n.Kind = "task"
	}
	return e.Create(ctx, tx, n)
}

func timeout(behaviour string) operation {
	return func(ctx context.Context, e *Engine, tx Tx, x Exec) error {
		return e.SuspensionTimeout(ctx, tx, x, behaviour)
	}
}

func simple(do func(e *Engine, ctx context.Context, tx Tx, x Exec) error) operation {
	return func(ctx context.Context, e *Engine, tx Tx, x Exec) error { return do(e, ctx, tx, x) }
}

// operations are what an op of stories.txt stands for.
func operations() map[string]operation {
	return map[string]operation{
		"CR": create,
		"PR": simple((*Engine).Promote),
		"FL": func(ctx context.Context, e *Engine, tx Tx, x Exec) error { return e.AttachFlow(ctx, tx, x, FlowOf(x)) },
		"CL": simple((*Engine).Claim), "CRR": simple((*Engine).ClaimResumed), "RG": simple((*Engine).ClaimFromGrant),
		"RN": simple((*Engine).Renew), "TRN": simple((*Engine).TypedRenew),
		"PG": func(ctx context.Context, e *Engine, tx Tx, x Exec) error {
			return e.Progress(ctx, tx, x, 50, "half way")
		},
		"CO": func(ctx context.Context, e *Engine, tx Tx, x Exec) error {
			return e.Complete(ctx, tx, x, []byte("done"))
		},
		"CO@0": func(ctx context.Context, e *Engine, tx Tx, x Exec) error {
			return e.CompleteAttempt(ctx, tx, x, 0, []byte("late"))
		},
		"FR": func(ctx context.Context, e *Engine, tx Tx, x Exec) error {
			return e.FailRetry(ctx, tx, x, "try again")
		},
		"FT": func(ctx context.Context, e *Engine, tx Tx, x Exec) error { return e.FailTerminal(ctx, tx, x, "broken") },
		"SU": simple((*Engine).Suspend), "SG": simple((*Engine).Signal),
		"DL": func(ctx context.Context, e *Engine, tx Tx, x Exec) error { return e.Delay(ctx, tx, x, e.now()) },
		"DP": simple((*Engine).PromoteDelayed), "WC": simple((*Engine).WaitChildren),
		"DS": simple((*Engine).DependencySatisfied), "DI": simple((*Engine).DependencyImpossible),
		"LX": simple((*Engine).LeaseExpired), "RC": simple((*Engine).Reclaim), "RCC": simple((*Engine).ReclaimCapExceeded),
		"AT1": simple((*Engine).AttemptTimeoutRetry), "AT2": simple((*Engine).AttemptTimeout),
		"ED":      simple((*Engine).ExecutionDeadline),
		"ST:fail": timeout("fail"), "ST:cancel": timeout("cancel"), "ST:expire": timeout("expire"), "ST:escalate": timeout("escalate"),
		"CX": func(ctx context.Context, e *Engine, tx Tx, x Exec) error {
			return e.CancelOperator(ctx, tx, x, "not needed")
		},
		"CH": func(ctx context.Context, e *Engine, tx Tx, x Exec) error {
			return e.CancelHandle(ctx, tx, x, "gave up")
		},
		"CF": func(ctx context.Context, e *Engine, tx Tx, x Exec) error { return e.CancelFlow(ctx, tx, x) },
		"CFH": func(ctx context.Context, e *Engine, tx Tx, x Exec) error {
			return e.CancelFlowHeader(ctx, tx, x.Partition, FlowOf(x), "not needed")
		},
		"EC": func(ctx context.Context, e *Engine, tx Tx, x Exec) error { return e.EdgeCancel(ctx, tx, x) },
		"R1": simple((*Engine).Replay), "RV": simple((*Engine).RevokeLease), "SGR": simple((*Engine).SchedulerGrant),
		"CP": func(ctx context.Context, e *Engine, tx Tx, x Exec) error { return e.ChangePriority(ctx, tx, x, 7) },
		"TG": func(ctx context.Context, e *Engine, tx Tx, x Exec) error {
			return e.SetTag(ctx, tx, x, "app.colour", "red")
		},
		"TM":  simple((*Engine).TrimRetention),
		"TCL": simple((*Engine).TypedClaim),
		"TCO": func(ctx context.Context, e *Engine, tx Tx, x Exec) error {
			return e.TypedComplete(ctx, tx, x, []byte("done"))
		},
		"TFR": func(ctx context.Context, e *Engine, tx Tx, x Exec) error {
			return e.TypedFailRetry(ctx, tx, x, "try again")
		},
		"TFT": func(ctx context.Context, e *Engine, tx Tx, x Exec) error { return e.TypedFail(ctx, tx, x, "broken") },
		"TR": func(ctx context.Context, e *Engine, tx Tx, x Exec) error {
			return e.TypedResume(ctx, tx, x, false)
		},
		"TR:delay": func(ctx context.Context, e *Engine, tx Tx, x Exec) error {
			return e.TypedResume(ctx, tx, x, true)
		},
		"IGR": simple((*Engine).IssueGrantResume),
	}
}

// compose gives one function for the ops of a transaction.
func compose(op string) (operation, error) {
	known := operations()
	var ops []operation
	for name := range strings.SplitSeq(op, "+") {
		do, ok := known[name]
		if !ok {
			return nil, fmt.Errorf("unknown op %q", name)
		}
		ops = append(ops, do)
	}
	return func(ctx context.Context, e *Engine, tx Tx, x Exec) error {
		for _, do := range ops {
			if err := do(ctx, e, tx, x); err != nil {
				return fmt.Errorf("play %s: %w", op, err)
			}
		}
		return nil
	}, nil
}
