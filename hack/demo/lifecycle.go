package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/test/filters"
	"github.com/wasme-io/wasme-operator/test/mesh"
	"github.com/wasme-io/wasme-operator/test/mesh/binaries"
	"github.com/wasme-io/wasme-operator/test/mesh/process"
)

// prepare provides the programs of the mesh, and leaves what later steps build
// in Go's build cache.
func (d *demo) prepare(ctx context.Context) error {
	return d.programs.Prepare(ctx,
		binaries.Compile("compiling the operator", time.Minute, "./cmd/manager", "./test/mesh/cmd/meshpart"),
		binaries.Build{Title: "compiling the filters", Takes: 30 * time.Second, Run: func(ctx context.Context) error {
			for _, filter := range []string{filters.Hello, filters.Trap} {
				if _, err := filters.Build(ctx, filter); err != nil {
					return err
				}
			}
			return nil
		}},
	)
}

// chooseFolder decides where the mesh keeps its data.
func (d *demo) chooseFolder() (err error) {
	if !d.keep {
		d.folder, err = os.MkdirTemp("", "wasme-demo-")
		return err
	}
	d.folder = mesh.DefaultFolder() // where mesh-down looks
	running, err := process.Group{Folder: d.folder}.Running()
	if err == nil && len(running) > 0 {
		d.folder = ""
		return errors.New("a mesh is still running on this machine: end it with `make mesh-down` first")
	}
	return err
}

// cleanUp stops everything and removes the mesh's folder.
func (d *demo) cleanUp() error {
	if err := d.stop(); err != nil || d.folder == "" {
		return err
	}
	return os.RemoveAll(d.folder)
}

// abandon stops everything. The mesh's folder stays: its logs may show what went wrong.
func (d *demo) abandon() error {
	if d.folder != "" {
		d.printf("\n   The logs are in %s\n", filepath.Join(d.folder, "logs"))
	}
	return d.stop()
}

func (d *demo) stop() error {
	if d.mesh == nil {
		return nil
	}
	end := d.out.Begin("stopping the mesh", 0)
	err := d.mesh.Stop()
	end(err)
	return err
}

const whatNext = `
That was all; everything that the demo started is stopped. What to try next:
   KEEP=1 make demo           # the same, but the mesh stays for you to work with
   make mesh-up               # a mesh without the operator; make mesh-down ends it
On a cluster of your own, with your own filter: docs/getting-started.md
What the conditions say and what to do about them: docs/conditions.md, docs/troubleshooting.md
`

// explainRunning says what to do with the mesh that was left running.
func (d *demo) explainRunning(ctx context.Context) error {
	kubectl, err := d.programs.Path(ctx, binaries.Kubectl)
	if err != nil {
		return err
	}
	sample := filepath.Join(d.folder, "filterdeployment.yaml")
	if err := os.WriteFile(sample, []byte(bookinfoYAML(d.hello, "world", wasmev1.PreflightEnforce)), 0o600); err != nil {
		return fmt.Errorf("writing a sample: %w", err)
	}
	d.printf(stillRunning, d.mesh.Kubeconfig(), filepath.Dir(kubectl), sample, d.bookinfo[0].URL, name, filters.RefusedConfiguration,
		filepath.Join(d.folder, "logs"))
	return nil
}

const stillRunning = `
Everything is still running. What to try next:
   export KUBECONFIG=%[1]s PATH=%[2]s:$PATH
   kubectl apply --filename %[3]s
   kubectl get filterdeployments --all-namespaces --output=wide
   curl --include %[4]s
Give the filter a configuration that it refuses, and see what is reported after half a minute:
   kubectl patch filterdeployment %[5]s --namespace=bookinfo --type=merge --patch='{"spec":{"filter":{"config":{"value":"%[6]s"}}}}'
   kubectl describe filterdeployment %[5]s --namespace=bookinfo
The logs of the operator, istiod and the sidecars are in %[7]s
What the conditions say and what to do about them: docs/conditions.md, docs/troubleshooting.md
Stop everything:
   make mesh-down
`
