package cli_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fairlead-dev/fairlead/cli"
)

func TestConfigFile(t *testing.T) {
	db := database(t, event("acme", "c1", 1, "pen", false))
	file := filepath.Join(t.TempDir(), "shop.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("database: ${SHOP_DB}\nname: from-the-file\nmemory: 32MiB\n")
	t.Setenv("SHOP_DB", db)
	t.Setenv(cli.EnvDB, "/nowhere/else.db") // the file is nearer
	ok(t, "run", "--once", "--config", file)
	if out := ok(t, "documents", "get", "carts", "c1", "--tenant", "acme", "--config", file); !strings.Contains(out, "pen") {
		t.Errorf("the document: %s", out)
	}
	t.Setenv(cli.EnvConfig, file)
	ok(t, "status")
	write("database: ${SHOP_DB}\nmemroy: 32MiB\n")
	if r := run(t, nil, "status"); r.status != cli.Failed || !strings.Contains(r.stderr, "shop.yaml:2:1: unknown field \"memroy\"") {
		t.Errorf("status %d: %s", r.status, r.stderr)
	}
	if r := run(t, nil, "status", "--config", "/nowhere.yaml"); r.status != cli.Failed || !strings.Contains(r.stderr, "/nowhere.yaml") {
		t.Errorf("status %d: %s", r.status, r.stderr)
	}
}
