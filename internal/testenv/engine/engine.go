package engine

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"
)

// Version is a generation of the engine's write statements.
type Version int

// The generations: before and since the engine's migration 0016.
const (
	V011 Version = iota
	Newest
)

// Exec names an execution and says what Create writes.
type Exec struct {
	Partition             int16
	ID                    uuid.UUID
	Lane, Namespace, Kind string
	Tags                  map[string]string
	Worker                string
}

// String is the execution's id on the wire.
func (x Exec) String() string { return fmt.Sprintf("{fp:%d}:%s", uint16(x.Partition), x.ID) }

// Tx is a transaction of pgx, or a connection.
type Tx interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}
