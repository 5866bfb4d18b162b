package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/test/filters"
	"github.com/wasme-io/wasme-operator/test/mesh"
	"github.com/wasme-io/wasme-operator/test/mesh/binaries"
	"github.com/wasme-io/wasme-operator/test/mesh/progress"
	"github.com/wasme-io/wasme-operator/test/registry"
)

const (
	// patience bounds the wait for a change to reach all proxies, and for the
	// operator to report it.
	patience = 30 * time.Second
	// notice bounds the wait for the operator to report that pods do not run what
	// they should: it gives them 30 seconds, and asks them once in a while.
	notice = time.Minute
	name   = "bookinfo-custom-filter"

	// pause is the time between two requests. One in crashEvery to each workload has the
	// header x-crash.
	pause, crashEvery = 5 * time.Millisecond, 20
)

// demo is the state that the steps share.
type demo struct {
	keep     bool
	out      *progress.Printer
	programs *binaries.Source
	folder   string // of the mesh; empty: none yet
	mesh     *mesh.Mesh
	bookinfo []*mesh.Running
	httpbin  *mesh.Running
	// hello and trap are images: of a filter that works, and of one that crashes
	// on requests with the header x-crash.
	hello, trap string
}

type step struct {
	title string
	// expect says what the step does, what will be seen, and how long that may take.
	expect string
	run    func(context.Context) error
}

func (d *demo) steps() []step {
	return []step{
		{"Prepare the programs",
			"What this machine does not have yet is built from pinned sources: about a quarter of an hour on two cores, once.", d.prepare},
		{"Start a mesh",
			"An API server, istiod, a registry, and the workloads of bookinfo and httpbin behind Envoy sidecars: about 30 s.", d.startMesh},
		{"Push two filters to the registry",
			"hello adds the response header `hello`. trap does so too, but crashes on some requests.", d.pushFilters},
		{"Install and run the operator",
			"kubectl applies config/default, and the operator runs with the rights of its service account only: about 10 s.", d.startOperator},
		{"Apply a FilterDeployment to bookinfo",
			"Expect `hello: world` from all six Deployments, from one of them first, without a restart of any pod, usually within 15 s.", d.apply("world")},
		{"Change its configuration",
			"Expect `hello: goodbye` from all of them, usually within 15 s.", d.apply("goodbye")},
		{"Give it a configuration that the filter refuses",
			"Expect READY False with the reason ConfigurationRefused after some seconds, and the filter's own words: the operator has tried it, no proxy has, and no request fails.", d.preflight},
		{"Give it the same configuration without a preflight",
			"Expect READY False with the reason RolledBack after about 40 s: one workload tried it, beside the filter that serves, and no request fails. A pod that starts then answers `hello: goodbye`.", d.rollOutRefused},
		{"Fix the configuration",
			"Expect `hello: fixed` and READY True, usually within 15 s.", d.apply("fixed")},
		{"Update it to the filter that crashes on some requests",
			"Expect READY False with the reason RolledBack when it crashes on the first workload: only that one has answered some requests with 503.", d.crash},
		{"Apply the filter without a configuration to httpbin",
			"Expect `hello: world`, the filter's default, usually within 5 s.", d.applyHTTPBin},
		{"Delete both FilterDeployments",
			"Expect that no response has the header, and that nothing the operator made is left, usually within 5 s.", d.delete},
	}
}

func (d *demo) printf(format string, arguments ...any) { fmt.Fprintf(d.out, format, arguments...) }

// waitFor shows what is being waited for while it takes more than a moment.
func (d *demo) waitFor(what string, usual time.Duration, wait func() error) error {
	end := d.out.Begin("waiting for "+what, usual)
	err := wait()
	end(err)
	return err
}

func (d *demo) startMesh(ctx context.Context) (err error) {
	if err := d.chooseFolder(); err != nil {
		return err
	}
	err = d.waitFor("the control plane and istiod", 20*time.Second, func() (err error) {
		d.mesh, err = mesh.Start(ctx, mesh.Options{Folder: d.folder, Log: d.out, Programs: d.programs, Detached: d.keep})
		return err
	})
	if err != nil {
		return err
	}
	for _, workload := range mesh.Bookinfo() {
		running, err := d.startWorkload(ctx, workload)
		if err != nil {
			return err
		}
		d.bookinfo = append(d.bookinfo, running)
	}
	d.httpbin, err = d.startWorkload(ctx, mesh.HTTPBin())
	return err
}

func (d *demo) startWorkload(ctx context.Context, workload mesh.Workload) (running *mesh.Running, err error) {
	workload.AgentMetrics = true // pilot-agent tells what became of a module
	err = d.waitFor("the sidecar of "+workload.Name, 0, func() (err error) {
		running, err = d.mesh.StartWorkload(ctx, workload)
		return err
	})
	if err != nil {
		return nil, err
	}
	d.printf("   %-16s %s\n", workload.Name, running.URL)
	return running, nil
}

func (d *demo) pushFilters(ctx context.Context) (err error) {
	if d.hello, err = d.push(ctx, filters.Hello); err != nil {
		return err
	}
	d.trap, err = d.push(ctx, filters.Trap)
	return err
}

func (d *demo) push(ctx context.Context, filter string) (string, error) {
	module, err := filters.Build(ctx, filter)
	if err != nil {
		return "", err
	}
	image, err := registry.Image(registry.WasmeArtifact, registry.Module{Bytes: module, RootIDs: []string{filters.RootID}})
	if err != nil {
		return "", err
	}
	reference := fmt.Sprintf("%s/demo/%s:v1", d.mesh.Registry(), filter)
	d.printf("   %s, %d bytes\n", reference, len(module))
	return reference, registry.Push(ctx, reference, image)
}

func (d *demo) startOperator(ctx context.Context) error {
	if err := d.mesh.InstallOperator(ctx); err != nil {
		return err
	}
	return d.waitFor("the operator", 10*time.Second, func() error {
		operator, err := d.mesh.StartOperator(ctx, mesh.OperatorOptions{Preflight: wasmev1.PreflightEnforce})
		if err != nil {
			return err
		}
		d.printf("   modules are served at %s\n", operator.ModuleServerURL)
		return nil
	})
}

// apply applies the FilterDeployment with a configuration, and waits for the header from
// all of bookinfo.
func (d *demo) apply(configuration string) func(context.Context) error {
	return func(ctx context.Context) error {
		if err := d.applyBookinfo(ctx, d.hello, configuration); err != nil {
			return err
		}
		for _, workload := range d.bookinfo {
			if err := d.awaitHeader(ctx, workload, configuration); err != nil {
				return err
			}
			d.printf("   %-16s hello: %s\n", workload.Workload.Name, configuration)
		}
		return d.show(ctx, "bookinfo")
	}
}

func (d *demo) applyBookinfo(ctx context.Context, image, configuration string) error {
	return d.applyYAML(ctx, bookinfoYAML(image, configuration, wasmev1.PreflightEnforce))
}

func bookinfoYAML(image, configuration string, preflight wasmev1.Preflight) string {
	return fmt.Sprintf(`
apiVersion: wasme.io/v1
kind: FilterDeployment
metadata: {name: %s, namespace: bookinfo}
spec:
  deployment:
    istio: {kind: Deployment}
  filter:
    image: %s
    imagePullOptions: {plainHttp: true}
    rootID: add_header_root_id
    config:
      '@type': type.googleapis.com/google.protobuf.StringValue
      value: %s
    preflight: "%s"
  rollout: {bakeTime: 3s}
`, name, image, configuration, preflight)
}

// poll waits until done returns true.
func (d *demo) poll(ctx context.Context, what string, interval time.Duration, done wait.ConditionWithContextFunc) error {
	err := d.waitFor(what, 0, func() error {
		return wait.PollUntilContextTimeout(ctx, interval, patience, true, done)
	})
	if err != nil {
		return fmt.Errorf("waiting for %s: %w", what, err)
	}
	return nil
}

// applyHTTPBin gives httpbin the filter and waits for its header.
func (d *demo) applyHTTPBin(ctx context.Context) error {
	err := d.applyYAML(ctx, fmt.Sprintf(`
apiVersion: wasme.io/v1
kind: FilterDeployment
metadata: {name: hello, namespace: httpbin}
spec:
  deployment:
    istio: {labels: {app: httpbin}}
  filter:
    image: %s
    imagePullOptions: {plainHttp: true}
`, d.hello))
	if err != nil {
		return err
	}
	if err := d.awaitHeader(ctx, d.httpbin, "world"); err != nil {
		return err
	}
	d.printf("   %-16s hello: world\n", "httpbin")
	return d.show(ctx, "httpbin")
}

func (d *demo) delete(ctx context.Context) error {
	if _, err := d.mesh.Kubectl(ctx, "delete", "filterdeployment", "--namespace=bookinfo", name); err != nil {
		return err
	}
	if _, err := d.mesh.Kubectl(ctx, "delete", "filterdeployment", "--namespace=httpbin", "hello"); err != nil {
		return err
	}
	for _, workload := range append(d.bookinfo, d.httpbin) {
		if err := d.awaitHeader(ctx, workload, ""); err != nil {
			return err
		}
	}
	d.printf("   no response has the header\n")
	return d.awaitNothingLeft(ctx)
}

func (d *demo) awaitNothingLeft(ctx context.Context) error {
	var left string
	err := d.poll(ctx, "the garbage collector", 200*time.Millisecond, func(ctx context.Context) (bool, error) {
		out, err := d.mesh.Kubectl(ctx, "get", "envoyfilters,controllerrevisions,filterdeployments", "--all-namespaces", "--output=name")
		left = strings.TrimSpace(out)
		return left == "", err
	})
	if err != nil {
		return fmt.Errorf("left behind: %s: %w", left, err)
	}
	d.printf("   no EnvoyFilter, ControllerRevision or FilterDeployment is left\n")
	return nil
}

func (d *demo) applyYAML(ctx context.Context, yaml string) error {
	file, err := os.CreateTemp("", "filterdeployment-*.yaml")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	if _, err := file.WriteString(yaml); err != nil {
		return err
	}
	if err := file.Close(); err != nil {
		return err
	}
	_, err = d.mesh.Kubectl(ctx, "apply", "--filename", file.Name())
	return err
}

// show prints what a user sees once READY is True.
func (d *demo) show(ctx context.Context, namespace string) error {
	if err := d.awaitReady(ctx, namespace); err != nil {
		return err
	}
	return d.print(ctx, namespace)
}

func (d *demo) awaitReady(ctx context.Context, namespace string) error {
	return d.waitFor("READY True in "+namespace, 0, func() error {
		_, err := d.mesh.Kubectl(ctx, "wait", "--namespace="+namespace, "--for=condition=Ready",
			fmt.Sprintf("--timeout=%s", patience), "filterdeployments", "--all")
		return err
	})
}

// showFailure prints what a user sees once READY is False for a reason, and the
// operator's message.
func (d *demo) showFailure(ctx context.Context, namespace, filterDeployment, reason string) error {
	const ready = `.status.conditions[?(@.type=="Ready")]`
	err := d.waitFor(fmt.Sprintf("READY False with the reason %s", reason), 40*time.Second, func() error {
		_, err := d.mesh.Kubectl(ctx, "wait", "--namespace="+namespace, fmt.Sprintf("--timeout=%s", notice),
			fmt.Sprintf("--for=jsonpath={%s.reason}=%s", ready, reason), "filterdeployment/"+filterDeployment)
		return err
	})
	if err != nil {
		return err
	}
	if err := d.print(ctx, namespace); err != nil {
		return err
	}
	message, err := d.mesh.Kubectl(ctx, "get", "--namespace="+namespace, "filterdeployment/"+filterDeployment,
		fmt.Sprintf("--output=jsonpath={%[1]s.reason}: {%[1]s.message}", ready))
	if err != nil {
		return err
	}
	d.printf("   %s\n", message)
	return nil
}

func (d *demo) print(ctx context.Context, namespace string) error {
	out, err := d.mesh.Kubectl(ctx, "get", "filterdeployments", "--namespace="+namespace)
	if err != nil {
		return err
	}
	d.printf("\n   $ kubectl get filterdeployments --namespace=%s\n", namespace)
	for line := range strings.Lines(out) {
		d.printf("   %s", line)
	}
	return nil
}

// awaitHeader waits until a workload answers 200 with this value of the header.
func (d *demo) awaitHeader(ctx context.Context, workload *mesh.Running, want string) error {
	what := fmt.Sprintf("hello: %q from %s", want, workload.Workload.Name)
	if want == "" {
		what = "responses without the header from " + workload.Workload.Name
	}
	var last string
	err := d.poll(ctx, what, 20*time.Millisecond, func(ctx context.Context) (bool, error) {
		status, header, err := get(ctx, workload.URL, nil)
		last = fmt.Sprintf("%d with hello: %q, %v", status, header, err)
		return err == nil && status == http.StatusOK && header == want, nil
	})
	if err != nil {
		return fmt.Errorf("%w; it answered %s", err, last)
	}
	return nil
}

func get(ctx context.Context, url string, headers http.Header) (status int, header string, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return 0, "", err
	}
	request.Header = headers
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	return response.StatusCode, response.Header.Get("hello"), err
}
