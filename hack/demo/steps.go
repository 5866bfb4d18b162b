package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/test/filters"
	"github.com/wasme-io/wasme-operator/test/mesh"
	"github.com/wasme-io/wasme-operator/test/mesh/binaries"
	"github.com/wasme-io/wasme-operator/test/registry"
)

const (
	// patience bounds the wait for a change to reach all proxies.
	patience = 30 * time.Second
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
	mesh     *mesh.Mesh
	bookinfo []*mesh.Running
	httpbin  *mesh.Running
	// hello and trap are images: of a filter that works, and of one that crashes
	// on requests with the header x-crash.
	hello, trap string
}

type step struct {
	title string
	run   func(context.Context) error
}

func (d *demo) steps() []step {
	return []step{
		{"Start a mesh: API server, istiod, a registry, bookinfo and httpbin behind real sidecars", d.startMesh},
		{"Push two filters to the registry: hello, and one that crashes", d.pushFilters},
		{"Install and run the operator", d.startOperator},
		{"Apply a FilterDeployment: every Deployment of bookinfo answers `hello: world`", d.apply("world", "world")},
		{"Change its configuration to goodbye", d.apply("goodbye", "goodbye")},
		{"Break it: a configuration that the module refuses; traffic still gets goodbye", d.breakIt},
		{"Meanwhile, the same filter without configuration on httpbin", d.mendHTTPBin},
		{"Update httpbin to the filter that crashes on some requests: READY is False", d.crash},
		{"Mend httpbin: READY is True again", d.mendHTTPBin},
		{"By now bookinfo says, too, what became of its configuration", d.tellRefusal},
		{"Mend bookinfo", d.apply("mended", "mended")},
		{"Delete both: the header is gone, and so is all that was made", d.delete},
	}
}

func (d *demo) startMesh(ctx context.Context) (err error) {
	options := mesh.Options{Log: os.Stdout}
	if d.keep {
		options.Folder, options.Detached = mesh.DefaultFolder(), true // where mesh-down looks
	}
	if d.mesh, err = mesh.Start(ctx, options); err != nil {
		return err
	}
	for _, workload := range mesh.Bookinfo() {
		running, err := d.mesh.StartWorkload(ctx, workload)
		if err != nil {
			return err
		}
		d.bookinfo = append(d.bookinfo, running)
		fmt.Printf("   %-16s %s\n", workload.Name, running.URL)
	}
	if d.httpbin, err = d.mesh.StartWorkload(ctx, mesh.HTTPBin()); err != nil {
		return err
	}
	fmt.Printf("   %-16s %s\n", "httpbin", d.httpbin.URL)
	return nil
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
	fmt.Printf("   %s, %d bytes\n", reference, len(module))
	return reference, registry.Push(ctx, reference, image)
}

func (d *demo) startOperator(ctx context.Context) error {
	if err := d.mesh.InstallOperator(ctx); err != nil {
		return err
	}
	operator, err := d.mesh.StartOperator(ctx, mesh.OperatorOptions{})
	if err != nil {
		return err
	}
	fmt.Println("   modules are served at", operator.ModuleServerURL)
	return nil
}

// apply applies the FilterDeployment with a configuration and waits for the
// header from all of bookinfo.
func (d *demo) apply(configuration, want string) func(context.Context) error {
	return func(ctx context.Context) error {
		if err := d.applyBookinfo(ctx, configuration); err != nil {
			return err
		}
		for _, workload := range d.bookinfo {
			if err := awaitHeader(ctx, workload, want); err != nil {
				return err
			}
			fmt.Printf("   %-16s hello: %s\n", workload.Workload.Name, want)
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
`, name, d.hello, configuration)
}

// breakIt gives the module a configuration that it refuses. The proxies go on
// with the one before; no request fails.
func (d *demo) breakIt(ctx context.Context) error {
	if err := d.applyBookinfo(ctx, filters.RefusedConfiguration); err != nil {
		return err
	}
	for _, workload := range d.bookinfo {
		if err := awaitRefusal(ctx, workload); err != nil {
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
	fmt.Printf("   %d Envoys refused the configuration; %d requests in %s: all 200 with hello: goodbye\n", len(d.bookinfo), requests, watched)
	return nil
}

func awaitRefusal(ctx context.Context, workload *mesh.Running) error {
	err := wait.PollUntilContextTimeout(ctx, 20*time.Millisecond, patience, true, func(ctx context.Context) (bool, error) {
		refused, err := workload.RefusedUpdates(ctx)
		return refused > 0, err
	})
	if err != nil {
		return fmt.Errorf("waiting for the Envoy of %s to refuse the configuration: %w", workload.Workload.Name, err)
	}
	return nil
}

func (d *demo) mendHTTPBin(ctx context.Context) error {
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
	if err := awaitHeader(ctx, d.httpbin, "world"); err != nil {
		return err
	}
	fmt.Printf("   %-16s hello: world\n", "httpbin")
	return nil
}

// crash has httpbin run a module that works until a request comes that it
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
	fmt.Printf("   %d requests, %d of which crash the module: %d × 200, %d × 503\n",
		requestsToTrap, crashing, answers[http.StatusOK], answers[http.StatusServiceUnavailable])
	return d.tell(ctx, "httpbin", "hello", wasmev1.ReasonCrashing)
}

func (d *demo) tellRefusal(ctx context.Context) error {
	return d.tell(ctx, "bookinfo", name, wasmev1.ReasonOlderRevision)
}

func (d *demo) delete(ctx context.Context) error {
	if _, err := d.mesh.Kubectl(ctx, "delete", "filterdeployment", "--namespace=bookinfo", name); err != nil {
		return err
	}
	if _, err := d.mesh.Kubectl(ctx, "delete", "filterdeployment", "--namespace=httpbin", "hello"); err != nil {
		return err
	}
	for _, workload := range append(d.bookinfo, d.httpbin) {
		if err := awaitHeader(ctx, workload, ""); err != nil {
			return err
		}
	}
	fmt.Println("   no workload answers with the header")
	return d.awaitNothingLeft(ctx)
}

func (d *demo) awaitNothingLeft(ctx context.Context) error {
	var left string
	err := wait.PollUntilContextTimeout(ctx, 200*time.Millisecond, patience, true, func(ctx context.Context) (bool, error) {
		out, err := d.mesh.Kubectl(ctx, "get", "envoyfilters,controllerrevisions,filterdeployments", "--all-namespaces", "--output=name")
		left = strings.TrimSpace(out)
		return left == "", err
	})
	if err != nil {
		return fmt.Errorf("left behind: %s: %w", left, err)
	}
	fmt.Println("   no EnvoyFilter, ControllerRevision or FilterDeployment is left")
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

// show prints what a user sees, once the operator has said that it is ready.
func (d *demo) show(ctx context.Context, namespace string) error {
	if err := d.awaitReady(ctx, namespace); err != nil {
		return err
	}
	return d.print(ctx, namespace)
}

func (d *demo) awaitReady(ctx context.Context, namespace string) error {
	_, err := d.mesh.Kubectl(ctx, "wait", "--namespace="+namespace, "--for=condition=Ready", "--timeout=30s", "filterdeployments", "--all")
	return err
}

// tell prints what a user sees, once READY is False for a reason, and the
// operator's words for it.
func (d *demo) tell(ctx context.Context, namespace, filterDeployment, reason string) error {
	const ready = `.status.conditions[?(@.type=="Ready")]`
	_, err := d.mesh.Kubectl(ctx, "wait", "--namespace="+namespace, "--timeout=60s",
		fmt.Sprintf("--for=jsonpath={%s.reason}=%s", ready, reason), "filterdeployment/"+filterDeployment)
	if err != nil {
		return err
	}
	if err := d.print(ctx, namespace); err != nil {
		return err
	}
	words, err := d.mesh.Kubectl(ctx, "get", "--namespace="+namespace, "filterdeployment/"+filterDeployment,
		fmt.Sprintf("--output=jsonpath={%[1]s.reason}: {%[1]s.message}", ready))
	if err != nil {
		return err
	}
	fmt.Printf("   %s\n", words)
	return nil
}

func (d *demo) print(ctx context.Context, namespace string) error {
	out, err := d.mesh.Kubectl(ctx, "get", "filterdeployments", "--namespace="+namespace)
	if err != nil {
		return err
	}
	fmt.Printf("\n   $ kubectl get filterdeployments --namespace=%s\n", namespace)
	for line := range strings.Lines(out) {
		fmt.Print("   ", line)
	}
	return nil
}

// explain says how to go on by hand.
func (d *demo) explain(ctx context.Context) error {
	kubectl, err := binaries.Kubectl.Path(ctx, os.Stdout)
	if err != nil {
		return err
	}
	sample := filepath.Join(d.mesh.Folder(), "filterdeployment.yaml")
	if err := os.WriteFile(sample, []byte(d.bookinfoYAML("world")), 0o600); err != nil {
		return err
	}
	fmt.Printf(`
Everything is still running. Go on by hand:
   export KUBECONFIG=%s PATH=%s:$PATH
   kubectl apply --filename %s
   kubectl get filterdeployments --all-namespaces --output=wide
   curl --include %s
To end it all:
   make mesh-down
`, d.mesh.Kubeconfig(), filepath.Dir(kubectl), sample, d.bookinfo[0].URL)
	return nil
}

// awaitHeader waits until a workload answers 200 with this value of the header.
func awaitHeader(ctx context.Context, workload *mesh.Running, want string) error {
	var last string
	err := wait.PollUntilContextTimeout(ctx, 20*time.Millisecond, patience, true, func(ctx context.Context) (bool, error) {
		status, header, err := get(ctx, workload.URL, nil)
		last = fmt.Sprintf("%d with hello: %q, %v", status, header, err)
		return err == nil && status == http.StatusOK && header == want, nil
	})
	if err != nil {
		return fmt.Errorf("waiting for hello: %q from %s: %w; it answered %s", want, workload.Workload.Name, err, last)
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
