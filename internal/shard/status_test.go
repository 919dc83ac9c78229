package shard

import (
	"testing"
	"time"
)

// TestBehind: nobody is behind who does not follow the slot, nor by more than a
// heartbeat took, and only what is told of the log makes anybody late.
func TestBehind(t *testing.T) {
	t.Parallel()
	now := time.Now()
	const hour, minute, second = time.Hour, time.Minute, time.Second
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	beat := func(sent, delay time.Duration) Heartbeat {
		return Heartbeat{Sent: ago(sent), Delay: delay, Interval: 10 * second, Count: 1}
	}
	for _, c := range []struct {
		name   string
		status Status
		want   time.Duration
	}{
		{"nothing was read", Status{Role: RoleActive, ServerEnd: 9}, 0},
		{"everything was read", Status{Role: RoleActive, CommitTime: ago(hour), Received: 9, ServerEnd: 9}, 0},
		{"a log that piled up", Status{Role: RoleActive, CommitTime: ago(hour), Received: 1, ServerEnd: 9}, hour},
		{"a log that piles up unheard", Status{Role: RoleActive, CommitTime: ago(hour), Received: 1, Probed: Probed{SlotHealth: SlotHealth{End: 9}}}, hour},
		{"taken over from", Status{Role: RoleStandby, CommitTime: ago(hour), Received: 1, ServerEnd: 9}, 0},
		{"connecting", Status{Role: RoleConnecting, CommitTime: ago(hour), Told: 3, Acked: 1}, 0},
		{"an idle engine, and other writers", Status{Role: RoleActive, CommitTime: ago(hour), Received: 1, ServerEnd: 9, Heartbeat: beat(6*second, 20*time.Millisecond)}, 20 * time.Millisecond},
		{"a heartbeat that is overdue", Status{Role: RoleActive, CommitTime: ago(hour), Received: 1, ServerEnd: 9, Heartbeat: beat(minute, 20*time.Millisecond)}, 50 * second},
		{"heartbeats that take long", Status{Role: RoleActive, CommitTime: ago(hour), Received: 1, ServerEnd: 9, Heartbeat: beat(minute, 55*second)}, 55 * second},
		{"a transaction behind a heartbeat", Status{Role: RoleActive, CommitTime: ago(second), Received: 1, ServerEnd: 9, Heartbeat: beat(6*second, 5*second)}, second},
		{"an event on its way", Status{Role: RoleActive, CommitTime: ago(minute), Told: 3, Acked: 2, Received: 9, ServerEnd: 9, InFlight: 1}, minute},
		{"an event behind a heartbeat on its way", Status{Role: RoleActive, CommitTime: ago(minute), Told: 3, Acked: 2, Received: 9, ServerEnd: 9, InFlight: 1, Heartbeat: beat(6*second, second)}, 6 * second},
		{"snapshots on their way", Status{Role: RoleActive, CommitTime: ago(hour), Told: 3, Acked: 3, Received: 9, ServerEnd: 9, InFlight: 500}, 0},
	} {
		if got := c.status.Behind(now); got != c.want {
			t.Errorf("%s: behind by %s, want %s", c.name, got, c.want)
		}
	}
}
