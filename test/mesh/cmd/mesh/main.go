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
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/wasme-io/wasme-operator/test/mesh"
	"github.com/wasme-io/wasme-operator/test/mesh/binaries"
)

func main() {
	log.SetLogger(logr.Discard()) // errors are returned; there is nothing else to say
	if err := run(); err != nil {
		os.Exit(1) // cobra has said why
	}
}

func run() error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
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
			return start(cmd.Context(), folder, samples, cmd.OutOrStdout())
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

func start(ctx context.Context, folder string, samples []string, out io.Writer) error {
	workloads, err := workloadsOf(samples)
	if err != nil {
		return err
	}
	begin := time.Now()
	m, err := mesh.Start(ctx, mesh.Options{Folder: folder, Log: out, Detached: true})
	if err != nil {
		return err
	}
	var running []*mesh.Running
	for _, workload := range workloads {
		r, err := m.StartWorkload(ctx, workload)
		if err != nil {
			return fmt.Errorf("%w\n(the mesh still runs; mesh down ends it)", err)
		}
		running = append(running, r)
	}
	return report(ctx, m, running, time.Since(begin), out)
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

func report(ctx context.Context, m *mesh.Mesh, running []*mesh.Running, took time.Duration, out io.Writer) error {
	kubectl, err := binaries.Kubectl.Path(ctx, out)
	if err != nil {
		return err
	}
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
	return table.Flush()
}
