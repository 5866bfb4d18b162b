// Licensed under the Apache License, Version 2.0; see LICENSE.

// Command meshpart is those processes of a test mesh that are the harness's
// own: the app behind a sidecar, the registry, and what prepares a sidecar's
// surroundings. Only the harness builds and starts it.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/wasme-io/wasme-operator/test/registry"
)

// The main goroutine stays on the main thread: the signal that ends this
// process with the harness is a thread's own, and the thread that calls exec is
// the one that goes on.
func init() { runtime.LockOSThread() }

func main() {
	root := &cobra.Command{Use: "meshpart", Short: "One process of a test mesh", SilenceUsage: true}
	root.AddCommand(app(), registryCommand(), sidecar())
	if root.Execute() != nil {
		os.Exit(1)
	}
}

func app() *cobra.Command {
	var address, name string
	command := &cobra.Command{
		Use: "app", Short: "Answer every HTTP request with 200 and what was asked, as JSON", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return serve(address, echo(name)) },
	}
	command.Flags().StringVar(&address, "address", "127.0.0.1:8080", "host:port to serve at")
	command.Flags().StringVar(&name, "name", "app", "name to answer with")
	return command
}

func registryCommand() *cobra.Command {
	var address string
	command := &cobra.Command{
		Use: "registry", Short: "Serve an OCI registry that keeps everything in memory", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return serve(address, registry.NewHandler()) },
	}
	command.Flags().StringVar(&address, "address", "127.0.0.1:5000", "host:port to serve at")
	return command
}

func serve(address string, handler http.Handler) error {
	server := &http.Server{Addr: address, Handler: handler, ReadHeaderTimeout: time.Minute}
	return fmt.Errorf("serving at %s: %w", address, server.ListenAndServe())
}

// echo lets tests see what a filter made of a request.
func echo(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{ // the client is gone: there is no one to tell
			"app": name, "method": r.Method, "path": r.URL.RequestURI(), "host": r.Host,
			"headers": r.Header, "body": string(body),
		})
	})
}

// sidecar becomes pilot-agent, with a /var/lib of its own: there pilot-agent
// keeps the modules it has fetched, at a path it cannot be told otherwise,
// which an ordinary user cannot write and two sidecars must not share. It must
// be root in its own user and mount namespace.
func sidecar() *cobra.Command {
	return &cobra.Command{
		Use: "sidecar PROGRAM [ARG...]", Short: "Run pilot-agent in a mount namespace", Args: cobra.MinimumNArgs(1),
		DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error {
			if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
				return fmt.Errorf("keeping mounts to ourselves: %w", err)
			}
			if err := unix.Mount("tmpfs", "/var/lib", "tmpfs", 0, "mode=0755"); err != nil {
				return fmt.Errorf("mounting over /var/lib: %w", err)
			}
			if err := os.MkdirAll("/var/lib/istio/data", 0o755); err != nil {
				return fmt.Errorf("preparing the folder for modules: %w", err)
			}
			return fmt.Errorf("running %s: %w", args[0], syscall.Exec(args[0], args, os.Environ()))
		},
	}
}
