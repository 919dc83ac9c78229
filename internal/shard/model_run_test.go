package shard

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestModel: whatever is lost, late or repeated between a log and a broker that
// keeps what it acknowledged, messages that age out included, the stream is the
// log's prefix, nothing is taken for a gap that is none, and in the end
// everything is stored and confirmed.
func TestModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := newModel(t, 0)
		actions := m.actions()
		actions["age"] = m.age
		t.Repeat(actions)
		m.t = t
		m.finish()
	})
}

// TestModelForgetful: the same with a broker that forgets what it acknowledged no
// longer ago than the holdback, chunks of backfills among it, which do not come again.
func TestModelForgetful(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := newModel(t, 10*time.Second)
		actions := m.actions()
		actions["backfill"] = func(*rapid.T) { m.backfill() }
		actions["forget"] = func(t *rapid.T) {
			m.forget(rapid.IntRange(0, 1000).Draw(t, "how far"), m.wait, rapid.Bool().Draw(t, "the note too"))
		}
		t.Repeat(actions)
		m.t = t
		m.finish()
	})
}

// TestModelAmnesia: a broker that forgets anything, and keeps its note or not, is
// noticed wherever the slot cannot refill it.
func TestModelAmnesia(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := newModel(t, 0)
		m.hostile = true
		actions := m.actions()
		actions["age"] = m.age
		actions["forget"] = func(t *rapid.T) {
			m.forget(rapid.IntRange(0, 1000).Draw(t, "how far"), time.Hour, rapid.Bool().Draw(t, "the note too"))
		}
		t.Repeat(actions)
		m.t = t
		m.finish()
	})
}

// TestModelHostile: a slot that somebody moves is noticed before anything is
// published behind the hole.
func TestModelHostile(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := newModel(t, 0)
		actions := m.actions()
		actions["move the slot"] = func(*rapid.T) {
			if m.session == nil { // Postgres lets nobody else do it
				m.confirmed, m.persisted, m.hostile = m.end, m.end, true
			}
		}
		t.Repeat(actions)
		m.t = t
		m.finish()
	})
}
