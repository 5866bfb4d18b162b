// Licensed under the Apache License, Version 2.0; see LICENSE.

package mesh

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/wasme-io/wasme-operator/test/mesh/binaries"
	"github.com/wasme-io/wasme-operator/test/mesh/process"
)

const (
	operatorNamespace      = "wasme-system"
	operatorServiceAccount = "wasme-operator"
	// operatorTimeout is more than the minute that a replica may take to copy modules.
	operatorTimeout = 90 * time.Second
)

// OperatorUser is the user that the operator is to the API server.
const OperatorUser = "system:serviceaccount:" + operatorNamespace + ":" + operatorServiceAccount

// Kubectl runs kubectl with every right and returns what it prints.
func (c *ControlPlane) Kubectl(ctx context.Context, args ...string) (string, error) {
	kubectl, err := binaries.Kubectl.Path(ctx, c.log)
	if err != nil {
		return "", err
	}
	out, err := exec.CommandContext(ctx, kubectl, append([]string{"--kubeconfig", c.kubeconfig}, args...)...).CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}

// InstallOperator applies what an installation of the operator consists of
// (config/default): the CRD, the roles, the service account. Nothing here runs
// the Deployment; StartOperator does.
func (c *ControlPlane) InstallOperator(ctx context.Context) error {
	root, err := binaries.RepositoryRoot()
	if err != nil {
		return err
	}
	if _, err := c.Kubectl(ctx, "apply", "-k", filepath.Join(root, "config", "default")); err != nil {
		return err
	}
	_, err = c.Kubectl(ctx, "wait", "--for=condition=Established", "--timeout=30s", "crd/filterdeployments.wasme.io")
	return err
}

// OperatorOptions say how to run one replica of the operator.
type OperatorOptions struct {
	// Name tells replicas apart; empty: operator.
	Name string
	// Store is the folder of its modules; empty: one below the mesh's folder.
	Store string
	// DiskBytes bounds the disk that the store is on; 0: no bound.
	DiskBytes int64
	// ModuleServer is the address (host:port) that it serves modules at, and that
	// goes into EnvoyFilters; empty: a free one.
	ModuleServer string
	// Args are further flags.
	Args []string
}

// FreeAddress is a loopback address (host:port) that nothing listens on.
func (c *ControlPlane) FreeAddress() (string, error) { return c.localAddress() }

// Operator is a running replica of the operator.
type Operator struct {
	// ModuleServerURL is where it serves modules.
	ModuleServerURL string
	// MetricsURL is where it serves its metrics.
	MetricsURL string

	store   string
	process *process.Process
}

// StartOperator builds the operator and runs a replica under the service
// account of its installation, with that account's rights only. It returns when
// the replica is ready.
func (c *ControlPlane) StartOperator(ctx context.Context, options OperatorOptions) (*Operator, error) {
	if options.Name == "" {
		options.Name = "operator"
	}
	binary := filepath.Join(c.folder, "bin", "manager")
	if err := binaries.Own(ctx, "./cmd/manager", binary); err != nil {
		return nil, err
	}
	kubeconfig, err := c.KubeconfigAs(ctx, operatorNamespace, operatorServiceAccount)
	if err != nil {
		return nil, err
	}
	var addresses [3]string
	for i := range addresses {
		if addresses[i], err = c.localAddress(); err != nil {
			return nil, err
		}
	}
	metrics, health, modules := addresses[0], addresses[1], cmp.Or(options.ModuleServer, addresses[2])
	if options.Store == "" {
		options.Store = filepath.Join(c.folder, "modules-"+options.Name)
	}
	command := process.Command{Name: options.Name, Path: binary, Args: append([]string{
		"--kubeconfig=" + kubeconfig,
		"--metrics-bind-address=" + metrics,
		"--health-probe-bind-address=" + health,
		"--module-server-bind-address=" + modules,
		"--module-server-url=http://" + modules,
		"--module-store=" + options.Store,
		"--leader-election-namespace=" + operatorNamespace,
		"--denied-networks=", // the registry of a mesh is on loopback
	}, options.Args...)}
	if options.DiskBytes > 0 {
		command = onSmallDisk(command, options.Store, options.DiskBytes)
	}
	running, err := c.group.Start(command)
	if err != nil {
		return nil, err
	}
	if err := running.WaitReady(ctx, operatorTimeout, answers("http://"+health+"/readyz")); err != nil {
		return nil, errors.Join(err, running.Kill())
	}
	return &Operator{ModuleServerURL: "http://" + modules, MetricsURL: "http://" + metrics + "/metrics", store: options.Store, process: running}, nil
}

// onSmallDisk runs a command with a disk of its own mounted on a folder.
func onSmallDisk(command process.Command, folder string, bytes int64) process.Command {
	script := fmt.Sprintf(`mkdir -p "$0" && mount -t tmpfs -o size=%d tmpfs "$0" && exec "$@"`, bytes)
	command.Args = append([]string{"-c", script, folder, command.Path}, command.Args...)
	command.Path, command.Isolated = "/bin/sh", true
	return command
}

// Store is the folder of its modules.
func (o *Operator) Store() string { return o.store }

// Stop ends the replica as a rolling update would: it may finish what it does.
func (o *Operator) Stop() error { return o.process.Stop() }

// Kill ends the replica as a crash would.
func (o *Operator) Kill() error { return o.process.Kill() }

// Log is the path of what the replica has printed.
func (o *Operator) Log() string { return o.process.Log() }
