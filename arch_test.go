package ffstream_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/ffstream/ffstream"

// arrows is the map of the house: what each package may import of the others.
// Everything may import the root. A package that is missing here fails the test.
var arrows = map[string][]string{
	".":                       {},
	"client":                  {},
	"docs":                    {},
	"reader":                  {"internal/read"},
	"cmd/ffstream":            {"*"},
	"internal/repl":           {"internal/repl/pgoutput"},
	"internal/repl/pgoutput":  {},
	"internal/normalize":      {"internal/repl/pgoutput"},
	"internal/publish":        {},
	"internal/backfill":       {"internal/publish"},
	"internal/shard":          {"internal/repl", "internal/repl/pgoutput", "internal/normalize", "internal/publish", "internal/backfill"},
	"internal/project":        {"internal/publish"},
	"internal/read":           {"internal/normalize"},
	"internal/verify":         {"internal/read", "internal/publish", "internal/shard", "internal/backfill"},
	"internal/web":            {"internal/shard"},
	"internal/doctor":         {"migrations", "internal/publish", "internal/normalize"},
	"internal/testenv":        {"migrations"},
	"internal/testenv/engine": {},
	"migrations":              {},
}

// pure packages have no I/O, no lock and no goroutine of their own.
var pure = []string{".", "internal/repl/pgoutput", "internal/normalize"}

var impure = []string{"net", "os", "sync", "context", "io/fs", "syscall", "os/signal"}

// TestArrows reads the files themselves: a test that shells out to the go
// command is cached and passes wrongly.
func TestArrows(t *testing.T) {
	seen := map[string]bool{}
	err := filepath.WalkDir(".", func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && file != "." || d.Name() == "testdata") {
			return fs.SkipDir
		}
		if !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
			return nil
		}
		pkg := filepath.ToSlash(filepath.Dir(file))
		seen[pkg] = true
		checkFile(t, pkg, file)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pure {
		if !seen[p] {
			t.Errorf("pure package %s has no files: the test looks in the wrong place", p)
		}
	}
}

func checkFile(t *testing.T, pkg, file string) {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
	if err != nil {
		t.Fatal(err)
	}
	allowed, known := arrows[pkg]
	if !known && !strings.HasPrefix(pkg, "e2e") {
		t.Errorf("%s: package %s is not on the map", file, pkg)
		return
	}
	for _, spec := range f.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		if slices.Contains(pure, pkg) && (slices.Contains(impure, imported) || strings.HasPrefix(imported, "net/")) {
			t.Errorf("%s: package %s is pure and imports %s", file, pkg, imported)
		}
		target, ours := strings.CutPrefix(imported, module+"/")
		if !ours || !known || slices.Contains(allowed, "*") || slices.Contains(allowed, target) {
			continue
		}
		t.Errorf("%s: no arrow from %s to %s", file, pkg, target)
	}
}

// TestRootDependsOnUUIDOnly keeps the contract free of other people's code.
func TestRootDependsOnUUIDOnly(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files: %v", err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range f.Imports {
			imported, _ := strconv.Unquote(spec.Path.Value)
			first, _, _ := strings.Cut(path.Clean(imported), "/")
			if strings.Contains(first, ".") && imported != "github.com/google/uuid" {
				t.Errorf("%s imports %s: the root uses the standard library and uuid only", file, imported)
			}
		}
	}
}
