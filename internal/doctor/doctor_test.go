package doctor

import (
	"context"
	"os"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/ffstream/ffstream/internal/testenv"
	"github.com/ffstream/ffstream/migrations"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m.Run)) }

func find(t *testing.T, all []Finding, id string) Finding {
	t.Helper()
	for _, f := range all {
		if f.ID == id {
			return f
		}
	}
	t.Fatalf("no finding %s in %v", id, all)
	return Finding{}
}

// TestRemedies provokes a finding, runs its remedy and sees it gone.
func TestRemedies(t *testing.T) {
	t.Parallel()
	ctx, db := t.Context(), testenv.DB(t, testenv.Schema{Version: migrations.EngineNewest})
	admin, err := pgx.Connect(ctx, db.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = admin.Close(ctx) }()
	exec := func(sql string) {
		t.Helper()
		if _, err := admin.Exec(ctx, sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	name := pgx.Identifier{db.Name + "_doctor"}.Sanitize()
	exec("CREATE ROLE " + name)
	t.Cleanup(func() {
		if _, err := db.Pool.Exec(context.Background(), "DROP ROLE "+name); err != nil {
			t.Errorf("drop the role: %v", err)
		}
	})
	cfg := migrations.Config{Publication: "ffstream", Identity: true}
	for _, id := range []string{"role-replication", "source"} {
		check := func() Finding {
			if id == "role-replication" {
				exec("SET ROLE " + name)
				defer exec("RESET ROLE")
			}
			return find(t, Source(ctx, admin, cfg), id)
		}
		before := check()
		if before.Severity != Fault || len(before.Remedy) == 0 {
			t.Fatalf("before: %+v", before)
		}
		for _, sql := range before.Remedy {
			exec(sql)
		}
		if after := check(); after.Severity != OK {
			t.Fatalf("after the remedy: %+v", after)
		}
	}
}
