package view

import (
	"bytes"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/printers"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/revision"
	"github.com/wasme-io/wasme-operator/internal/rollout"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// filterDeployment returns one whose newest spec the operator has looked at.
func filterDeployment(changes ...func(*wasmev1.FilterDeployment)) *wasmev1.FilterDeployment {
	fd := &wasmev1.FilterDeployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "bookinfo", Name: "hello", Generation: 2, CreationTimestamp: metav1.NewTime(noon.Add(-3 * time.Minute))},
		Spec:       wasmev1.FilterDeploymentSpec{Filter: wasmev1.FilterSpec{Image: "ghcr.io/acme/hello:v1"}},
		Status:     wasmev1.FilterDeploymentStatus{ObservedGeneration: new(int64(2))},
	}
	for _, change := range changes {
		change(fd)
	}
	return fd
}

func ready(status metav1.ConditionStatus, reason, message string) func(*wasmev1.FilterDeployment) {
	return func(fd *wasmev1.FilterDeployment) {
		fd.Status.Conditions = append(fd.Status.Conditions, metav1.Condition{Type: wasmev1.ConditionReady, Status: status, Reason: reason, Message: message})
	}
}

func stalled(fd *wasmev1.FilterDeployment) {
	fd.Status.Conditions = append(fd.Status.Conditions, metav1.Condition{Type: wasmev1.ConditionStalled, Status: metav1.ConditionTrue})
}

func phase(phase wasmev1.RolloutPhase) func(*wasmev1.FilterDeployment) {
	return func(fd *wasmev1.FilterDeployment) {
		fd.Status.Rollout = &wasmev1.RolloutStatus{Phase: phase, From: "aaaaaaaa", To: "bbbbbbbb", Step: new(int32(1))}
	}
}

func TestProgress(t *testing.T) {
	for _, row := range []struct {
		name string
		fd   *wasmev1.FilterDeployment
		want Progress
	}{
		{"of a spec that the operator has not seen waits", filterDeployment(ready("True", "Ready", "fine"), func(fd *wasmev1.FilterDeployment) { fd.Generation = 3 }),
			Progress{Message: "Waiting for the operator to look at the newest spec..."}},
		{"without a status waits", &wasmev1.FilterDeployment{}, Progress{Message: "Waiting for the operator to look at the newest spec..."}},
		{"in the middle waits", filterDeployment(ready("Unknown", "Spreading", "revision bbbbbbbb on 1 of 6 workloads"), phase(wasmev1.RolloutProgressing)),
			Progress{Message: "Waiting for rollout to finish: revision bbbbbbbb on 1 of 6 workloads..."}},
		{"waits for the bake time after all pods are ready", filterDeployment(ready("True", "Ready", "fine"), phase(wasmev1.RolloutBaking)),
			Progress{Message: "Waiting for rollout to finish: all pods run revision bbbbbbbb, and are watched for the bake time..."}},
		{"waits for a status whose parts do not agree yet", filterDeployment(ready("True", "Ready", "fine"), phase(wasmev1.RolloutProgressing)),
			Progress{Message: "Waiting for rollout to finish: revision bbbbbbbb is Progressing..."}},
		{"waits for who paused it", filterDeployment(ready("Unknown", "RolloutPaused", "remove spec.rollout.paused to go on"), phase(wasmev1.RolloutPaused)),
			Progress{Message: "Waiting for rollout to finish: remove spec.rollout.paused to go on..."}},
		{"is done when complete", filterDeployment(ready("True", "Ready", "fine"), phase(wasmev1.RolloutComplete)), Progress{Message: "successfully rolled out", Done: true}},
		{"is done without a staged rollout", filterDeployment(ready("True", "Ready", "fine")), Progress{Message: "successfully rolled out", Done: true}},
		{"has failed when rolled back", filterDeployment(ready("False", "RolledBack", "went back"), phase(wasmev1.RolloutRolledBack)), Progress{Message: "went back", Failed: true}},
		{"waits for a retry to begin", filterDeployment(ready("False", "RolledBack", "went back"), phase(wasmev1.RolloutRolledBack), func(fd *wasmev1.FilterDeployment) {
			fd.Annotations = map[string]string{wasmev1.RetryAnnotation: "bbbbbbbb"}
		}), Progress{Message: "Waiting for the operator to retry revision bbbbbbbb..."}},
		{"has failed when a retry went back, too", filterDeployment(ready("False", "RolledBack", "went back"), phase(wasmev1.RolloutRolledBack), func(fd *wasmev1.FilterDeployment) {
			fd.Annotations, fd.Status.Rollout.Retried = map[string]string{wasmev1.RetryAnnotation: "bbbbbbbb"}, "bbbbbbbb"
		}), Progress{Message: "went back", Failed: true}},
		{"has failed when held", filterDeployment(ready("False", "RolloutHeld", "held"), phase(wasmev1.RolloutHeld)), Progress{Message: "held", Failed: true}},
		{"has failed when only a change helps", filterDeployment(ready("False", "InvalidModule", "no Wasm"), stalled), Progress{Message: "no Wasm", Failed: true}},
		{"waits for what is tried again", filterDeployment(ready("False", "RegistryUnavailable", "no answer")), Progress{Message: "Waiting for rollout to finish: no answer..."}},
	} {
		t.Run(row.name, func(t *testing.T) {
			NewWithT(t).Expect(ProgressOf(row.fd)).To(Equal(row.want))
		})
	}
}

func TestRetryValue(t *testing.T) {
	retried := func(value string) func(*wasmev1.FilterDeployment) {
		return func(fd *wasmev1.FilterDeployment) { fd.Status.Rollout.Retried = value }
	}
	for _, row := range []struct {
		name string
		fd   *wasmev1.FilterDeployment
		want string
	}{
		{"is none without a rollout", filterDeployment(), ""},
		{"is none while a rollout goes on", filterDeployment(phase(wasmev1.RolloutBaking)), ""},
		{"is the revision at first", filterDeployment(phase(wasmev1.RolloutRolledBack)), "bbbbbbbb"},
		{"is the revision after another one was retried", filterDeployment(phase(wasmev1.RolloutHeld), retried("aaaaaaaa")), "bbbbbbbb"},
		{"is another one the second time", filterDeployment(phase(wasmev1.RolloutHeld), retried("bbbbbbbb")), "bbbbbbbb/2"},
		{"and the third", filterDeployment(phase(wasmev1.RolloutHeld), retried("bbbbbbbb/2")), "bbbbbbbb/3"},
		{"and after what someone else wrote", filterDeployment(phase(wasmev1.RolloutHeld), retried("bbbbbbbb-again")), "bbbbbbbb/2"},
	} {
		t.Run(row.name, func(t *testing.T) { NewWithT(t).Expect(RetryValue(row.fd)).To(Equal(row.want)) })
	}
}

// printed returns a table as it is printed.
func printed(t *testing.T, table *metav1.Table, wide bool) string {
	t.Helper()
	var out bytes.Buffer
	NewWithT(t).Expect(printers.NewTablePrinter(printers.PrintOptions{Wide: wide}).PrintObj(table, &out)).To(Succeed())
	var lines []string
	for line := range strings.Lines(out.String()) {
		lines = append(lines, strings.TrimRight(line, " \n"))
	}
	return strings.Join(lines, "\n")
}

func TestTableOfFilterDeployments(t *testing.T) {
	g := NewWithT(t)
	busy := filterDeployment(ready("True", "Ready", "fine"), phase(wasmev1.RolloutComplete))
	busy.Status.Summary = &wasmev1.WorkloadSummary{WorkloadsReady: "6/6", PodsReady: "7/7"}
	busy.Status.Module, busy.Status.Revision = &wasmev1.ModuleStatus{SHA256: "1ce7"}, "bbbbbbbb"
	fresh := filterDeployment(func(fd *wasmev1.FilterDeployment) { fd.Namespace, fd.Name = "a", "new" })
	items := []wasmev1.FilterDeployment{*busy, *fresh}
	g.Expect(printed(t, FilterDeployments(items[:1], false, noon), true)).To(Equal(strings.TrimSpace(`
NAME    READY   ROLLOUT    WORKLOADS   PODS   AGE   REVISION   MODULE                  DIGEST   MESSAGE
hello   True    Complete   6/6         7/7    3m    bbbbbbbb   ghcr.io/acme/hello:v1   1ce7     fine`)))
	g.Expect(printed(t, FilterDeployments(items, true, noon), false)).To(Equal(strings.TrimSpace(`
NAMESPACE   NAME    READY     ROLLOUT    WORKLOADS   PODS   AGE
a           new     Unknown   -          -           -      3m
bookinfo    hello   True      Complete   6/6         7/7    3m`)))
}

func TestNote(t *testing.T) {
	g := NewWithT(t)
	g.Expect(Note(filterDeployment())).To(BeEmpty())
	g.Expect(Note(filterDeployment(ready("True", "Ready", "fine")))).To(BeEmpty())
	g.Expect(Note(filterDeployment(ready("False", "RolledBack", "went back")))).To(Equal("Ready is False, RolledBack: went back"))
}

func TestTableOfWorkloads(t *testing.T) {
	g := NewWithT(t)
	fd := filterDeployment()
	fd.Status.Workloads = map[string]wasmev1.WorkloadStatus{
		"a": {State: wasmev1.WorkloadSucceeded}, "b": {State: wasmev1.WorkloadFailed, Reason: "no sidecar"}, "c": {State: wasmev1.WorkloadPending},
	}
	output := func(name, held, staged string) rollout.Output {
		return rollout.Output{Workload: name, Revision: held, Staged: rollout.Fetch{Revision: staged}}
	}
	key := func(name string) rollout.OutputKey {
		return rollout.OutputKey{Kind: wasmev1.OutputEnvoyFilter, Name: name}
	}
	outputs := rollout.Outputs{
		key("a"): output("Deployment/a", "aaaaaaaa", ""), key("c"): output("Deployment/c", "aaaaaaaa", "bbbbbbbb"),
		key("d"): output("Gateway/d", "", "bbbbbbbb"), key("old"): output("", "aaaaaaaa", ""),
	}
	pods := map[string]Pods{"a": {Ready: 2, All: 3}, "c": {}}
	g.Expect(printed(t, Workloads(fd, outputs, pods), false)).To(Equal(strings.TrimSpace(`
WORKLOAD    STATE       PODS   REVISION                   REASON
b           Failed      -      -                          no sidecar
c           Pending     0/0    aaaaaaaa, tries bbbbbbbb   -
Gateway/d   -           -      none, tries bbbbbbbb       -
a           Succeeded   2/3    aaaaaaaa                   -`)))
}

func TestHistory(t *testing.T) {
	g := NewWithT(t)
	fd := filterDeployment(phase(wasmev1.RolloutRolledBack))
	fd.Status.Rollout.Rejected = &wasmev1.RejectedRevision{Revision: "bbbbbbbb", Reason: "Refused"}
	known := func(number int64, hash string, ago time.Duration) revision.Revision {
		return revision.Revision{
			Content: revision.Content{Filter: wasmev1.FilterSpec{Image: "ghcr.io/acme/hello:v1"}, Module: wasmev1.ModuleStatus{SHA256: strings.Repeat(hash, 8)}},
			Hash:    hash, Object: &appsv1.ControllerRevision{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(noon.Add(-ago))}, Revision: number},
		}
	}
	history := []revision.Revision{known(3, "bbbbbbbb", time.Minute), known(2, "aaaaaaaa", time.Hour), known(1, "cccccccc", 48*time.Hour)}
	held := func(hash string) rollout.Output { return rollout.Output{Revision: hash} }
	outputs := rollout.Outputs{{Name: "a"}: held("aaaaaaaa"), {Name: "b"}: held("aaaaaaaa"), {Name: "c"}: held("bbbbbbbb")}
	g.Expect(printed(t, History(fd, history, outputs, noon), false)).To(Equal(strings.TrimSpace(`
REVISION   HASH       STATE                            MODULE                  DIGEST         AGE
3          bbbbbbbb   live on 1/3, rejected: Refused   ghcr.io/acme/hello:v1   bbbbbbbbbbbb   60s
2          aaaaaaaa   live on 2/3, last good           ghcr.io/acme/hello:v1   aaaaaaaaaaaa   60m
1          cccccccc   -                                ghcr.io/acme/hello:v1   cccccccccccc   2d`)))
}
