package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/test/filters"
	"github.com/wasme-io/wasme-operator/test/mesh"
	"github.com/wasme-io/wasme-operator/test/mesh/binaries"
	"github.com/wasme-io/wasme-operator/test/registry"
)

const (
	// patience bounds the wait for anything that takes no longer by design.
	patience = 2 * time.Minute
	// The machine counts as settled when its processors were idle for idleShare
	// of quiet.
	quiet         = 500 * time.Millisecond
	idleShare     = 0.8
	settleTimeout = 30 * time.Second
	// creators is the number of objects of a scenario's setting created at once.
	creators = 32
)

// cluster is a control plane on which the operator is installed, with Istio's
// CRDs and a registry.
type cluster struct {
	*mesh.ControlPlane

	// admin is a client with every right and no limit of its own.
	admin    client.WithWatch
	registry *registry.Registry
}

// startCluster starts a control plane. The caller calls stop.
func startCluster(ctx context.Context, options ...registry.Option) (*cluster, error) {
	controlPlane, err := mesh.StartControlPlane(ctx, mesh.Options{Log: os.Stderr})
	if err != nil {
		return nil, err
	}
	c := &cluster{ControlPlane: controlPlane}
	crds, err := binaries.IstioFile(ctx, "manifests/charts/base/files/crd-all.gen.yaml")
	if err == nil {
		err = c.InstallCRDs(crds)
	}
	if err == nil {
		err = c.install(ctx, options...)
	}
	if err != nil {
		c.stop()
		return nil, err
	}
	return c, nil
}

// startMesh starts a mesh with the operator's objects and a registry. The caller calls stop.
func startMesh(ctx context.Context) (*cluster, *mesh.Mesh, error) {
	started, err := mesh.Start(ctx, mesh.Options{Log: os.Stderr})
	if err != nil {
		return nil, nil, err
	}
	c := &cluster{ControlPlane: started.ControlPlane}
	if err := c.install(ctx); err != nil {
		c.stop()
		return nil, nil, err
	}
	return c, started, nil
}

// install installs the operator and starts a registry.
func (c *cluster) install(ctx context.Context, options ...registry.Option) error {
	if err := c.InstallOperator(ctx); err != nil {
		return err
	}
	var err error
	if c.admin, err = newClient(c.Admin()); err != nil {
		return err
	}
	c.registry, err = registry.Start(options...)
	return err
}

func (c *cluster) stop() {
	if c.registry != nil {
		c.registry.Close()
	}
	if err := c.Stop(); err != nil {
		progress("stopping the control plane: %v", err)
	}
}

// newClient returns a client without limits of its own.
func newClient(config *rest.Config) (client.WithWatch, error) {
	config.QPS = -1
	return mesh.NewClient(config)
}

// push stores the hello filter in the registry. Those with another salt have
// other bytes and so another digest.
func (c *cluster) push(ctx context.Context, salt string) (string, error) {
	var sections []byte
	if salt != "" {
		section := append([]byte{byte(len("salt"))}, "salt"+salt...)
		sections = append([]byte{0, byte(len(section))}, section...) // a custom section
	}
	return c.pushWith(ctx, "perf/hello"+salt+":v1", sections)
}

// pushWith stores the hello filter with these sections added.
func (c *cluster) pushWith(ctx context.Context, path string, sections []byte) (string, error) {
	module, err := filters.Build(ctx, filters.Hello)
	if err != nil {
		return "", err
	}
	return c.pushModule(ctx, path, append(module, sections...))
}

// pushModule stores a module of package filters.
func (c *cluster) pushModule(ctx context.Context, path string, module []byte) (string, error) {
	image, err := registry.Image(registry.WasmeArtifact, registry.Module{Bytes: module, RootIDs: []string{filters.RootID}})
	if err != nil {
		return "", err
	}
	return c.registry.Push(ctx, path, image)
}

// createNamespace creates a namespace.
func (c *cluster) createNamespace(ctx context.Context, name string) error {
	return c.admin.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
}

// deployment is a workload object, without pods.
func deployment(namespace, name string, labels map[string]string) *appsv1.Deployment {
	pod := map[string]string{"app": name}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels},
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: pod},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: pod},
				Spec: corev1.PodSpec{Containers: []corev1.Container{{
					Name: "app", Image: "example.com/shop/app:v1",
					Env:   []corev1.EnvVar{{Name: "LOG_LEVEL", Value: "info"}, {Name: "LISTEN", Value: ":8080"}},
					Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}},
				}}},
			},
		},
	}
}

// filterDeployment puts an image on the Deployments with these labels.
func filterDeployment(namespace, name, image, configuration string, labels map[string]wasmev1.LabelValue) *wasmev1.FilterDeployment {
	return &wasmev1.FilterDeployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: wasmev1.FilterDeploymentSpec{
			Deployment: wasmev1.DeploymentSpec{Istio: &wasmev1.IstioDeploymentSpec{Labels: labels}},
			Filter: wasmev1.FilterSpec{
				Image:            image,
				ImagePullOptions: &wasmev1.ImagePullOptions{PlainHTTP: true},
				Config:           &wasmev1.Configuration{Raw: fmt.Appendf(nil, "%q", configuration)},
			},
			Rollout: &wasmev1.RolloutSpec{Strategy: wasmev1.RolloutImmediate},
		},
	}
}

// configure changes the configuration of a FilterDeployment, with one request.
func (c *cluster) configure(ctx context.Context, fd *wasmev1.FilterDeployment, configuration string) error {
	patch := fmt.Appendf(nil, `{"spec":{"filter":{"config":%q}}}`, configuration)
	return c.admin.Patch(ctx, fd, client.RawPatch("application/merge-patch+json", patch))
}

// awaitReady waits until a FilterDeployment is Ready with its newest spec.
func (c *cluster) awaitReady(ctx context.Context, fd *wasmev1.FilterDeployment) error {
	return poll(ctx, "FilterDeployment "+fd.Name, patience, func(ctx context.Context) (bool, error) {
		err := c.admin.Get(ctx, client.ObjectKeyFromObject(fd), fd)
		return err == nil && isReady(fd), err
	})
}

func isReady(fd *wasmev1.FilterDeployment) bool {
	ready := apimeta.FindStatusCondition(fd.Status.Conditions, wasmev1.ConditionReady)
	return ready != nil && ready.Status == metav1.ConditionTrue && ready.ObservedGeneration == fd.Generation
}

// poll asks until done says yes. It is for what is not measured.
func poll(ctx context.Context, what string, timeout time.Duration, done wait.ConditionWithContextFunc) error {
	if err := wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, timeout, true, done); err != nil {
		return fmt.Errorf("waiting for %s: %w", what, err)
	}
	return nil
}

// pause waits, for less when the context ends.
func pause(ctx context.Context, length time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(length):
		return nil
	}
}

// settle waits until the machine has little to do, so that nothing of an
// earlier step is measured: second passes, statuses, the garbage collector. It
// continues after a while all the same, on a machine that is never idle.
func settle(ctx context.Context) error {
	for begin := time.Now(); time.Since(begin) < settleTimeout; {
		idle, all, err := processorTime()
		if err != nil {
			return err
		}
		if err := pause(ctx, quiet); err != nil {
			return err
		}
		idleNow, allNow, err := processorTime()
		if err != nil {
			return err
		}
		if (idleNow - idle) >= idleShare*(allNow-all) {
			return nil
		}
	}
	return nil
}

// processorTime is the time since the start that all processors were idle, and
// all of it, in the system's own unit.
func processorTime() (idle, all float64, err error) {
	content, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0, fmt.Errorf("reading the time of the processors: %w", err)
	}
	line, _, _ := strings.Cut(string(content), "\n")
	for i, field := range strings.Fields(line)[1:] {
		ticks, err := strconv.ParseFloat(field, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("reading the time of the processors: %w", err)
		}
		if all += ticks; i == 3 {
			idle = ticks
		}
	}
	return idle, all, nil
}

// parallel does something n times, by so many workers.
func parallel(ctx context.Context, workers, n int, do func(ctx context.Context, i int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(workers)
	for i := range n {
		group.Go(func() error { return do(ctx, i) })
	}
	return group.Wait()
}
