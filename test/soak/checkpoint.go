package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	extensions "istio.io/client-go/pkg/apis/extensions/v1alpha1"
	networking "istio.io/client-go/pkg/apis/networking/v1alpha3"
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	k8s "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/wasme-io/wasme-operator/test/mesh"
)

const (
	// settleTime is how long everything may take to come to rest after a round: watches come
	// back a minute after an outage of the API server, proofs take half a minute, and a fetch
	// that failed is renewed after another one.
	settleTime = 4 * time.Minute
	// secondLook is how long after the first agreement there must be another one.
	secondLook = 3 * time.Second
	lookEvery  = time.Second
)

// settle waits until no fault is under way any more, and the status of each FilterDeployment,
// its spec and its pods agree, twice in a row. Meanwhile it tries again what was rolled back
// because of a fault. It returns what is not at rest after settleTime.
func (w *world) settle(ctx context.Context, ended <-chan struct{}) (took time.Duration, problems []string, err error) {
	begin, agreed := time.Now(), false
	for {
		problems = w.look(ctx)
		over := isClosed(ended)
		if !over {
			problems = append(problems, "a fault has not ended: "+describe(underWay(w.ledger.known(), time.Now())))
		}
		retried, unexplained := w.retryRolledBack(ctx, over)
		problems = append(problems, retried...)
		took = time.Since(begin)
		if len(unexplained) > 0 || len(problems) == 0 && agreed || len(problems) > 0 && took > settleTime {
			return took, append(problems, unexplained...), nil
		}
		agreed = len(problems) == 0
		length := lookEvery
		if agreed {
			length = secondLook
		}
		if err := pause(ctx, length); err != nil {
			return took, nil, err
		}
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// retryRolledBack tries revisions again that were rolled back although they are good, once
// faults are over that explain it. It returns those, and those that none explains.
func (w *world) retryRolledBack(ctx context.Context, over bool) (retried, unexplained []string) {
	for _, f := range w.filters {
		rejected, problem := w.falselyRejected(ctx, f)
		if problem != "" {
			unexplained = append(unexplained, problem)
		}
		if problem != "" || rejected.revision == "" {
			continue
		}
		retried = append(retried, fmt.Sprintf("%s: revision %s was rolled back because of faults", f.name, rejected.revision))
		if _, _, last := f.history(); rejected == last || !over || explainsRollback(w.ledger.known(), w.namesOf(f), time.Now(), time.Now()) {
			continue
		}
		if w.retries++; w.retries > mostRetries(w.began) {
			unexplained = append(unexplained, fmt.Sprintf("%s: good revisions were rolled back %d times by now", f.name, w.retries))
		}
		if err := f.retry(ctx, rejected); err != nil {
			retried = append(retried, err.Error())
		}
	}
	return retried, unexplained
}

// mostRetries returns how many good revisions may be rolled back because of faults by now.
func mostRetries(began time.Time) int { return 2 + int(time.Since(began)/retryEvery) }

// retryEvery is how often that may happen in the long run.
const retryEvery = 10 * time.Minute

// clockError is how wrong a time in a status may be: the clock of a replica, and a part of a
// second that is cut off.
const clockError = skew + time.Second

// falselyRejected returns the revision of a filter that was rolled back although it is good, none
// for the zero one, and what is wrong about that. What is asked for is read before the status,
// which may be newer, but not older.
func (w *world) falselyRejected(ctx context.Context, f *filter) (what rejection, problem string) {
	state, asked, last := f.history()
	says, err := f.read(ctx)
	what = says.rejection()
	if state != good || err != nil || says.Rejected == "" || f.hasEarned(what) {
		return rejection{}, ""
	}
	at := says.RejectedAt.Add(clockError)
	if now := time.Now(); at.After(now) {
		at = now
	}
	explained := explainsRollback(w.ledger.known(), w.namesOf(f), asked, at)
	counts, wrong := judgeRejection(what, last, at.Before(asked), explained)
	if !counts {
		return rejection{}, ""
	}
	if wrong != "" {
		problem = fmt.Sprintf("%s: revision %s was rolled back%s: %s", f.name, says.Rejected, wrong, says.Message)
	}
	return what, problem
}

// judgeRejection says whether the rejection of a good revision counts, and what is wrong about
// it: no fault explains it, or none was left when the revision was tried again. Last is the one
// after which it was tried again. One from before the revision was asked for was of another one:
// a tag has moved since, and the status does not say so yet.
func judgeRejection(what, last rejection, before, explained bool) (counts bool, wrong string) {
	switch {
	case what == last:
		return true, ""
	case before:
		return false, ""
	case what.revision == last.revision:
		return true, " again when faults were over"
	case !explained:
		return true, ", and no fault explains it"
	}
	return true, ""
}

// namesOf returns the names of a filter's workloads and pods.
func (w *world) namesOf(f *filter) []string {
	names := slices.Clone(f.reaches)
	for _, p := range w.podsOf(f) {
		names = append(names, p.Pod)
	}
	return names
}

// look says in what statuses, specs and pods disagree now, and what the replicas lack.
func (w *world) look(ctx context.Context) (problems []string) {
	for _, f := range w.filters {
		says, err := f.read(ctx)
		if err != nil {
			problems = append(problems, err.Error())
			continue
		}
		var pods []observed
		for _, p := range w.podsOf(f) {
			pods = append(pods, w.observe(ctx, p, []string{f.name}, &problems))
		}
		problems = append(problems, disagreements(f.expect(len(f.workloads)), says, pods)...)
	}
	for _, p := range w.podsOf(nil) {
		w.observe(ctx, p, nil, &problems)
	}
	return slices.Concat(problems, w.stray(ctx), w.replicas.unsettled(ctx))
}

// observe asks a pod what it runs, and notes what it is not to have.
func (w *world) observe(ctx context.Context, p *pod, has []string, problems *[]string) observed {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	found, err := plugins(mesh.Fetch(ctx, p.AdminURL+"/config_dump"))
	if err != nil {
		*problems = append(*problems, fmt.Sprintf("%s: %v", p.Pod, err))
	}
	if strays := foreign(found, has); len(strays) > 0 {
		*problems = append(*problems, fmt.Sprintf("%s has filters that it is not to have: %v", p.Pod, strays))
	}
	return observed{Pod: p.Pod, Dump: found, Hello: mesh.Ask(ctx, p.URL).Hello}
}

// mostRevisions is how many ControllerRevisions a FilterDeployment may have: the history of
// three, and those that outputs hold.
const mostRevisions = 5

// stray says which objects of the operator should not be there, or are missing.
func (w *world) stray(ctx context.Context) []string {
	outputs, revisions, err := w.objects(ctx)
	if err != nil {
		return []string{err.Error()}
	}
	var want, problems []string
	for _, f := range w.filters {
		for _, workload := range f.workloads {
			want = append(want, fmt.Sprintf("%s-%s.%s", workload, f.name, namespace))
		}
	}
	slices.Sort(want)
	slices.Sort(outputs)
	if !slices.Equal(want, outputs) {
		problems = append(problems, fmt.Sprintf("the outputs are %v and should be %v", outputs, want))
	}
	for owner, count := range revisions {
		if count > mostRevisions {
			problems = append(problems, fmt.Sprintf("%s has %d ControllerRevisions, of at most %d", owner, count, mostRevisions))
		}
	}
	return problems
}

// objects returns the names of the outputs, and the number of each filter's ControllerRevisions.
func (w *world) objects(ctx context.Context) (outputs []string, revisions map[string]int, err error) {
	ctx, cancel := context.WithTimeout(ctx, userTime)
	defer cancel()
	var filters networking.EnvoyFilterList
	var plugins extensions.WasmPluginList
	var history appsv1.ControllerRevisionList
	for _, list := range []k8s.ObjectList{&filters, &plugins, &history} {
		if err := w.admin.List(ctx, list, k8s.InNamespace(namespace)); err != nil {
			return nil, nil, fmt.Errorf("listing objects: %w", err)
		}
	}
	for _, object := range filters.Items {
		outputs = append(outputs, object.Name)
	}
	for _, object := range plugins.Items {
		outputs = append(outputs, object.Name)
	}
	revisions = map[string]int{}
	for _, object := range history.Items {
		revisions[metav1.GetControllerOf(&object).Name]++
	}
	return outputs, revisions, nil
}

const (
	liveHeap       = "live heap (MiB)"
	residentMemory = "resident memory (MiB)"
)

// The series of samples, and by how much each may grow. The live heap is what Go's collector has
// marked last. A process keeps some of the memory of its last peak. The store fills up to one
// file for each of the few modules and images that there are.
var series = map[string]float64{
	liveHeap: 8, residentMemory: 32, "goroutines": 10, "open files": 5, "files in the store": 20, "objects in etcd": 10,
}

// measured are the metrics of a replica that are sampled, and their units.
var measured = map[string]struct {
	metric string
	unit   float64
}{
	liveHeap:       {"go_gc_heap_live_bytes", 1 << 20},
	residentMemory: {"process_resident_memory_bytes", 1 << 20},
	"goroutines":   {"go_goroutines", 1},
	"open files":   {"process_open_fds", 1},
}

// sample measures at a quiet point. It returns what is wrong with a replica, too: it must not
// have panicked, nor be busy at rest.
func (w *world) sample(ctx context.Context) (found map[string][]sample, problems []string, err error) {
	found = map[string][]sample{}
	add := func(name, where, life string, value float64) {
		found[name] = append(found[name], sample{Series: name + " of " + where, Life: where + life, Value: value})
	}
	before, err := w.figures(ctx)
	if err != nil {
		return nil, nil, err
	}
	if err := pause(ctx, quietTime); err != nil {
		return nil, nil, err
	}
	after, err := w.figures(ctx)
	if err != nil {
		return nil, nil, err
	}
	for i, now := range after {
		name := fmt.Sprintf("replica-%d", i)
		for _, problem := range restless(before[i], now) {
			problems = append(problems, name+": "+problem)
		}
		life := fmt.Sprintf(" since %.2f", now.metrics.sum("process_start_time_seconds"))
		if now.metrics.sum("leader_election_master_status") == 1 {
			life += " leads"
		}
		for as, of := range measured {
			add(as, name, life, now.metrics.sum(of.metric)/of.unit)
		}
		add("files in the store", name, "", float64(now.files))
	}
	stored, known, err := w.stored(ctx)
	if err != nil {
		return nil, nil, err
	}
	if known {
		add("objects in etcd", "all", "", stored)
	}
	return found, problems, nil
}

const (
	// quietTime is how long the replicas are watched at rest, and mostReconciles and mostWrites how
	// often each may reconcile and write meanwhile: images are polled, pods asked, leases renewed.
	quietTime      = 5 * time.Second
	mostReconciles = 60
	mostWrites     = 10
)

// figures are what a replica says of itself, and its store.
type figures struct {
	metrics metrics
	files   int
	partial []string // files that are half written
}

// figures returns those of each replica.
func (w *world) figures(ctx context.Context) ([]figures, error) {
	all := make([]figures, 0, len(w.replicas.all))
	for _, one := range w.replicas.all {
		scraping, cancel := context.WithTimeout(ctx, userTime)
		scraped, err := parse(mesh.Fetch(scraping, one.MetricsURL))
		cancel()
		if err != nil {
			return nil, fmt.Errorf("replica-%d: %w", one.index, err)
		}
		if scraped.sum("process_start_time_seconds") == 0 {
			return nil, fmt.Errorf("replica-%d serves no metrics", one.index)
		}
		files, partial, err := storeFiles(one.Store())
		if err != nil {
			return nil, err
		}
		all = append(all, figures{scraped, files, partial})
	}
	return all, nil
}

// restless says what is wrong with a replica that was at rest between two times.
func restless(before, after figures) (problems []string) {
	if panics := after.metrics.sum("controller_runtime_reconcile_panics_total"); panics > 0 {
		problems = append(problems, fmt.Sprintf("%.0f reconciles panicked", panics))
	}
	if n := after.metrics.sum("controller_runtime_reconcile_total") - before.metrics.sum("controller_runtime_reconcile_total"); n > mostReconciles {
		problems = append(problems, fmt.Sprintf("%.0f reconciles in %s at rest", n, quietTime))
	}
	if n := after.metrics.writes() - before.metrics.writes(); n > mostWrites {
		problems = append(problems, fmt.Sprintf("%.0f writes in %s at rest", n, quietTime))
	}
	for _, path := range before.partial {
		if slices.Contains(after.partial, path) {
			problems = append(problems, "a file was left half written: "+path)
		}
	}
	return problems
}

// storeFiles counts the files of a store, and returns those that are half written.
func storeFiles(folder string) (count int, partial []string, err error) {
	err = filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil || entry.IsDir():
			return err
		case filepath.Base(filepath.Dir(path)) == "tmp":
			partial = append(partial, path)
		default:
			count++
		}
		return nil
	})
	if err != nil {
		return 0, nil, fmt.Errorf("looking into the store: %w", err)
	}
	return count, partial, nil
}

// countTime is how long an API server runs before it has counted the objects of all resources,
// which it does each minute.
const countTime = 2 * time.Minute

// stored counts the objects in etcd, events and leases aside, which end by themselves. It does
// not know while the API server has not counted them all.
func (w *world) stored(ctx context.Context) (count float64, known bool, err error) {
	client, err := kubernetes.NewForConfig(w.mesh.Admin())
	if err != nil {
		return 0, false, fmt.Errorf("making a client: %w", err)
	}
	content, err := client.RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		return 0, false, fmt.Errorf("reading the API server's metrics: %w", err)
	}
	scraped, err := parse(content)
	if err != nil {
		return 0, false, err
	}
	if begun := time.UnixMilli(int64(1000 * scraped.sum("process_start_time_seconds"))); time.Since(begun) < countTime {
		return 0, false, nil
	}
	sum := scraped.sum("apiserver_resource_objects", func(labels map[string]string) bool {
		return !strings.HasPrefix(labels["resource"], "events") && !strings.HasPrefix(labels["resource"], "leases")
	})
	if sum == 0 {
		return 0, false, errors.New("the API server does not count its objects")
	}
	return sum, true, nil
}

// metrics are what a process serves of them.
type metrics map[string]*dto.MetricFamily

func parse(content []byte) (metrics, error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(content))
	if err != nil {
		return nil, fmt.Errorf("reading metrics: %w", err)
	}
	return families, nil
}

// sum adds up the values of a gauge or a counter with labels of a kind.
func (m metrics) sum(name string, like ...func(labels map[string]string) bool) float64 {
	sum := 0.0
	for _, metric := range m[name].GetMetric() {
		labels := map[string]string{}
		for _, label := range metric.GetLabel() {
			labels[label.GetName()] = label.GetValue()
		}
		if !slices.ContainsFunc(like, func(is func(map[string]string) bool) bool { return !is(labels) }) {
			sum += max(0, metric.GetGauge().GetValue()) + metric.GetCounter().GetValue() // -1: not counted yet
		}
	}
	return sum
}

// writes counts a replica's requests to the API server that are none to read.
func (m metrics) writes() float64 {
	return m.sum("rest_client_requests_total", func(labels map[string]string) bool { return labels["method"] != http.MethodGet })
}
