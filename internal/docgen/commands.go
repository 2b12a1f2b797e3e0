package main

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	"github.com/fairlead-dev/fairlead/cli"
)

// helpOf returns the help of a command.
func helpOf(command []string) (string, error) {
	var out bytes.Buffer
	env := &cli.Env{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &out}
	args := append(append([]string(nil), command...), "--help")
	if status := cli.Run(context.Background(), cli.App{Name: "fairlead", Version: "-"}, args, env); status != cli.OK {
		return "", fmt.Errorf("fairlead %s: exit status %d: %s", strings.Join(args, " "), status, out.String())
	}
	return out.String(), nil
}

// subcommands returns the commands that a help lists, but for help itself.
func subcommands(help string) (names []string) {
	_, list, ok := strings.Cut(help, "Available Commands:\n")
	if !ok {
		return nil
	}
	for line := range strings.Lines(list) {
		name, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		if name == "" || rest == "" {
			break
		}
		if name != "help" {
			names = append(names, name)
		}
	}
	return names
}

// trimHelp leaves out what is the same in every help.
func trimHelp(help string) string {
	var b strings.Builder
	global := false
	for line := range strings.Lines(help) {
		switch {
		case strings.HasPrefix(line, "Global Flags:"):
			global = true
		case strings.HasPrefix(line, `Use "`), strings.Contains(line, "-h, --help"), strings.Contains(line, "-v, --version"):
			continue
		case global && strings.TrimSpace(line) == "":
			global = false
		}
		if !global {
			b.WriteString(strings.TrimRight(line, " \n") + "\n")
		}
	}
	text := strings.TrimSpace(b.String()) + "\n"
	text = strings.TrimSuffix(text, "\nFlags:\n") // it had only --help
	for strings.Contains(text, "\n\n\n") {
		text = strings.ReplaceAll(text, "\n\n\n", "\n\n")
	}
	return strings.TrimRight(text, "\n") + "\n"
}
