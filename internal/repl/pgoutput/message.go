package pgoutput

// Kind is the first byte of a message.
type Kind byte

// The kinds of messages of protocol version 1.
const (
	KindBegin    Kind = 'B'
	KindCommit   Kind = 'C'
	KindOrigin   Kind = 'O'
	KindRelation Kind = 'R'
	KindType     Kind = 'Y'
	KindInsert   Kind = 'I'
	KindUpdate   Kind = 'U'
	KindDelete   Kind = 'D'
	KindTruncate Kind = 'T'
	KindMessage  Kind = 'M'
)

// Message is one decoded message. Which fields mean something depends on Kind;
// the others keep what an earlier message left there. Decode overwrites it and
// uses its slices again, and byte slices in it alias the decoded input, so
// nothing of it outlives the next Decode or the input, but for Relation.
type Message struct {
	Kind       Kind
	Begin      Begin
	Commit     Commit
	Relation   Relation
	RelationID uint32 // of a row
	// OldKind is 'K' when Old holds the replica identity, 'O' when it holds the
	// whole row, and 0 when there is no old tuple.
	OldKind  byte
	Old, New []Value // empty where the message has none
	Truncate Truncate
	Logical  LogicalMessage
}

// Begin opens a transaction.
type Begin struct {
	FinalLSN   uint64 // LSN of the commit record
	CommitTime int64  // Unix microseconds
	Xid        uint32
}

// Commit ends a transaction.
type Commit struct {
	Flags      byte
	CommitLSN  uint64 // LSN of the commit record
	EndLSN     uint64 // end of the transaction: what a slot is confirmed to
	CommitTime int64  // Unix microseconds
}

// Relation describes a table. Its memory is its own: a caller may keep it.
type Relation struct {
	ID              uint32
	Namespace, Name string
	ReplicaIdentity byte // 'd' default, 'n' nothing, 'f' full, 'i' index
	Columns         []Column
}

// Column is one published column of a relation.
type Column struct {
	Key     bool // part of the replica identity
	Name    string
	TypeOID uint32
	TypeMod int32
}

// Truncate names the tables that were emptied.
type Truncate struct {
	RelationIDs              []uint32
	Cascade, RestartIdentity bool
}

// LogicalMessage is what pg_logical_emit_message wrote.
type LogicalMessage struct {
	Transactional   bool
	LSN             uint64
	Prefix, Content []byte
}
