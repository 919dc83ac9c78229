// Package backfill is what is asked of a backfill and how far it is: an order, the
// lists of executions that it may name, and a report. They are kept beside the
// stream, in the bucket of its note, so that a command anywhere and the service
// that holds the slot need nothing but the broker to agree.
//
// # Guarantees
//
// One run at a time: an order is placed only where none is open. A change of an
// order or a report names the revision that it replaces, so of two commands one fails,
// and a process that was held up for long overwrites nothing of its successor's.
//
// # Not promised
//
// That a report is fresh, or exact after a crash: it is for people. Where a run
// goes on after a crash the stream itself says, in its last event of type
// ffstream.backfill.v1, which is stored together with the executions it counts.
package backfill

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/publish"
)

// What a caller may ask about an error.
var (
	// ErrOpen: another run is not ended yet.
	ErrOpen = errors.New("another backfill is open")
	// ErrNone: there is no run that is not ended.
	ErrNone = errors.New("no backfill is open")
	// ErrNoList: what a run is about was removed.
	ErrNoList = errors.New("list of executions is gone")
	// ErrNoBucket: the stream has no bucket, so no service ever wrote it.
	ErrNoBucket = errors.New("stream has no bucket of notes")
)

// Filter says which executions. Each empty field allows all; a field with several
// values allows any of them.
type Filter struct {
	Lanes      []string               `json:"lanes,omitempty"`
	Namespaces []string               `json:"namespaces,omitempty"`
	States     []ffstream.PublicState `json:"states,omitempty"`
	Partitions []uint16               `json:"partitions,omitempty"`
	Since      time.Time              `json:"since,omitzero"` // created then or later
}

// Allows reports whether an event of a snapshot passes. Partitions are not looked
// at: they say where to read. A row that cannot be understood passes, since
// nobody can say that it was not meant; so does one that is gone.
func (f *Filter) Allows(e *ffstream.Event) bool {
	if e.Type != ffstream.TypeSnapshotted || e.To == ffstream.StatePurged {
		return true
	}
	return allows(f.Lanes, e.LaneID) && allows(f.Namespaces, e.Namespace) && allows(f.States, e.To) &&
		(f.Since.IsZero() || e.CreatedAtMs.V >= f.Since.UnixMilli())
}

// Of is about how many of all executions are looked at; 0: not known. Partitions are
// taken to be alike.
func (o *Order) Of(all uint64) uint64 {
	switch {
	case o.Lists > 0:
		return o.Listed
	case len(o.Filter.Lanes) > 0:
		return 0
	case len(o.Filter.Partitions) > 0:
		return all * uint64(len(o.Filter.Partitions)) / usualPartitions
	}
	return all
}

// usualPartitions is how many the engine uses unless told otherwise.
const usualPartitions = 256

// Everything reports whether the run looks at every execution.
func (o *Order) Everything() bool {
	return o.Lists == 0 && o.Filter.Whole() && len(o.Filter.Partitions) == 0
}

// Whole reports whether it allows all executions of the partitions that it names.
func (f *Filter) Whole() bool {
	return len(f.Lanes)+len(f.Namespaces)+len(f.States) == 0 && f.Since.IsZero()
}

func allows[T comparable](some []T, v T) bool { return len(some) == 0 || slices.Contains(some, v) }

// Wish is what the operator wants of a run.
type Wish string

// The wishes.
const (
	Run    Wish = "run"
	Pause  Wish = "pause"
	Cancel Wish = "cancel"
)

// Order is one run.
type Order struct {
	Run    string    `json:"run"` // made by Place
	Wish   Wish      `json:"wish"`
	Placed time.Time `json:"placed"`
	Filter Filter    `json:"filter"`
	// Lists is how many lists of executions the run is about; 0: all that Filter
	// allows.
	Lists uint64 `json:"lists,omitempty"`
	// Listed is how many executions the lists have.
	Listed uint64 `json:"listed,omitempty"`
	// Rate is the most executions read in a second; 0: as the service is set.
	Rate int `json:"rate,omitempty"`
	// Initial: the service placed it when it created the slot.
	Initial bool `json:"initial,omitempty"`

	revision uint64
}

// Listed is an execution that a comparison found to differ.
type Listed struct {
	ID ffstream.ExecutionID `json:"id"`
	// Known is the state that the stream told last when they were compared; empty: none.
	// A string, since it may be one that a point read never gives.
	Known string `json:"known,omitempty"`
}

// MaxList is the greatest number of executions in one list.
const MaxList = 999

// State is what a run is doing.
type State string

// The states of a run.
const (
	Waiting   State = "waiting" // for the service, or for what Report.Waiting says
	Running   State = "running"
	Paused    State = "paused"
	Completed State = "completed"
	Cancelled State = "cancelled"
)

// Ended reports whether nothing more will come of the run.
func (s State) Ended() bool { return s == Completed || s == Cancelled }

// Report is how far a run is, as the service says about once a second.
type Report struct {
	Run        string    `json:"run"`
	State      State     `json:"state"`
	Waiting    string    `json:"waiting,omitempty"` // for what
	Error      string    `json:"error,omitempty"`   // of the latest try; it goes on
	After      string    `json:"after,omitempty"`   // the last execution that was looked at
	Chunks     uint64    `json:"chunks"`
	Executions uint64    `json:"executions"` // looked at
	Published  uint64    `json:"published"`
	Superseded uint64    `json:"superseded"` // the stream has newer
	Total      uint64    `json:"total"`      // about so many are to be looked at; 0: not known
	Rate       float64   `json:"rate"`       // executions a second, of late
	Started    time.Time `json:"started,omitzero"`
	Updated    time.Time `json:"updated,omitzero"`
	Ended      time.Time `json:"ended,omitzero"`
	// Sequence in the stream of the event that says that the run is over; 0: none does.
	Sequence uint64 `json:"sequence,omitempty"`

	revision uint64 // that the next one replaces
}

// Replaces makes the report the one that is to be written over an old one.
func (r *Report) Replaces(old *Report) { r.revision = old.revision }

// Remaining is how long the rest takes at the rate of late; false when that is
// not known.
func (r *Report) Remaining() (time.Duration, bool) {
	if r.Rate <= 0 || r.Total <= r.Executions {
		return 0, r.State.Ended()
	}
	return time.Duration(float64(r.Total-r.Executions) / r.Rate * float64(time.Second)), true
}

// Keys of the bucket.
const (
	orderKey  = "backfill.order"
	reportKey = "backfill.report"
	wholeKey  = "backfill.whole"
	listKey   = "backfill.list." // run, number
)

// whole is the latest run over everything that was completed before the order that is
// there now was placed.
type whole struct {
	Run string `json:"run"`
}

// Store is the bucket. It may be used by many goroutines.
type Store struct {
	kv jetstream.KeyValue
	nc *nats.Conn // the caller's
}

// Open finds the bucket of that name.
func Open(ctx context.Context, js jetstream.JetStream, bucket string) (*Store, error) {
	kv, err := js.KeyValue(ctx, bucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		return nil, fmt.Errorf("open bucket %s: %w: let the service run once", bucket, ErrNoBucket)
	}
	if err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", bucket, err)
	}
	return &Store{kv, js.Conn()}, nil
}

// read decodes a value, if there is one, and gives the revision that the next value
// replaces, of a deletion too.
func (s *Store) read(ctx context.Context, key string, v any) (revision uint64, found bool, err error) {
	value, revision, err := publish.ReadValue(ctx, s.nc, s.kv.Bucket(), key)
	if err != nil || value == nil {
		return revision, false, err
	}
	if err := json.Unmarshal(value, v); err != nil {
		return 0, false, fmt.Errorf("read %s: %w", key, err)
	}
	return revision, true, nil
}

// Current gives the latest order and its report; false when there never was one.
func (s *Store) Current(ctx context.Context) (Order, Report, bool, error) {
	var o Order
	var r Report
	revision, found, err := s.read(ctx, orderKey, &o)
	if err != nil || !found {
		return Order{revision: revision}, r, false, err
	}
	o.revision = revision
	if revision, _, err = s.read(ctx, reportKey, &r); err != nil {
		return Order{}, Report{}, false, err
	}
	if r.Run != o.Run {
		r = Report{Run: o.Run, State: Waiting, Waiting: "the service"}
	}
	r.revision = revision
	return o, r, true, nil
}

// Wholes gives the runs over everything of which the latest that was completed is one:
// where the latest order is not over, or was of less, that before it. Whether a run was
// completed, and is still there, the stream says.
func (s *Store) Wholes(ctx context.Context) (runs []string, err error) {
	o, _, found, err := s.Current(ctx)
	if err != nil {
		return nil, err
	}
	if found && o.Everything() {
		runs = append(runs, o.Run)
	}
	var w whole
	if _, found, err = s.read(ctx, wholeKey, &w); err == nil && found {
		runs = append(runs, w.Run)
	}
	return runs, err
}

// retire removes what a run that is over has left behind, and notes it if it was over
// everything: the order that replaces its own is all that would have told of that.
func (s *Store) retire(ctx context.Context, o *Order, r *Report) error {
	if o.Everything() && r.State == Completed {
		return s.write(ctx, wholeKey, whole{o.Run})
	}
	if o.Lists == 0 {
		return nil
	}
	// They go in order. Whoever ended it may not have come to that.
	if _, err := s.List(ctx, o.Run, o.Lists-1); err != nil {
		if errors.Is(err, ErrNoList) {
			return nil
		}
		return err
	}
	return s.removeLists(ctx, o)
}

// Place places an order with its lists, and returns it with the name of its run.
// ErrOpen says that another is not ended.
func (s *Store) Place(ctx context.Context, o Order, lists ...[]Listed) (Order, error) {
	old, report, found, err := s.Current(ctx)
	if err != nil {
		return Order{}, err
	}
	if found && !report.State.Ended() {
		return Order{}, fmt.Errorf("%w: run %s is %s: await it, or end it: ffstream backfill cancel", ErrOpen, old.Run, report.State)
	}
	if found {
		if err := s.retire(ctx, &old, &report); err != nil {
			return Order{}, err
		}
	}
	o.Run, o.Wish, o.Placed, o.Lists = uuid.NewString(), Run, time.Now().UTC(), uint64(len(lists))
	for i, list := range lists {
		o.Listed += uint64(len(list))
		if err := s.write(ctx, s.list(o.Run, uint64(i)), list); err != nil {
			return Order{}, errors.Join(err, s.removeLists(ctx, &o))
		}
	}
	o.revision = old.revision
	if err := s.replace(ctx, orderKey, &o, &o.revision); err != nil {
		return Order{}, errors.Join(err, s.removeLists(ctx, &o))
	}
	return o, nil
}

// removeLists removes the lists of a run, also of one whose caller has ended.
func (s *Store) removeLists(ctx context.Context, o *Order) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTimeout)
	defer cancel()
	for n := range o.Lists {
		if err := s.kv.Purge(ctx, s.list(o.Run, n)); err != nil {
			return fmt.Errorf("remove list %d of run %s: %w", n, o.Run, err)
		}
	}
	return nil
}

const removeTimeout = 10 * time.Second

func (s *Store) list(run string, n uint64) string {
	return listKey + run + "." + strconv.FormatUint(n, 10)
}

func (s *Store) write(ctx context.Context, key string, v any) error {
	b, err := json.Marshal(v)
	if err == nil {
		_, err = s.kv.Put(ctx, key, b)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", key, err)
	}
	return nil
}

// replace writes a value over a revision, which becomes the new one.
func (s *Store) replace(ctx context.Context, key string, v any, revision *uint64) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write %s: %w", key, err)
	}
	next, err := s.kv.Update(ctx, key, b, *revision)
	if err != nil {
		return fmt.Errorf("write %s: %w", key, err)
	}
	*revision = next
	return nil
}

// Ask changes the wish of the run that is open, and returns it. ErrNone says that
// there is none.
func (s *Store) Ask(ctx context.Context, w Wish) (Order, error) {
	o, report, found, err := s.Current(ctx)
	if err != nil {
		return Order{}, err
	}
	if !found || report.State.Ended() {
		return Order{}, ErrNone
	}
	o.Wish = w
	return o, s.replace(ctx, orderKey, &o, &o.revision)
}

// List reads one list of a run. ErrNoList says that it is gone.
func (s *Store) List(ctx context.Context, run string, n uint64) ([]Listed, error) {
	var list []Listed
	_, found, err := s.read(ctx, s.list(run, n), &list)
	if err == nil && !found {
		err = fmt.Errorf("%w: list %d of run %s: end it and compare again: ffstream backfill cancel, then ffstream verify --repair", ErrNoList, n, run)
	}
	return list, err
}

// Report writes how far a run is, over the report that Current gave or that this one
// wrote last. The report of its end removes its lists.
func (s *Store) Report(ctx context.Context, o *Order, r *Report) error {
	if err := s.replace(ctx, reportKey, r, &r.revision); err != nil || !r.State.Ended() {
		return err
	}
	return s.removeLists(ctx, o)
}
