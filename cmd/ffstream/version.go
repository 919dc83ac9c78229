package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// stamped is set by release builds with -ldflags "-X main.stamped=v1.2.3".
var stamped string

// build is what is known of how the program was made.
type build struct {
	version string // the release; else the commit, shortened; else the module's version
	commit  string // empty: made outside of a repository
	dirty   bool   // the work tree held what the commit does not
}

// readBuild takes what the compiler left in the program, if it left anything.
func readBuild(stamped string, info *debug.BuildInfo, known bool) build {
	b := build{version: stamped}
	if !known {
		info = &debug.BuildInfo{Main: debug.Module{Version: "(unknown)"}}
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.commit = s.Value
		case "vcs.modified":
			b.dirty = s.Value == "true"
		}
	}
	switch {
	case b.version != "":
	case b.commit == "":
		b.version = info.Main.Version
	case b.dirty:
		b.version = b.commit[:min(12, len(b.commit))] + "+dirty"
	default:
		b.version = b.commit[:min(12, len(b.commit))]
	}
	return b
}

// String is the line that ffstream version prints behind the name.
func (b build) String() string {
	commit := b.commit
	switch {
	case commit == "":
		commit = "unknown"
	case b.dirty:
		commit += " (dirty)"
	}
	return fmt.Sprintf("%s commit %s %s %s/%s", b.version, commit, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

// version is the release, or what the build knows of its commit.
func version() string { return thisBuild().version }

func thisBuild() build {
	info, ok := debug.ReadBuildInfo()
	return readBuild(stamped, info, ok)
}
