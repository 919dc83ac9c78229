package repl

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/ffstream/ffstream"
)

func TestCheckVersion(t *testing.T) {
	t.Parallel()
	for text, tooOld := range map[string]bool{
		"15.18 (Debian 15.18-0+deb12u1)": false, "15.0": false, "15": false, "16beta1": false, "16devel": false, "17.2": false, "100.1": false,
		"14.13": true, "14.13 (Ubuntu 14.13-0ubuntu0.22.04.1)": true, "14beta3": true, "9.6.24": true,
	} {
		err := checkVersion(text)
		if tooOld != errors.Is(err, ErrServerTooOld) || tooOld != (err != nil) || err != nil && !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", text, err)
		}
	}
	for _, text := range []string{"", "Postgres 15", "v15", "-15", " 15", "99999999999999999999"} {
		if err := checkVersion(text); err == nil || errors.Is(err, ErrServerTooOld) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// message is one message of the server.
func message(kind byte, body ...byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{kind}, uint32(4+len(body))), body...)
}

func xlog(start, end uint64, wal string) []byte {
	b := binary.BigEndian.AppendUint64([]byte{'w'}, start)
	b = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, end), 0)
	return message('d', append(b, wal...)...)
}

func keepalive(end uint64, reply byte) []byte {
	b := binary.BigEndian.AppendUint64([]byte{'k'}, end)
	return message('d', append(binary.BigEndian.AppendUint64(b, 0), reply)...)
}

func join(parts ...[]byte) (all []byte) {
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

// TestBatchNext: scan finds the whole messages, Next gives those that matter, and
// what is incomplete stays for the next read.
func TestBatchNext(t *testing.T) {
	t.Parallel()
	last := xlog(7, 9, "never whole")
	for cut := range len(last) {
		b := &Batch{buf: join(xlog(1, 3, "one"), message('N', []byte("notice")...), keepalive(5, 0), message('S'), xlog(5, 6, ""), last[:cut])}
		var s Stream
		if err := s.scan(b); err != nil {
			t.Fatal(err)
		}
		if len(b.buf)-b.end != cut {
			t.Fatalf("%d bytes are left, want %d", len(b.buf)-b.end, cut)
		}
		for i, want := range []Frame{{WAL: []byte("one"), End: 3}, {End: 5}, {WAL: []byte{}, End: 6}} {
			got, ok, err := b.Next()
			if err != nil || !ok || got.End != want.End || string(got.WAL) != string(want.WAL) || (got.WAL == nil) != (want.WAL == nil) {
				t.Fatalf("frame %d: %+v, %t, %v, want %+v", i, got, ok, err, want)
			}
		}
		if got, ok, err := b.Next(); ok || err != nil {
			t.Fatalf("behind the last: %+v, %v", got, err)
		}
	}
}

func TestBatchNextRefuses(t *testing.T) {
	t.Parallel()
	for name, m := range map[string][]byte{
		"empty":              message('d'),
		"unknown kind":       message('d', 'x', 1, 2),
		"short header":       message('d', xlog(1, 2, "")[copyHeader:copyHeader+24]...),
		"short keepalive":    message('d', keepalive(1, 0)[copyHeader:copyHeader+17]...),
		"long keepalive":     message('d', append(keepalive(1, 0)[copyHeader:], 0)...),
		"keepalive as a row": message('d', append([]byte{'k'}, xlog(1, 2, "row")[copyHeader+1:]...)...),
	} {
		b := &Batch{buf: m, end: len(m)}
		if got, ok, err := b.Next(); err == nil || ok {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestScanRefuses(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		m    []byte
		kind error
		text string
	}{
		"end":                   {message('c'), nil, "the server ended it"},
		"length of less than 4": {[]byte{'d', 0, 0, 0, 3, 0, 0}, nil, "length 3"},
		"slot":                  {message('E', []byte("SERROR\x00C55000\x00Mslot is invalid\x00\x00")...), ErrSlotLost, "slot is invalid"},
		"publication":           {message('E', []byte("SERROR\x00C42704\x00Mno publication\x00\x00")...), ErrPublicationMissing, "no publication"},
	} {
		var s Stream
		b := &Batch{buf: join(xlog(1, 2, "x"), tc.m)}
		if err := s.scan(b); err == nil || tc.kind != nil && !errors.Is(err, tc.kind) || !strings.Contains(err.Error(), tc.text) {
			t.Errorf("%s: %v", name, err)
		}
	}
	b := &Batch{buf: []byte{'d', 0x7F, 0xFF, 0xFF, 0xFF}}
	if err := b.reserve(); err == nil || cap(b.buf) > 1024 {
		t.Errorf("a message of 2 GiB: %v, and room for %d bytes", err, cap(b.buf))
	}
}

// TestDiscard: what the last batch left incomplete is where reading goes on.
func TestDiscard(t *testing.T) {
	t.Parallel()
	m := xlog(1, 2, strings.Repeat("c\x00\x00\x00\x04", 10)) // what stands inside of a message ends nothing
	for cut := range len(m) + 1 {
		s := Stream{carry: m[:cut], in: bufio.NewReader(bytes.NewReader(join(m[cut:], keepalive(3, 0), message('c'))))}
		if said, err := s.discard(); said == nil || !strings.Contains(said.Error(), "the server ended it") {
			t.Fatalf("cut at %d: %v, %v", cut, said, err)
		}
		s = Stream{carry: m[:cut], in: bufio.NewReader(bytes.NewReader(m[cut:]))}
		if said, err := s.discard(); said != nil || !errors.Is(err, io.EOF) {
			t.Fatalf("cut at %d, and then the end: %v, %v", cut, said, err)
		}
	}
}

// TestReplyRequested: a server that asks for a status message gets it at once.
func TestReplyRequested(t *testing.T) {
	t.Parallel()
	for reply, asked := range map[byte]bool{0: false, 1: true} {
		s := Stream{cfg: Config{StatusInterval: 1 << 40}}
		s.lastStatus = s.lastStatus.AddDate(3000, 0, 0)
		if err := s.scan(&Batch{buf: keepalive(1, reply)}); err != nil {
			t.Fatal(err)
		}
		if due := s.untilStatus() == 0; due != asked {
			t.Errorf("reply requested %d: status due %t", reply, due)
		}
	}
}

func TestConfirmKeepsTheGreatest(t *testing.T) {
	t.Parallel()
	var s Stream
	var wg sync.WaitGroup
	for first := range 8 {
		wg.Go(func() {
			for lsn := first; lsn < 8000; lsn += 8 {
				s.Confirm(ffstream.LSN(lsn))
				if got := s.Confirmed(); got < ffstream.LSN(lsn) {
					t.Errorf("confirmed %s after %s", got, ffstream.LSN(lsn))
				}
			}
		})
	}
	wg.Wait()
	if s.Confirmed() != 7999 {
		t.Errorf("confirmed %d", s.Confirmed())
	}
}
