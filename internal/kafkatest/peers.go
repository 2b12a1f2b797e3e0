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
	return run(t, input, nil, "java", append([]string{"-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", kafkaJars(t), "org.apache.kafka.tools." + class}, args...)...)
}

// kafkaJars are those of Kafka, as a class path.
func kafkaJars(t testing.TB) string {
	t.Helper()
	jars, err := exec.Command(filepath.Join(pgtest.Root(t), "scripts", "kafka.sh"), "jars").Output()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(strings.TrimSpace(string(jars)), "libs", "*")
}

// run runs a program on input, with more in its environment, and returns what it
// printed.
func run(t testing.TB, input string, env []string, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// cached makes a folder of the user's cache once, and returns where it is.
func cached(t testing.TB, name string, fill func(dir string)) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "fairlead", name)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		part := dir + ".part"
		if err := errors.Join(os.RemoveAll(part), os.MkdirAll(part, 0o755)); err != nil {
			t.Fatal(err)
		}
		fill(part)
		if err := os.Rename(part, dir); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// maven fetches what Maven knows as group:name:version, once, and returns where
// its jar is.
func maven(t testing.TB, artifact string) string {
	t.Helper()
	parts := strings.Split(artifact, ":")
	dir := cached(t, filepath.Join("java", strings.Join(parts[1:], "-")), func(dir string) {
		run(t, "", nil, "mvn", "-q", "-B", "org.apache.maven.plugins:maven-dependency-plugin:3.6.0:copy", "-Dartifact="+artifact, "-DoutputDirectory="+dir)
	})
	return filepath.Join(dir, strings.Join(parts[1:], "-")+".jar")
}

const otel = "io.opentelemetry:opentelemetry-"

// TracedJava runs a program in Java, one file, under the OpenTelemetry Java agent, on
// input. It has Kafka's clients and the API of OpenTelemetry. It is compiled by
// Eclipse's compiler, since a Java runtime alone has none.
func TracedJava(t testing.TB, source, input string, args ...string) string {
	t.Helper()
	separator, classes := string(os.PathListSeparator), t.TempDir()
	path := strings.Join([]string{kafkaJars(t), maven(t, otel+"api:1.45.0"), maven(t, otel+"context:1.45.0"), classes}, separator)
	// The compiler's class path is its own.
	run(t, "", nil, "java", "-cp", maven(t, "org.eclipse.jdt:ecj:3.33.0")+separator+path, "org.eclipse.jdt.internal.compiler.batch.Main", "-17", "-d", classes, source)
	class := strings.TrimSuffix(filepath.Base(source), ".java")
	env := []string{"OTEL_TRACES_EXPORTER=none", "OTEL_METRICS_EXPORTER=none", "OTEL_LOGS_EXPORTER=none", "OTEL_JAVAAGENT_LOGGING=none"}
	return run(t, input, env, "java", append([]string{
		"-javaagent:" + maven(t, "io.opentelemetry.javaagent:opentelemetry-javaagent:2.20.1"), "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
		"-cp", path, class,
	}, args...)...)
}

// Kcat runs kcat on input.
func Kcat(t testing.TB, input string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath("kcat"); err != nil {
		t.Fatalf("run make services-up, or install kcat (Debian: apt-get install kcat): %v", err)
	}
	return run(t, input, nil, "kcat", args...)
}

// Python runs a script, which may import a package of PyPI, given as name==version.
// It is installed once, in the user's cache.
func Python(t testing.TB, requirement, script, input string, args ...string) string {
	t.Helper()
	dir := cached(t, filepath.Join("python", requirement), func(dir string) {
		run(t, "", nil, "python3", "-m", "pip", "install", "-q", "--no-deps", "--target", dir, requirement)
	})
	return run(t, input, []string{"PYTHONPATH=" + dir}, "python3", append([]string{script}, args...)...)
}
