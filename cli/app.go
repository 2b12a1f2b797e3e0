// Package cli is the command line of Fairlead for any program: with one line a
// program has all operators' commands for its own projections, and run.
//
//	func main() { os.Exit(cli.Main(cli.App{Processors: processors})) }
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/config"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/spf13/cobra"
)

// The exit statuses.
const (
	OK     = 0
	Failed = 1 // it did not work, or a comparison found a difference
	Misuse = 2 // the command line cannot be understood
)

// The environment variables that stand for the flags --db and --config.
const (
	EnvDB     = "FAIRLEAD_DB"
	EnvConfig = "FAIRLEAD_CONFIG"
)

// An App is a program with Fairlead's commands. The zero App has all of them,
// but nothing to run.
type App struct {
	Name    string // of the program; default: that of its file
	Short   string // what it is, in a line
	Version string // default: what the build knows

	// Processors are what the command run runs.
	Processors []fairlead.Processor
	// Commands are the program's own.
	Commands []Command
	// Open opens what --db names. Default: the PostgreSQL database of a URL
	// postgres://..., else the SQLite file of that name.
	Open func(ctx context.Context, name string, mode Mode) (Database, error)
}

// A Database is what the commands work on.
type Database interface {
	eventlog.Log
	eventlog.Appender
	eventlog.StreamReader
	store.Store
	io.Closer
}

// A Mode says what a command wants of a database.
type Mode int

const (
	Read   Mode = iota // only read; it must exist
	Write              // it must exist
	Create             // it is made where there is none
)

// A Command is a command of a program beside Fairlead's own.
type Command struct {
	Use     string // name and arguments: "demo [FILE]"
	Short   string // a line
	Long    string
	Example string
	Args    int                 // the most arguments
	Flags   func(*flag.FlagSet) // adds its flags
	Run     func(ctx context.Context, env *Env, args []string) error
}

// An Env is what a command talks to.
type Env struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	JSON           bool // the user wants JSON
}

// Main runs the command of the program's arguments, until it ends or SIGINT or
// SIGTERM comes, and returns the exit status.
func Main(app App) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	return Run(ctx, app, os.Args[1:], &Env{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr})
}

// Run is Main with arguments (without the program's name) and streams. Env.JSON
// is set from the arguments.
func Run(ctx context.Context, app App, args []string, env *Env) int {
	if app.Name == "" {
		app.Name = filepath.Base(os.Args[0])
	}
	if app.Short == "" {
		app.Short = "read models for many tenants from one log of events"
	}
	if app.Version == "" {
		app.Version = buildVersion()
	}
	if app.Open == nil {
		app.Open = openDatabase
	}
	p := &program{app: app, Env: env}
	root := p.root()
	root.SetArgs(args)
	root.SetIn(env.Stdin)
	root.SetOut(env.Stdout)
	root.SetErr(env.Stderr)
	// So that a flag that does not parse is reported in JSON too.
	env.JSON = slices.Contains(args, "--json")
	err := root.ExecuteContext(ctx)
	if err == nil {
		return OK
	}
	status := Failed
	if _, misuse := errors.AsType[*usageError](err); misuse {
		status = Misuse
	}
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		err = fmt.Errorf("interrupted: %w", err)
	}
	p.complain(err, status)
	return status
}

func (p *program) complain(err error, status int) {
	if !p.JSON {
		fmt.Fprintf(p.Stderr, "%s: %s\n", p.app.Name, printableLines(err.Error()))
		return
	}
	_ = json.NewEncoder(p.Stderr).Encode(struct {
		Error  string `json:"error"`
		Status int    `json:"status"`
	}{err.Error(), status})
}

func buildVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

// A usageError is the fault of whoever typed the command.
type usageError struct{ error }

func (e *usageError) Unwrap() error { return e.error }

// Usagef returns an error that ends a command with the exit status [Misuse].
func Usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// A program is an App that runs a command.
type program struct {
	app App
	*Env
	db     string
	config string       // the file's name
	file   *config.File // what is in it
	topic  *topic       // the log, where that is not the database
}

func (p *program) root() *cobra.Command {
	name := p.app.Name
	root := &cobra.Command{
		Use:   name,
		Short: p.app.Short,
		Long: fmt.Sprintf(`%s: %s.

Most commands work on a database: --db FILE, or --db postgres://USER@HOST/NAME,
or the environment variable %s, or database in the file of --config. They
work while other processes run consumers on it.

Exit status: 0 it worked; 1 it did not, or a comparison found a difference;
2 the command line cannot be understood. With --json, results on stdout and
errors on stderr are JSON.`, name, p.app.Short, EnvDB),
		Version:       p.app.Version,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return unknownCommand(c, args[0])
		},
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetVersionTemplate("{{.Name}} {{.Version}}\n")
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return Usagef("%w: see %s --help", err, c.CommandPath())
	})
	root.PersistentFlags().StringVar(&p.config, "config", os.Getenv(EnvConfig), "a `FILE` in YAML; flags go before it; default: $"+EnvConfig)
	root.PersistentFlags().Lookup("config").DefValue = ""
	root.PersistentPreRunE = func(*cobra.Command, []string) (err error) {
		p.file = &config.File{}
		if p.config != "" {
			p.file, err = config.Load(p.config)
		}
		return err
	}
	root.PersistentFlags().BoolVar(&p.JSON, "json", false, "write results as JSON on stdout, errors as JSON on stderr")
	root.CompletionOptions.HiddenDefaultCmd = true
	for _, c := range p.app.Commands {
		root.AddCommand(p.own(c))
	}
	root.AddCommand(
		p.runCommand(), p.importCommand(), p.exportCommand(),
		p.statusCommand(), p.lanesCommand(), p.tenantsCommand(), p.documentsCommand(), p.lettersCommand(),
		p.pauseCommand(), p.resumeCommand(), p.detachCommand(), p.mergeCommand(), p.weightCommand(), p.poolCommand(),
		p.partitionsCommand(), p.rebuildCommand(), p.dropCommand(), p.migrateCommand(), p.planCommand(), p.routesCommand(),
	)
	return root
}

func unknownCommand(c *cobra.Command, name string) error {
	c.SuggestionsMinimumDistance = 2
	hint := fmt.Sprintf("see %s --help", c.CommandPath())
	if s := c.SuggestionsFor(name); len(s) > 0 {
		hint = "did you mean " + strings.Join(s, " or ") + "?"
	}
	return Usagef("%s has no command %q: %s", c.CommandPath(), name, hint)
}

// own makes a cobra command of one of the program's own.
func (p *program) own(c Command) *cobra.Command {
	cmd := &cobra.Command{
		Use: c.Use, Short: c.Short, Long: c.Long, Example: c.Example,
		Args: between(0, c.Args),
		RunE: func(cmd *cobra.Command, args []string) error { return c.Run(cmd.Context(), p.Env, args) },
	}
	if c.Flags != nil {
		fs := flag.NewFlagSet(c.Use, flag.ContinueOnError)
		c.Flags(fs)
		cmd.Flags().AddGoFlagSet(fs)
	}
	return cmd
}

// group is a command that has only commands.
func group(c *cobra.Command, commands ...*cobra.Command) *cobra.Command {
	c.Args = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return Usagef("%s needs a command: see %s --help", c.CommandPath(), c.CommandPath())
		}
		return unknownCommand(c, args[0])
	}
	c.RunE = func(*cobra.Command, []string) error { return nil }
	c.AddCommand(commands...)
	return c
}

// between checks the number of arguments.
func between(low, high int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		switch n := len(args); {
		case n < low:
			return Usagef("%s: too few arguments: use it as %q", c.CommandPath(), c.UseLine())
		case n > high:
			return Usagef("%s: %q is one argument too many: use it as %q", c.CommandPath(), args[high], c.UseLine())
		}
		return nil
	}
}

// onDatabase gives a command the flag --db, and runs f with that database open.
func (p *program) onDatabase(c *cobra.Command, mode Mode, f func(ctx context.Context, db Database, args []string) error) *cobra.Command {
	return p.onDatabaseAs(c, func() Mode { return mode }, f)
}

// onDatabaseAs is onDatabase with a mode that depends on the command's flags.
func (p *program) onDatabaseAs(c *cobra.Command, mode func() Mode, f func(ctx context.Context, db Database, args []string) error) *cobra.Command {
	c.Flags().StringVar(&p.db, "db", os.Getenv(EnvDB), "the database `FILE`, or a URL postgres://...; default: $"+EnvDB)
	c.Flags().Lookup("db").DefValue = "" // help does not depend on the environment
	c.RunE = func(c *cobra.Command, args []string) (err error) {
		// The file of --config is nearer than the environment, and a flag than both.
		if p.file.Database != "" && !c.Flags().Changed("db") {
			p.db = p.file.Database
		}
		if p.db == "" {
			return Usagef("%s needs a database: give --db FILE, or set %s, or database in the file of --config", c.CommandPath(), EnvDB)
		}
		db, err := p.app.Open(c.Context(), p.db, mode())
		if err != nil {
			return err
		}
		defer func() {
			if e := db.Close(); err == nil {
				err = e
			}
		}()
		if p.file.Kafka != nil {
			if p.topic, err = p.openTopic(c.Context()); err != nil {
				return err
			}
			defer func() {
				if e := p.topic.Close(); err == nil {
					err = e
				}
			}()
		}
		return f(c.Context(), db, args)
	}
	return c
}

func (p *program) admin(db Database) fairlead.Admin {
	return fairlead.Admin{Log: p.log(db), Store: db}
}

// log returns the log: the topic, or the database's.
func (p *program) log(db Database) eventlog.Log {
	if p.topic != nil {
		return p.topic.Log
	}
	return db
}
