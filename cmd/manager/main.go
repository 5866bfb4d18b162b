// Command manager is the operator: it runs the controllers and serves modules
// to sidecars.
package main

import (
	"flag"
	"fmt"
	"os"

	ctrl "sigs.k8s.io/controller-runtime"
)

func main() {
	opts, err := parseOptions(flag.CommandLine, os.Args[1:])
	if err == nil {
		err = run(ctrl.SetupSignalHandler(), opts)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}
