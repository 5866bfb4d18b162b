// Command manager is the operator: it runs the controllers and serves modules
// to sidecars.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime/debug"

	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/wasme-io/wasme-operator/internal/preflight/child"
	"github.com/wasme-io/wasme-operator/internal/version"
)

// gcPercent has the collector run when the heap has grown by two fifths. Most of it
// are caches, which live long: memory is worth more here than the time that
// collections take. The variable GOGC overrules it.
const gcPercent = 40

func main() {
	if len(os.Args) == 2 && os.Args[1] == child.Name {
		exit(child.Main(os.Stdin, os.Stdout))
		return
	}
	if len(os.Args) == 3 && os.Args[1] == checkName {
		exit(check(os.Args[2]))
		return
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	opts, err := parseOptions(flag.CommandLine, os.Args[1:])
	switch {
	case err != nil:
	case opts.version:
		_, err = fmt.Println(version.Read())
	default:
		err = run(ctrl.SetupSignalHandler(), opts)
	}
	exit(err)
}

// exit ends the process when something has failed.
func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}
