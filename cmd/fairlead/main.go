// Command fairlead operates on databases of events and read models, and shows
// what Fairlead does: fairlead demo.
package main

import (
	"os"

	"github.com/fairlead-dev/fairlead/cli"
)

func main() { os.Exit(cli.Main(app())) }

func app() cli.App {
	return cli.App{Name: "fairlead", Commands: []cli.Command{demoCommand()}}
}
