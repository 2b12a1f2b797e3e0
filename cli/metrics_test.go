package cli_test

import (
	"bufio"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
)

// TestMetrics asks a consumer in another process for its metrics.
func TestMetrics(t *testing.T) { onEach(t, testMetrics) }

func testMetrics(t *testing.T, database makeDatabase) {
	db := database(t, event("acme", "c1", 1, "pen", false))
	cmd := program(t, "run", "--db", db, "--lease", "1s", "--metrics", "127.0.0.1:0")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("the consumer ended with %v", err)
		}
	}()
	url := ""
	lines := bufio.NewScanner(stderr)
	for url == "" && lines.Scan() {
		_, url, _ = strings.Cut(lines.Text(), "metrics on ")
	}
	if url == "" {
		t.Fatal("the consumer does not say where its metrics are")
	}
	waitForItems(t, db, "acme", "c1", 1)
	r, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range []string{"fairlead_up 1", `fairlead_events_total{processor="carts"} 1`, "fairlead_members 1"} {
		if !strings.Contains(string(body), "\n"+l+"\n") {
			t.Errorf("no %q in\n%s", l, body)
		}
	}
	if r := run(t, nil, "run", "--db", db, "--metrics", "nowhere", "--once"); r.status == 0 || !strings.Contains(r.stderr, "--metrics nowhere") {
		t.Errorf("an address that is none: status %d, %s", r.status, r.stderr)
	}
}
