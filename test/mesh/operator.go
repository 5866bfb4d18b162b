// Licensed under the Apache License, Version 2.0; see LICENSE.

package mesh

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
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
	kubectl, err := c.programs.Path(ctx, binaries.Kubectl)
	if err != nil {
		return "", err
	}
	out, err := exec.CommandContext(ctx, kubectl, append([]string{"--kubeconfig", c.kubeconfig}, args...)...).CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}

// Helm runs helm with every right and returns what it prints.
func (c *ControlPlane) Helm(ctx context.Context, args ...string) (string, error) {
	helm, err := binaries.Helm.Path(ctx, c.log)
	if err != nil {
		return "", err
	}
	command := exec.CommandContext(ctx, helm, append([]string{"--kubeconfig", c.kubeconfig}, args...)...)
	// Its settings and its cache are not the user's.
	command.Env = append(os.Environ(), "HELM_CONFIG_HOME="+c.folder, "HELM_CACHE_HOME="+c.folder, "HELM_DATA_HOME="+c.folder)
	out, err := command.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("helm %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
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
	return c.InstallOperatorOf(ctx, root)
}

// InstallOperatorOf does the same with what the source in another folder has, such as that of
// a former version.
func (c *ControlPlane) InstallOperatorOf(ctx context.Context, source string) error {
	if _, err := c.Kubectl(ctx, "apply", "-k", filepath.Join(source, "config", "default")); err != nil {
		return err
	}
	_, err := c.Kubectl(ctx, "wait", "--for=condition=Established", "--timeout=30s", "crd/filterdeployments.wasme.io")
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
	// ClockOffset is how wrong its wall clock is; negative: behind.
	ClockOffset time.Duration
	// Preflight says what follows from its run of a module; empty: Off, because most tests are
	// about what proxies do with a module, broken ones included.
	Preflight wasmev1.Preflight
	// Binary is a former version of the operator, which does not know Preflight; empty: it is
	// built from this source.
	Binary string
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
	// ReadyURL is where it says whether it is ready.
	ReadyURL string

	group   process.Group
	command process.Command
	store   string
	small   bool // the store is on a disk of its own
	process *process.Process
}

// StartOperator builds the operator and runs a replica under the service
// account of its installation, with that account's rights only. It returns when
// the replica is ready.
func (c *ControlPlane) StartOperator(ctx context.Context, options OperatorOptions) (*Operator, error) {
	o, err := c.prepareOperator(ctx, options)
	if err != nil {
		return nil, err
	}
	if err := o.Start(); err != nil {
		return nil, err
	}
	if err := o.WaitReady(ctx); err != nil {
		return nil, errors.Join(err, o.Kill())
	}
	return o, nil
}

// prepareOperator decides everything that stays the same over a replica's restarts.
func (c *ControlPlane) prepareOperator(ctx context.Context, options OperatorOptions) (*Operator, error) {
	options.Name = cmp.Or(options.Name, "operator")
	options.Store = cmp.Or(options.Store, filepath.Join(c.folder, "modules-"+options.Name))
	binary, err := c.operatorBinary(ctx, options)
	if err != nil {
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
	if options.Binary == "" {
		command.Args = append(command.Args, "--preflight="+string(cmp.Or(options.Preflight, wasmev1.PreflightOff)))
	}
	if options.ClockOffset != 0 {
		command.Env = clock(options.ClockOffset)
	}
	if options.DiskBytes > 0 {
		command = onSmallDisk(command, options.Store, options.DiskBytes)
	}
	return &Operator{
		ModuleServerURL: "http://" + modules, MetricsURL: "http://" + metrics + "/metrics",
		ReadyURL: "http://" + health + "/readyz", group: c.group, command: command, store: options.Store, small: options.DiskBytes > 0,
	}, nil
}

func clock(offset time.Duration) []string {
	return []string{fmt.Sprintf("%s=%d", binaries.ClockOffset, int64(offset.Seconds()))}
}

// operatorBinary builds the operator once for all replicas of a control plane.
func (c *ControlPlane) operatorBinary(ctx context.Context, options OperatorOptions) (string, error) {
	if options.Binary != "" {
		return options.Binary, nil
	}
	path, build := filepath.Join(c.folder, "bin", "manager"), binaries.Own
	if options.ClockOffset != 0 {
		path, build = path+"-with-clock", binaries.OwnWithClock
	}
	c.building.Lock()
	defer c.building.Unlock()
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	return path, build(ctx, "./cmd/manager", path)
}

// onSmallDisk runs a command with a disk of its own mounted on a folder.
func onSmallDisk(command process.Command, folder string, bytes int64) process.Command {
	script := fmt.Sprintf(`mkdir -p "$0" && mount -t tmpfs -o size=%d tmpfs "$0" && exec "$@"`, bytes)
	command.Args = append([]string{"-c", script, folder, command.Path}, command.Args...)
	command.Path, command.Isolated = "/bin/sh", true
	return command
}

// Start starts the replica again when it has ended, as a kubelet would: in its
// place, with its addresses and its store. WaitReady waits until it is ready.
func (o *Operator) Start() (err error) {
	o.process, err = o.group.Start(o.command)
	return err
}

// WaitReady returns when the replica is ready.
func (o *Operator) WaitReady(ctx context.Context) error {
	return o.process.WaitReady(ctx, operatorTimeout, answers(o.ReadyURL))
}

// SetClock says how wrong the wall clock is from the next Start on, of a replica that was
// started with a ClockOffset.
func (o *Operator) SetClock(offset time.Duration) { o.command.Env = clock(offset) }

// Pause has the replica do nothing until Resume.
func (o *Operator) Pause() error { return o.process.Pause() }

// Resume has it continue.
func (o *Operator) Resume() error { return o.process.Resume() }

// Store is the folder of its modules, as this process sees it: a disk of the
// replica's own is there for as long as the replica runs.
func (o *Operator) Store() string {
	if o.small {
		return filepath.Join("/proc", strconv.Itoa(o.process.PID()), "root", o.store)
	}
	return o.store
}

// Stop ends the replica as a rolling update would: it may finish what it does.
func (o *Operator) Stop() error { return o.process.Stop() }

// Kill ends the replica as a crash would.
func (o *Operator) Kill() error { return o.process.Kill() }

// Ended reports whether the replica has ended, also when it ended by itself.
func (o *Operator) Ended() bool { return o.process.Ended() }

// Log is the path of what the replica has printed.
func (o *Operator) Log() string { return o.process.Log() }
