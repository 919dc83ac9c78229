package repl

import (
	"encoding/binary"
	"fmt"

	"github.com/ffstream/ffstream"
)

// Batch is a run of whole replication messages as one read of the socket gave
// them. Whoever receives it owns it, and everything that aliases it, until
// Release.
type Batch struct {
	buf  []byte
	next int           // offset of the next message to iterate
	end  int           // messages are whole up to here; what is behind belongs to the next batch
	free chan<- *Batch // where Release puts it: to the stream that made it
}

// Frame is one replication message of a batch.
type Frame struct {
	// WAL is the output plugin's message, nil for a keepalive. It aliases the batch.
	WAL []byte
	// End is the server's end of WAL; in a keepalive, outside a transaction,
	// everything before it has been sent.
	End ffstream.LSN
}

// Sizes of the message headers: CopyData's type and length, and those of the
// two replication messages inside it.
const (
	copyHeader      = 5
	xlogHeader      = 25 // 'w', start, end, clock
	keepaliveLength = 18 // 'k', end, clock, reply requested
)

// Next returns the batch's next message, and false behind the last. It refuses
// a message that breaks the replication protocol.
func (b *Batch) Next() (Frame, bool, error) {
	for b.next < b.end {
		m := b.buf[b.next:b.end]
		size := 1 + int(binary.BigEndian.Uint32(m[1:]))
		kind, body := m[0], m[copyHeader:size]
		b.next += size
		if kind != 'd' {
			continue
		}
		switch {
		case len(body) >= xlogHeader && body[0] == 'w':
			return Frame{WAL: body[xlogHeader:], End: ffstream.LSN(binary.BigEndian.Uint64(body[9:]))}, true, nil
		case len(body) == keepaliveLength && body[0] == 'k':
			return Frame{End: ffstream.LSN(binary.BigEndian.Uint64(body[1:]))}, true, nil
		default:
			return Frame{}, false, fmt.Errorf("read replication message: %d bytes of an unknown kind %q", len(body), body[:min(1, len(body))])
		}
	}
	return Frame{}, false, nil
}

// Release gives the batch back to the stream for the next read.
func (b *Batch) Release() {
	select {
	case b.free <- b:
	default: // the stream has ended
	}
}
