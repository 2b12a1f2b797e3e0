package pgtest

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// NPM returns a directory with the files of dir (a folder of the repository, with
// a package-lock.json) and the packages that they name, installed by npm once for
// all tests: in the user's cache, under a name made of the files. It fails the
// test where npm cannot do it; under -short the test is skipped.
func NPM(t testing.TB, dir string) string {
	t.Helper()
	if testing.Short() {
		t.Skip("-short runs without npm")
	}
	source := filepath.Join(Root(t), filepath.FromSlash(dir))
	files := map[string][]byte{}
	sum := sha256.New()
	entries, err := os.ReadDir(source)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.IsDir() {
			continue
		}
		b, err := os.ReadFile(filepath.Join(source, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		files[e.Name()] = b
		_, _ = fmt.Fprintf(sum, "%s %d\n%s", e.Name(), len(b), b)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	cache = filepath.Join(cache, "fairlead", "npm")
	out := filepath.Join(cache, fmt.Sprintf("%x", sum.Sum(nil))[:24])
	if _, err := os.Stat(out); err == nil {
		return out
	}
	// Made beside it and then renamed: two at once do not see half of it, and the
	// one who comes second throws its own away.
	if err := os.MkdirAll(cache, 0o755); err != nil {
		t.Fatal(err)
	}
	part, err := os.MkdirTemp(cache, "part-") //nolint:usetesting // it is renamed, to stay
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(part) }()
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(part, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts")
	cmd.Dir = part
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("npm ci for %s (is node installed, and the npm registry reachable?): %v\n%s", dir, err, strings.TrimSpace(string(said)))
	}
	if err := os.Rename(part, out); err != nil && !errors.Is(err, fs.ErrExist) {
		if _, there := os.Stat(out); there != nil {
			t.Fatal(err)
		}
	}
	return out
}
