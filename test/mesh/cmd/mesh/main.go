// Licensed under the Apache License, Version 2.0; see LICENSE.

// Command mesh starts and ends a test mesh by hand: see package mesh.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	crlog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/wasme-io/wasme-operator/test/mesh"
	"github.com/wasme-io/wasme-operator/test/mesh/binaries"
	"github.com/wasme-io/wasme-operator/test/mesh/progress"
)

func main() {
	crlog.SetLogger(logr.Discard()) // errors are returned; the libraries have nothing else to say
	if err := run(); err != nil {
		os.Exit(1) // cobra has said why
	}
}

func run() error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	return command().ExecuteContext(ctx)
}

func command() *cobra.Command {
	root := &cobra.Command{Use: "mesh", Short: "A Kubernetes control plane and an Istio mesh as processes on this machine", SilenceUsage: true}
	root.AddCommand(up(), down())
	return root
}

func up() *cobra.Command {
	var folder string
	var samples []string
	command := &cobra.Command{
		Use: "up", Short: "Start a mesh that stays until down", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return start(cmd.Context(), folder, samples, os.Stdout)
		},
	}
	command.Flags().StringVar(&folder, "dir", mesh.DefaultFolder(), "folder for its data and logs")
	command.Flags().StringSliceVar(&samples, "workloads", nil, "sample workloads to start: bookinfo, httpbin")
	return command
}

func down() *cobra.Command {
	var folder string
	command := &cobra.Command{
		Use: "down", Short: "End what up started; its folder stays, with the logs", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return mesh.Down(folder) },
	}
	command.Flags().StringVar(&folder, "dir", mesh.DefaultFolder(), "folder given to up")
	return command
}

func start(ctx context.Context, folder string, samples []string, out *os.File) error {
	workloads, err := workloadsOf(samples)
	if err != nil {
		return err
	}
	log := progress.New(out)
	begin := time.Now()
	programs := &binaries.Source{Log: log, Installed: true}
	m, running, err := startAll(ctx, mesh.Options{Folder: folder, Log: log, Programs: programs, Detached: true}, workloads)
	log.Close()
	if err != nil {
		return err
	}
	kubectl, err := programs.Path(ctx, binaries.Kubectl)
	if err != nil {
		return err
	}
	return report(m, running, kubectl, time.Since(begin), out)
}

// startAll provides all programs, and starts a mesh with workloads. It shows on
// the log of the programs what it waits for.
func startAll(ctx context.Context, options mesh.Options, workloads []mesh.Workload) (*mesh.Mesh, []*mesh.Running, error) {
	if err := options.Programs.Prepare(ctx, binaries.Compile("compiling the harness", time.Minute, "./test/mesh/cmd/meshpart")); err != nil {
		return nil, nil, err
	}
	end := progress.Begin(options.Log, "starting the control plane and istiod", 20*time.Second)
	m, err := mesh.Start(ctx, options)
	end(err)
	if err != nil {
		return nil, nil, err
	}
	var running []*mesh.Running
	for _, workload := range workloads {
		end := progress.Begin(options.Log, "starting "+workload.Name, 0)
		r, err := m.StartWorkload(ctx, workload)
		end(err)
		if err != nil {
			return nil, nil, fmt.Errorf("%w\n(the mesh is still running; `make mesh-down` ends it)", err)
		}
		running = append(running, r)
	}
	return m, running, nil
}

func workloadsOf(samples []string) ([]mesh.Workload, error) {
	var all []mesh.Workload
	for _, name := range samples {
		workloads, err := mesh.Samples(name)
		if err != nil {
			return nil, err
		}
		all = append(all, workloads...)
	}
	return all, nil
}

func report(m *mesh.Mesh, running []*mesh.Running, kubectl string, took time.Duration, out io.Writer) error {
	fmt.Fprintf(out, "mesh is up after %s\n\n", took.Round(time.Second/10))
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "kubeconfig\t%s\nkubectl\t%s\nregistry\t%s\nlogs\t%s\n",
		m.Kubeconfig(), kubectl, m.Registry(), filepath.Join(m.Folder(), "logs"))
	if len(running) > 0 {
		fmt.Fprintln(table, "\nNAMESPACE\tWORKLOAD\tURL\tMETRICS")
	}
	for _, r := range running {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", r.Workload.Namespace, r.Workload.Name, r.URL, r.StatsURL)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(out, `
What to try next:
   export KUBECONFIG=%s PATH=%s:$PATH
   kubectl get pods --all-namespaces
Stop everything:
   make mesh-down
`, m.Kubeconfig(), filepath.Dir(kubectl))
	return nil
}
