package main

import (
	"bytes"
	"runtime"
	"runtime/debug"
	"testing"
)

// TestVersion: a release is called by its stamp, anything else by its commit, and what
// lay in the work tree beside it is never hidden.
func TestVersion(t *testing.T) {
	t.Parallel()
	const commit = "0123456789abcdef0123456789abcdef01234567"
	vcs := func(modified string) *debug.BuildInfo {
		return &debug.BuildInfo{Main: debug.Module{Version: "(devel)"}, Settings: []debug.BuildSetting{{Key: "vcs.revision", Value: commit}, {Key: "vcs.modified", Value: modified}}}
	}
	by := " " + runtime.Version() + " " + runtime.GOOS + "/" + runtime.GOARCH
	for _, c := range []struct {
		name, stamped string
		info          *debug.BuildInfo
		version, line string
	}{
		{"release", "v1.2.3", vcs("false"), "v1.2.3", "v1.2.3 commit " + commit},
		{"release of a dirty tree", "v1.2.3", vcs("true"), "v1.2.3", "v1.2.3 commit " + commit + " (dirty)"},
		{"commit", "", vcs("false"), "0123456789ab", "0123456789ab commit " + commit},
		{"dirty", "", vcs("true"), "0123456789ab+dirty", "0123456789ab+dirty commit " + commit + " (dirty)"},
		{"module", "", &debug.BuildInfo{Main: debug.Module{Version: "v1.4.0"}}, "v1.4.0", "v1.4.0 commit unknown"},
		{"nothing", "", nil, "(unknown)", "(unknown) commit unknown"},
	} {
		b := readBuild(c.stamped, c.info, c.info != nil)
		if b.version != c.version || b.String() != c.line+by {
			t.Errorf("%s: %s, %s", c.name, b.version, b)
		}
	}
	var out, errs bytes.Buffer
	if code := execute([]string{"version"}, terminal{&out, &errs}); code != exitOK || out.String() != "ffstream "+thisBuild().String()+"\n" {
		t.Errorf("version exits with %d and prints %q%q", code, out.String(), errs.String())
	}
}
