package normalize

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/ffstream/ffstream/internal/repl/pgoutput"
)

// What a caller may ask about an error.
var (
	// ErrReplicaIdentity: a leaf of ff_exec_core does not log the old state.
	ErrReplicaIdentity = errors.New("replica identity is missing")
	// ErrColumn: a column that events need is not published.
	ErrColumn = errors.New("column is missing")
)

const (
	coreTable    = "ff_exec_core"
	attemptTable = "ff_attempt"
)

// relation says where the columns of a table stand in its tuples.
type relation struct {
	leaf    string // its name, when it is a leaf: then no row may name it
	table   string // coreTable or attemptTable
	columns int
	at      []int // by column constant; -1 when absent
}

// The columns of ff_exec_core that events need.
const (
	corePartition = iota
	coreID
	corePhase
	coreOwnership
	coreEligibility
	corePublic
	coreAttemptState
	coreLane
	coreFlow
	coreAttemptIndex
	coreBlocking
	coreReason
	coreBy
	corePriority
	coreCreated
	coreTerminal
	coreRaw
	coreStarted // since the engine's migration 0016
)

var coreColumns = []string{
	"partition_key", "execution_id", "lifecycle_phase", "ownership_state", "eligibility_state", "public_state",
	"attempt_state", "lane_id", "flow_id", "attempt_index", "blocking_reason", "cancellation_reason",
	"cancelled_by", "priority", "created_at_ms", "terminal_at_ms", "raw_fields", "started_at_ms",
}

// The columns of ff_attempt that events need.
const (
	attemptPartition = iota
	attemptExecution
	attemptIndex
	attemptWorker
	attemptInstance
	attemptEpoch
	attemptLease
	attemptStarted
	attemptTerminal
	attemptOutcome
)

var attemptColumns = []string{
	"partition_key", "execution_id", "attempt_index", "worker_id", "worker_instance_id", "lease_epoch",
	"lease_expires_at_ms", "started_at_ms", "terminal_at_ms", "outcome",
}

// Relation notes a table's columns. The slot sends a pair for each leaf, the
// root and then the leaf; rows name the root. Columns are found by name, so one
// that is added changes nothing.
//
// Whose leaf it is only the pair says: a leaf may have any name, and the
// publication may have other tables. The pair's last proof is the row behind it,
// since a TRUNCATE describes its tables one after the other too.
func (n *Normalizer) Relation(r *pgoutput.Relation) error {
	core := n.paired == coreTable
	n.paired, n.unlogged = "", nil
	switch r.Name {
	case coreTable:
		n.paired = coreTable
		return n.addRelation(r, coreTable, coreColumns, coreStarted)
	case attemptTable:
		return n.addRelation(r, attemptTable, attemptColumns, -1)
	}
	if core && n.cfg.Identity {
		n.unlogged = checkIdentity(r)
	}
	n.relations[r.ID] = nil
	if isLeaf(r.Name, coreTable) || isLeaf(r.Name, attemptTable) {
		n.relations[r.ID] = &relation{leaf: r.Name}
	}
	return nil
}

// loggedColumns are what the old tuple has to hold: the state, and the lane of a
// deletion's subject.
var loggedColumns = []int{corePhase, coreOwnership, coreEligibility, corePublic, coreAttemptState, coreLane}

// checkIdentity finds a leaf whose updates and deletions do not say what the state
// was before. The flags are the leaf's own. Which of its columns are described is
// not: Postgres picks them by the numbers that the root's have, and a leaf that was
// attached may have others under these. So a column is missed only where it is
// described and has no flag.
func checkIdentity(r *pgoutput.Relation) error {
	if r.ReplicaIdentity != 'i' {
		return fmt.Errorf("%w: leaf %s.%s of ff_exec_core has replica identity %q, so its changes do not say what the state was before",
			ErrReplicaIdentity, r.Namespace, r.Name, r.ReplicaIdentity)
	}
	for i := range r.Columns {
		c := &r.Columns[i]
		if !c.Key && slices.ContainsFunc(loggedColumns, func(want int) bool { return c.Name == coreColumns[want] }) {
			return fmt.Errorf("%w: leaf %s.%s of ff_exec_core has an index as replica identity that lacks column %s, so its changes do not say what that was before",
				ErrReplicaIdentity, r.Namespace, r.Name, c.Name)
		}
	}
	return nil
}

// isLeaf reports whether name is <root>_p<digits>.
func isLeaf(name, root string) bool {
	suffix, ok := strings.CutPrefix(name, root+"_p")
	return ok && suffix != "" && strings.Trim(suffix, "0123456789") == ""
}

func (n *Normalizer) addRelation(r *pgoutput.Relation, table string, names []string, optional int) error {
	if known := n.relations[r.ID]; known != nil && known.table == table && known.matches(r, names) {
		return nil
	}
	rel := &relation{table: table, columns: len(r.Columns), at: make([]int, len(names))}
	for i, name := range names {
		rel.at[i] = -1
		for j := range r.Columns {
			if r.Columns[j].Name == name {
				rel.at[i] = j
			}
		}
		if rel.at[i] < 0 && i != optional {
			return fmt.Errorf("%w: table %s.%s does not publish column %s: run: ffstream migrate", ErrColumn, r.Namespace, r.Name, name)
		}
	}
	n.relations[r.ID] = rel
	return nil
}

// matches reports whether the columns stand where they did: the pair comes again
// for each of 256 leaves.
func (rel *relation) matches(r *pgoutput.Relation, names []string) bool {
	if rel.columns != len(r.Columns) {
		return false
	}
	for i, at := range rel.at {
		if at >= 0 && r.Columns[at].Name != names[i] {
			return false
		}
		if at < 0 {
			for j := range r.Columns {
				if r.Columns[j].Name == names[i] {
					return false
				}
			}
		}
	}
	return true
}
