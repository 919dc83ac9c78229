package testenv

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
)

// ports are those that this process holds.
var ports struct {
	mu   sync.Mutex // guards held
	held []net.PacketConn
}

const (
	portCount = 10_000  // that servers of tests share
	portLeast = 10_000  // below are the usual ones of other servers
	ephemeral = 32_768  // the first that Linux gives to who asks for any
	portEnd   = 1 << 16 // behind the last
)

// freePort is a port of loopback for a server of a test, which may be started on it
// again: until this process ends, no other that asks here gets it, and it is none of
// those that the system gives to who asks for any. The UDP port of the same number,
// which nobody else has a use for, says that it is taken: the system gives that up with
// the process, however it ends.
func freePort() (int, error) {
	first := firstPort()
	from := rand.IntN(portCount) // so that processes that begin at once do not meet
	var refusals error
	for i := range portCount {
		port := first + (from+i)%portCount
		err := takePort(port)
		if err == nil {
			return port, nil
		}
		if i < 3 {
			refusals = errors.Join(refusals, err)
		}
	}
	return 0, fmt.Errorf("find a free port of %d from %d on: %w", portCount, first, refusals)
}

// takePort holds a port for this process, if nobody has it.
func takePort(port int) error {
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	held, err := new(net.ListenConfig).ListenPacket(context.Background(), "udp4", address)
	if err != nil {
		return err
	}
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", address) // a server that is not a test's
	if err == nil {
		err = l.Close()
	}
	if err != nil {
		return errors.Join(err, held.Close())
	}
	ports.mu.Lock()
	defer ports.mu.Unlock()
	ports.held = append(ports.held, held)
	return nil
}

// firstPort begins a range outside of that from which the system takes ports. Where
// there is no room beside that, taking is all that is left.
func firstPort() int {
	low, high := ephemeral, portEnd-1
	if text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range"); err == nil {
		_, _ = fmt.Sscan(string(text), &low, &high)
	}
	switch {
	case low >= portLeast+portCount:
		return low - portCount
	case high+portCount < portEnd:
		return high + 1
	default:
		return portLeast
	}
}
