package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
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
		if !isClosed(ended) {
			problems = append(problems, "a fault has not ended: "+describe(underWay(w.ledger.known(), time.Now())))
		}
		retried, unexplained := w.retryRolledBack(ctx)
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

// retryRolledBack tries revisions again that were rolled back although they are good, if a
// fault explains that. It returns those, and those that none explains.
func (w *world) retryRolledBack(ctx context.Context) (retried, unexplained []string) {
	for _, f := range w.filters {
		says, rejected, err := f.read(ctx)
		if err != nil || rejected == "" || f.expect(0).State != good {
			continue
		}
		problem := fmt.Sprintf("%s: revision %s was rolled back: %s", f.name, rejected, says.Message)
		if !explainsRollback(w.ledger.known()) {
			unexplained = append(unexplained, problem)
			continue
		}
		if err := f.retry(ctx, rejected); err != nil {
			problem += ": " + err.Error()
		}
		retried = append(retried, problem)
	}
	return retried, unexplained
}

// look says in what statuses, specs and pods disagree now.
func (w *world) look(ctx context.Context) (problems []string) {
	for _, f := range w.filters {
		says, _, err := f.read(ctx)
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
	return append(problems, w.stray(ctx)...)
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
	if most := mostRevisions * len(w.filters); revisions > most {
		problems = append(problems, fmt.Sprintf("there are %d ControllerRevisions, of at most %d", revisions, most))
	}
	return problems
}

// objects are the names of the outputs, and the number of ControllerRevisions.
func (w *world) objects(ctx context.Context) (outputs []string, revisions int, err error) {
	ctx, cancel := context.WithTimeout(ctx, userTime)
	defer cancel()
	var filters networking.EnvoyFilterList
	var plugins extensions.WasmPluginList
	var history appsv1.ControllerRevisionList
	for _, list := range []k8s.ObjectList{&filters, &plugins, &history} {
		if err := w.admin.List(ctx, list, k8s.InNamespace(namespace)); err != nil {
			return nil, 0, fmt.Errorf("listing objects: %w", err)
		}
	}
	for _, object := range filters.Items {
		outputs = append(outputs, object.Name)
	}
	for _, object := range plugins.Items {
		outputs = append(outputs, object.Name)
	}
	return outputs, len(history.Items), nil
}

const residentMemory = "resident memory (MiB)"

// The series of samples, and how much each may grow. A process of Go keeps some of the memory
// of its last peak; goroutines and files come and go with connections. The store fills up to one
// file for each of the few modules and images that there are.
var series = map[string]tolerance{
	residentMemory:        {share: 0.2, number: 16},
	"goroutines":          {share: 0.1, number: 30},
	"open files":          {share: 0.1, number: 15},
	"files in the store":  {number: 20},
	"ControllerRevisions": {number: 4},
	"objects in etcd":     {share: 0.02, number: 10},
}

// measured are the metrics of a replica that are sampled.
var measured = map[string]string{
	residentMemory: "process_resident_memory_bytes", "goroutines": "go_goroutines", "open files": "process_open_fds",
}

// sample measures at a quiet point.
func (w *world) sample(ctx context.Context) (map[string][]sample, error) {
	found := map[string][]sample{}
	add := func(name, where, life string, value float64) {
		found[name] = append(found[name], sample{Series: name + " of " + where, Life: where + life, Value: value})
	}
	for _, one := range w.replicas.all {
		name := fmt.Sprintf("replica-%d", one.index)
		metrics, err := scrape(mesh.Fetch(ctx, one.MetricsURL))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		life := fmt.Sprintf(" since %.2f", metrics["process_start_time_seconds"])
		if metrics["leader_election_master_status"] == 1 {
			life += " leads"
		}
		for as, metric := range measured {
			value := metrics[metric]
			if metric == "process_resident_memory_bytes" {
				value /= 1 << 20
			}
			add(as, name, life, value)
		}
		files, err := storeFiles(one.Store())
		if err != nil {
			return nil, err
		}
		add("files in the store", name, "", float64(files))
	}
	_, revisions, err := w.objects(ctx)
	if err != nil {
		return nil, err
	}
	add("ControllerRevisions", "all", "", float64(revisions))
	stored, err := w.stored(ctx)
	if err != nil {
		return nil, err
	}
	add("objects in etcd", "all", "", stored)
	return found, nil
}

// storeFiles counts the files of a store. None may be half written.
func storeFiles(folder string) (int, error) {
	count := 0
	err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || entry.IsDir() {
			return err
		}
		count++
		if filepath.Base(filepath.Dir(path)) == "tmp" {
			return fmt.Errorf("a file was left half written: %s", path)
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("looking into the store: %w", err)
	}
	return count, nil
}

// stored counts the objects in etcd, events and leases aside, which end by themselves.
func (w *world) stored(ctx context.Context) (float64, error) {
	client, err := kubernetes.NewForConfig(w.mesh.Admin())
	if err != nil {
		return 0, fmt.Errorf("making a client: %w", err)
	}
	content, err := client.RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		return 0, fmt.Errorf("reading the API server's metrics: %w", err)
	}
	families, err := parse(content)
	if err != nil {
		return 0, err
	}
	sum := 0.0
	for _, metric := range families["apiserver_resource_objects"].GetMetric() {
		temporary := slices.ContainsFunc(metric.GetLabel(), func(l *dto.LabelPair) bool {
			return l.GetName() == "resource" && (strings.HasPrefix(l.GetValue(), "events") || strings.HasPrefix(l.GetValue(), "leases"))
		})
		if !temporary {
			sum += max(0, metric.GetGauge().GetValue()) // -1: not counted yet
		}
	}
	if sum == 0 {
		return 0, errors.New("the API server does not count its objects")
	}
	return sum, nil
}

func parse(content []byte) (map[string]*dto.MetricFamily, error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(content))
	if err != nil {
		return nil, fmt.Errorf("reading metrics: %w", err)
	}
	return families, nil
}

// scrape returns the gauges of a replica that have one value.
func scrape(content []byte) (map[string]float64, error) {
	families, err := parse(content)
	if err != nil {
		return nil, err
	}
	values := map[string]float64{}
	for name, family := range families {
		if all := family.GetMetric(); len(all) == 1 && all[0].Gauge != nil {
			values[name] = all[0].GetGauge().GetValue()
		}
	}
	if values["process_start_time_seconds"] == 0 {
		return nil, os.ErrNotExist
	}
	return values, nil
}
