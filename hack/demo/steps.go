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
	// watched is how long traffic is watched while nothing may change.
	watched = 3 * time.Second

	name = "bookinfo-custom-filter"

	// requestsToTrap are sent to a module that crashes on one in crashEvery of them.
	requestsToTrap, crashEvery = 20, 5
	// pause between them is more than Envoy takes for a new VM.
	pause = 50 * time.Millisecond
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
	// rollout is the part of bookinfo's FilterDeployment with that name.
	rollout string
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
			"Expect `hello: world` from all six Deployments, without a restart of any pod, usually within 10 s.", d.apply("world", "world")},
		{"Change its configuration",
			"Expect `hello: goodbye` from all of them, usually within 5 s.", d.apply("goodbye", "goodbye")},
		{"Give it a configuration that the filter refuses",
			"Expect that no request fails: each Envoy refuses the configuration and still answers `hello: goodbye`.", d.refuse},
		{"Apply the same filter without a configuration to httpbin",
			"Expect `hello: world`, the filter's default, usually within 5 s.", d.fixHTTPBin},
		{"Update httpbin to the filter that crashes on some requests",
			"Expect status 503 for each of those, and READY False with the reason Crashing, usually within 30 s.", d.crash},
		{"Put the filter that works back on httpbin",
			"Expect READY True again, usually within 10 s.", d.fixHTTPBin},
		{"See what is reported about the refused configuration of bookinfo",
			"Expect READY False with the reason OlderRevision: the operator waits 30 s before it says so, and most of them have passed.", d.seeRefusal},
		{"Fix the configuration of bookinfo",
			"Expect `hello: fixed` and READY True, usually within 5 s.", d.apply("fixed", "fixed")},
		{"Roll out in steps, and give bookinfo the refused configuration again",
			"Expect READY False with the reason RolledBack after about 30 s: one workload tried it, beside the one that serves, and no request fails.", d.rollBack},
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
		operator, err := d.mesh.StartOperator(ctx, mesh.OperatorOptions{})
		if err != nil {
			return err
		}
		d.printf("   modules are served at %s\n", operator.ModuleServerURL)
		return nil
	})
}

// apply applies the FilterDeployment with a configuration and waits for the
// header from all of bookinfo.
func (d *demo) apply(configuration, want string) func(context.Context) error {
	return func(ctx context.Context) error {
		if err := d.applyBookinfo(ctx, configuration); err != nil {
			return err
		}
		for _, workload := range d.bookinfo {
			if err := d.awaitHeader(ctx, workload, want); err != nil {
				return err
			}
			d.printf("   %-16s hello: %s\n", workload.Workload.Name, want)
		}
		return d.show(ctx, "bookinfo")
	}
}

func (d *demo) applyBookinfo(ctx context.Context, configuration string) error {
	return d.applyYAML(ctx, d.bookinfoYAML(configuration))
}

func (d *demo) bookinfoYAML(configuration string) string {
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
%s`, name, d.hello, configuration, d.rollout)
}

// refuse gives the module a configuration that it refuses. The proxies keep the
// one before; no request fails.
func (d *demo) refuse(ctx context.Context) error {
	if err := d.applyBookinfo(ctx, filters.RefusedConfiguration); err != nil {
		return err
	}
	for _, workload := range d.bookinfo {
		if err := d.awaitRefusal(ctx, workload); err != nil {
			return err
		}
	}
	requests := 0
	for end := time.Now().Add(watched); time.Now().Before(end); requests++ {
		workload := d.bookinfo[requests%len(d.bookinfo)]
		status, header, err := get(ctx, workload.URL, nil)
		if err != nil {
			return err
		}
		if status != http.StatusOK || header != "goodbye" {
			return fmt.Errorf("%s answered %d with hello: %q", workload.Workload.Name, status, header)
		}
	}
	d.printf("   %d Envoys refused the configuration; %d requests in %s: all 200 with hello: goodbye\n", len(d.bookinfo), requests, watched)
	return nil
}

// rollBack has a staged rollout stop at its first workload and take itself back.
func (d *demo) rollBack(ctx context.Context) error {
	d.rollout = "  rollout: {strategy: Staged, bakeTime: 3s}\n"
	if err := d.applyBookinfo(ctx, "fixed"); err != nil {
		return err
	}
	if err := d.awaitReady(ctx, "bookinfo"); err != nil {
		return err
	}
	before, err := d.refusals(ctx)
	if err != nil {
		return err
	}
	asking, stop := context.WithCancel(ctx)
	defer stop()
	var requests, failed int
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		requests, failed = d.ask(asking, "fixed")
	}()
	if err := d.applyBookinfo(ctx, filters.RefusedConfiguration); err != nil {
		return err
	}
	if err := d.showFailure(ctx, "bookinfo", name, wasmev1.ReasonRolledBack); err != nil {
		return err
	}
	stop()
	<-asked
	after, err := d.refusals(ctx)
	if err != nil {
		return err
	}
	var tried []string
	for i, workload := range d.bookinfo {
		if after[i] > before[i] {
			tried = append(tried, workload.Workload.Name)
		}
	}
	d.printf("   tried by %s only; %d requests meanwhile, %d failed\n", strings.Join(tried, ", "), requests, failed)
	if len(tried) != 1 || failed > 0 {
		return fmt.Errorf("%d workloads tried the configuration, and %d requests failed", len(tried), failed)
	}
	return nil
}

// refusals are the numbers of updates that each Envoy of bookinfo has refused.
func (d *demo) refusals(ctx context.Context) ([]int, error) {
	counts := make([]int, 0, len(d.bookinfo))
	for _, workload := range d.bookinfo {
		refused, err := workload.RefusedUpdates(ctx)
		if err != nil {
			return nil, err
		}
		counts = append(counts, refused)
	}
	return counts, nil
}

// ask sends requests to bookinfo until the context ends, and counts those that were not
// answered with the header.
func (d *demo) ask(ctx context.Context, want string) (requests, failed int) {
	for ctx.Err() == nil {
		status, header, err := get(ctx, d.bookinfo[requests%len(d.bookinfo)].URL, nil)
		if ctx.Err() != nil {
			break
		}
		requests++
		if err != nil || status != http.StatusOK || header != want {
			failed++
		}
		time.Sleep(pause / 10)
	}
	return requests, failed
}

func (d *demo) awaitRefusal(ctx context.Context, workload *mesh.Running) error {
	what := fmt.Sprintf("the Envoy of %s to refuse the configuration", workload.Workload.Name)
	return d.poll(ctx, what, 20*time.Millisecond, func(ctx context.Context) (bool, error) {
		refused, err := workload.RefusedUpdates(ctx)
		return refused > 0, err
	})
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

func (d *demo) fixHTTPBin(ctx context.Context) error {
	if err := d.applyHTTPBin(ctx, d.hello); err != nil {
		return err
	}
	return d.show(ctx, "httpbin")
}

// applyHTTPBin gives httpbin a filter and waits for its header.
func (d *demo) applyHTTPBin(ctx context.Context, image string) error {
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
`, image))
	if err != nil {
		return err
	}
	if err := d.awaitReady(ctx, "httpbin"); err != nil {
		return err
	}
	if err := d.awaitHeader(ctx, d.httpbin, "world"); err != nil {
		return err
	}
	d.printf("   %-16s hello: world\n", "httpbin")
	return nil
}

// crash has httpbin run a module that works until it gets a request that it
// crashes on.
func (d *demo) crash(ctx context.Context) error {
	if err := d.applyHTTPBin(ctx, d.trap); err != nil {
		return err
	}
	answers := map[int]int{}
	for i := range requestsToTrap {
		time.Sleep(pause)
		header := http.Header{}
		if i%crashEvery == 0 {
			header.Set("x-crash", "yes")
		}
		status, _, err := get(ctx, d.httpbin.URL, header)
		if err != nil {
			return err
		}
		answers[status]++
	}
	const crashing = requestsToTrap / crashEvery
	if answers[http.StatusServiceUnavailable] < crashing {
		return fmt.Errorf("the module does not crash: answers by status: %v", answers)
	}
	d.printf("   %d requests, %d of which crash the module: %d × 200, %d × 503\n",
		requestsToTrap, crashing, answers[http.StatusOK], answers[http.StatusServiceUnavailable])
	return d.showFailure(ctx, "httpbin", "hello", wasmev1.ReasonCrashing)
}

func (d *demo) seeRefusal(ctx context.Context) error {
	return d.showFailure(ctx, "bookinfo", name, wasmev1.ReasonOlderRevision)
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
	err := d.waitFor(fmt.Sprintf("READY False with the reason %s", reason), 30*time.Second, func() error {
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
