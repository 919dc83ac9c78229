package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// TestVerifyRights leaves out each subject that verify alone has, of one user each:
// verify says which, however little it reads.
func TestVerifyRights(t *testing.T) {
	t.Parallel()
	s := startStrict(t)
	if p := start(t, env{"FFSTREAM_DATABASE_URL": s.as("ffstream_migrate")}, "migrate"); p.code() != 0 {
		t.Fatal(p.output())
	}
	var users, missing []string
	_, rights, _ := strings.Cut(readFile(t, permissionsFile), "user: ffstream\n      password: $FFSTREAM_NATS_PASSWORD\n")
	rights, _, _ = strings.Cut(rights, "\n    {\n")
	for _, subject := range subjects(t, "ffstream") {
		if strings.Contains(subject, "."+consumer+".") {
			users = append(users, fmt.Sprintf("{ user: lacks_%d, password: $FFSTREAM_NATS_PASSWORD\n%s", len(users), strings.Replace(rights, `"`+subject+`"`, `"nothing"`, 1)))
			missing = append(missing, subject)
		}
	}
	if len(missing) != 3 {
		t.Fatalf("verify has %v", missing)
	}
	w := s.world(t, "verify", func(text string) string {
		return strings.Replace(text, "users = [", "users = [\n"+strings.Join(users, "\n"), 1)
	})
	p := start(t, w.service(), "run")
	w.awaitActive(p)
	w.passes(p)
	for i, subject := range missing {
		lacking := w.service()
		lacking["FFSTREAM_NATS_USER"] = fmt.Sprintf("lacks_%d", i)
		for _, some := range []string{"--sample=1", "--partition=1"} { // all, and as few as can be
			refused(t, start(t, lacking, "verify", "--ignore-missing", "--timeout=2m", some), 1, []string{"NATS user lacks a permission", strings.TrimRight(subject, "*>")}, nil)
		}
	}
	p.stop()
}
