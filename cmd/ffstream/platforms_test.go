package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"go.yaml.in/yaml/v3"
)

// TestPlatforms: the program's packages are correct for every platform that a release
// is built for. They are type-checked from source, of others' packages the declarations
// alone: that finds what a compiler would say of them in a fraction of its time.
func TestPlatforms(t *testing.T) {
	t.Parallel()
	var release struct {
		Builds []struct {
			Goos   []string `yaml:"goos"`
			Goarch []string `yaml:"goarch"`
		} `yaml:"builds"`
	}
	text, err := os.ReadFile("../../.goreleaser.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(text, &release); err != nil {
		t.Fatal(err)
	}
	b := release.Builds[0]
	if len(b.Goos) < 2 || len(b.Goarch) < 2 {
		t.Fatalf("a release is built for %v on %v", b.Goos, b.Goarch)
	}
	// What differs is written by system or by processor: each is met once, this one here.
	for i := range max(len(b.Goos), len(b.Goarch)) {
		system, processor := b.Goos[i%len(b.Goos)], b.Goarch[i%len(b.Goarch)]
		if system == runtime.GOOS && processor == runtime.GOARCH {
			continue
		}
		t.Run(system+"/"+processor, func(t *testing.T) {
			t.Parallel()
			if err := checkFor(t, system, processor); err != nil {
				t.Error(err)
			}
		})
	}
}

// sources is a package as go list knows it.
type sources struct {
	ImportPath, Dir string
	GoFiles         []string
	ImportMap       map[string]string
	Module          *struct{ Main bool }
}

// checkFor type-checks the program and all that it imports.
func checkFor(t *testing.T, system, processor string) error {
	t.Helper()
	list := exec.CommandContext(t.Context(), "go", "list", "-deps", "-json=ImportPath,Dir,GoFiles,ImportMap,Module", ".")
	list.Env = append(os.Environ(), "GOOS="+system, "GOARCH="+processor, "CGO_ENABLED=0")
	list.Stderr = os.Stderr
	out, err := list.StdoutPipe()
	if err != nil {
		return err
	}
	if err := list.Start(); err != nil {
		return err
	}
	checked := map[string]*types.Package{"unsafe": types.Unsafe}
	files, decoder := token.NewFileSet(), json.NewDecoder(out)
	var all []error
	ours := 0
	for { // what is imported comes first
		var s sources
		if err := decoder.Decode(&s); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
		if s.ImportPath == "unsafe" {
			continue
		}
		own := s.Module != nil && s.Module.Main
		if own {
			ours++
		}
		config := types.Config{
			IgnoreFuncBodies: !own,
			Sizes:            types.SizesFor("gc", processor),
			Importer: imports(func(path string) (*types.Package, error) {
				if to, ok := s.ImportMap[path]; ok {
					path = to
				}
				if p := checked[path]; p != nil {
					return p, nil
				}
				return nil, fmt.Errorf("%s is not listed", path)
			}),
			Error: func(err error) {
				if own {
					all = append(all, err)
				}
			},
		}
		parsed, err := parse(files, &s)
		if err != nil {
			return err
		}
		// Its errors are gathered, and those of others' packages are theirs.
		checked[s.ImportPath], _ = config.Check(s.ImportPath, files, parsed, nil)
	}
	if err := list.Wait(); err != nil {
		return fmt.Errorf("list packages: %w", err)
	}
	if ours < 10 {
		return fmt.Errorf("%d packages of ours are listed", ours)
	}
	return errors.Join(all...)
}

func parse(files *token.FileSet, s *sources) (all []*ast.File, err error) {
	for _, name := range s.GoFiles {
		f, err := parser.ParseFile(files, filepath.Join(s.Dir, name), nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		all = append(all, f)
	}
	return all, nil
}

type imports func(path string) (*types.Package, error)

// Import implements types.Importer.
func (f imports) Import(path string) (*types.Package, error) { return f(path) }
