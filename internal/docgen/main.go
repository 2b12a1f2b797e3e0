// Command docgen writes docs/configuration.md from the code: the fields of the
// option structs with their comments, their defaults from the functions that
// fill them in, and the commands with their flags from their own help. Run it in
// the root of the module:
//
//	go run ./internal/docgen
//
// A test fails if the page is not what it would write. The tests here also keep
// the other pages honest: the README's program is built and run, every test that
// docs/guarantees.md names exists, and no link leads nowhere.
package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fairlead-dev/fairlead/cli"
	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/projection"
	"github.com/fairlead-dev/fairlead/slo"
)

// page is where the generated page is, below the root of the module.
const page = "docs/configuration.md"

func main() {
	text, err := generate(".")
	if err == nil {
		err = os.WriteFile(page, text, 0o644) //nolint:gosec // a page that everybody may read
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "docgen:", err)
		os.Exit(1)
	}
}

// A section is a struct of the page.
type section struct {
	title string // as users write it
	file  string
	name  string
	intro string
	// defaults say where the zero fields are filled in: by an assignment to
	// a field of the variable "via", in the function "fill" of the file "in".
	in, fill, via string
}

var sections = []section{
	{"fairlead.Config", "fairlead.go", "Config", "What a consumer works on; see `fairlead.New`.", "internal/engine/engine.go", "New", "cfg"},
	{
		"fairlead.Options", "fairlead.go", "Options", "The last argument of `Project`, `ProjectBatch` and `React`.",
		"internal/engine/processor.go", "WithDefaults", "p",
	},
	{
		"fairlead.RebuildOptions", "admin_rebuild.go", "RebuildOptions", "The field `Rebuild` of the options, and the last argument of `Admin.Rebuild` and `Admin.GoBack`.",
		"admin_rebuild.go", "how", "o",
	},
	{"fairlead.Retry", "internal/engine/processor.go", "Retry", "The field `Retry` of the options.", "internal/engine/processor.go", "WithDefaults", "p.Retry"},
	{"slo.Objective", "slo/slo.go", "Objective", "The field `Freshness` of the options.", "", "", ""},
	{"sqlite.Options", "sqlite/open.go", "Options", "The last argument of `sqlite.Open`.", "sqlite/open.go", "withDefaults", "o"},
	{"postgres.Options", "postgres/open.go", "Options", "The last argument of `postgres.Open`.", "postgres/open.go", "withDefaults", "o"},
	{"kafka.Config", "kafka/kafka.go", "Config", "The argument of `kafka.Open`.", "kafka/kafka.go", "setDefaults", "c"},
	{"kafka.Mapping", "kafka/mapping.go", "Mapping", "The field `Mapping` of `kafka.Config`; its comment in the code says where all parts of an event come from.", "", "", ""},
	{"registry.Config", "kafka/registry/registry.go", "Config", "The argument of `registry.New`.", "kafka/registry/registry.go", "New", "cfg"},
	{"The file", "config/config.go", "File", "What `--config` names.", "", "", ""},
	{"The file: kafka", "config/kafka.go", "Kafka", "The topic that is the log in place of the database, which then is the store only.", "", "", ""},
	{"The file: kafka.layout", "config/kafka.go", "Layout", "Where the records of tenants are.", "", "", ""},
	{"The file: kafka.sasl", "config/kafka.go", "SASL", "How to log in to the brokers.", "", "", ""},
	{"The file: consumer", "config/consumer.go", "Consumer", "Which events of a log that several environments share are this consumer's; see `tenancy`.", "", "", ""},
	{"The file: consumer.headers", "config/consumer.go", "Headers", "A preset's name in place of these keys: `fairlead`, `w3c`, `doordash`, `uber`, `signadot`, `jaeger`.", "", "", ""},
}

// generate returns the page for the module in the folder root.
func generate(root string) ([]byte, error) {
	var b bytes.Buffer
	b.WriteString(strings.ReplaceAll(`# Configuration

<!-- Made by go run ./internal/docgen; a test fails if it is stale. Change the comments in the code. -->

Configuration is Go code: plain structs whose zero value works. Every fault in them is reported by the call that takes
them. What differs from one place to another may be in a file in YAML, which @--config@ or @FAIRLEAD_CONFIG@ names. A key
that is not known, and every other fault, is an error with file and line; flags of the command line go before the file, the
file before the other variables of the environment. @${NAME}@ in a text is filled in from the environment.

`, "@", "`"))
	for _, s := range sections {
		if err := s.write(&b, root); err != nil {
			return nil, fmt.Errorf("%s: %w", s.title, err)
		}
	}
	if err := writeConstants(&b, root, "Policy", "internal/engine/processor.go",
		"What becomes of an event that cannot be applied: the field `Poison` of the options."); err != nil {
		return nil, err
	}
	if err := writeFunctions(&b, root, "Start", "internal/engine/processor.go",
		"Where a new processor begins: the field `Start` of the options. It counts once, when the processor is new to the store."); err != nil {
		return nil, err
	}
	writeLimits(&b)
	if err := writeEnvironment(&b, root); err != nil {
		return nil, err
	}
	if err := writeCommands(&b); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func (s section) write(b *bytes.Buffer, root string) error {
	fields, err := structFields(filepath.Join(root, s.file), s.name)
	if err != nil {
		return err
	}
	defaults := map[string]string{}
	if s.in != "" {
		if defaults, err = defaultsIn(filepath.Join(root, s.in), s.fill, s.via); err != nil {
			return err
		}
	}
	if s.name == "Objective" {
		d := slo.Objective{}.WithDefaults()
		defaults["P99"], defaults["Max"] = readable(d.P99), readable(d.Max)
	}
	fmt.Fprintf(b, "## %s\n\n%s\n\n| field | type | default | what |\n| --- | --- | --- | --- |\n", s.title, s.intro)
	for _, f := range fields {
		var shown []string
		for _, n := range f.names {
			shown = append(shown, cell(defaults[n]))
		}
		def := strings.Join(shown, ", ")
		if strings.Trim(def, ", ") == "" {
			def = ""
		}
		fmt.Fprintf(b, "| `%s` | `%s` | %s | %s |\n", strings.Join(f.names, "`, `"), f.typ, def, f.doc)
	}
	b.WriteByte('\n')
	return nil
}

// readable is like "1 s" and "1 min".
func readable(d time.Duration) string {
	if d%time.Minute == 0 {
		return fmt.Sprintf("%d min", d/time.Minute)
	}
	return fmt.Sprintf("%d s", d/time.Second)
}

// cell quotes a default that is code.
func cell(s string) string {
	if strings.ContainsAny(s, "()") {
		return "`" + s + "`"
	}
	return s
}

func writeLimits(b *bytes.Buffer) {
	fmt.Fprintf(b, `## Limits

| what | limit |
| --- | --- |
| tenant | %d bytes of printable UTF-8 |
| stream | %d bytes |
| event type | %d bytes |
| event id | %d bytes |
| metadata of an event | %d bytes of keys and values |
| occurred at | years 1 to 9999, in UTC |
| document id | %d bytes |

A log refuses what is beyond a limit, and an import counts it as a bad line; an event of a foreign log that has a longer name is parked.

`, event.MaxTenant, event.MaxStream, event.MaxType, event.MaxID, eventlog.MaxMetadata, projection.MaxDocument)
}

// writeCommands writes what the commands say of themselves.
func writeCommands(b *bytes.Buffer) error {
	fmt.Fprintf(b, `## Command line

The environment variable %s stands for the flag %s. These are the commands of package cli, which every program can have
for its own processors with one line; the program fairlead has demo besides. Every command has %s and %s.

`, "`"+cli.EnvDB+"`", "`--db`", "`--help`", "`--json`")
	queue := [][]string{nil}
	for len(queue) > 0 {
		at := queue[0]
		queue = queue[1:]
		help, err := helpOf(at)
		if err != nil {
			return err
		}
		for _, name := range subcommands(help) {
			queue = append(queue, append(append([]string(nil), at...), name))
		}
		title := strings.Join(append([]string{"fairlead"}, at...), " ")
		fmt.Fprintf(b, "### %s\n\n```text\n%s```\n\n", title, trimHelp(help))
	}
	b.Truncate(b.Len() - 1) // one newline at the end
	return nil
}
