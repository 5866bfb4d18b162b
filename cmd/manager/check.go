package main

import (
	"context"
	"time"

	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/wasme-io/wasme-operator/internal/serve"
)

// checkName is the subcommand with which `helm test` asks for the module server, in a pod of
// its own: the image has no other program.
const checkName = "check"

// checkTime is long enough for nodes to hear of a Service, and for a replica to become ready.
const checkTime = time.Minute

// check reports whether the module server answers at a URL.
func check(url string) error {
	ctx, cancel := context.WithTimeout(ctrl.SetupSignalHandler(), checkTime)
	defer cancel()
	return serve.Check(ctx, url)
}
