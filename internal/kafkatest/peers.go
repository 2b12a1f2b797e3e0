package kafkatest

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fairlead-dev/fairlead/internal/pgtest"
)

// JavaTool runs a tool of Kafka's own distribution, a class of
// org.apache.kafka.tools, on input, and returns what it printed.
func JavaTool(t testing.TB, class, input string, args ...string) string {
	t.Helper()
	jars, err := exec.Command(filepath.Join(pgtest.Root(t), "scripts", "kafka.sh"), "jars").Output()
	if err != nil {
		t.Fatal(err)
	}
	libs := filepath.Join(strings.TrimSpace(string(jars)), "libs", "*")
	cmd := exec.CommandContext(t.Context(), "java", append([]string{"-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", libs, "org.apache.kafka.tools." + class}, args...)...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", class, err, out)
	}
	return string(out)
}

// Python runs a script, which may import a package of PyPI, given as name==version.
// It is installed once, in the user's cache.
func Python(t testing.TB, requirement, script, input string, args ...string) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "fairlead", "python", requirement)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		part := dir + ".part"
		if err := os.RemoveAll(part); err != nil {
			t.Fatal(err)
		}
		pip := exec.CommandContext(t.Context(), "python3", "-m", "pip", "install", "-q", "--no-deps", "--target", part, requirement)
		if out, err := pip.CombinedOutput(); err != nil {
			t.Fatalf("install %s with pip (Debian: apt-get install python3-pip): %v\n%s", requirement, err, out)
		}
		if err := os.Rename(part, dir); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "python3", append([]string{script}, args...)...)
	cmd.Env = append(os.Environ(), "PYTHONPATH="+dir)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return string(out)
}
