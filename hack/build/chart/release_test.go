package build

import (
	"encoding/json"
	"os"
	"path"
	"reflect"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// east is a second installation in a cluster, with a name and a class of its own.
var east = release{"east", "mesh-east", "{flags: {class: east}, crds: {install: false}, prometheus: {enabled: true}}"}

// TestASecondReleaseSharesNoObject looks at objects outside of namespaces.
func TestASecondReleaseSharesNoObject(t *testing.T) {
	first := standard("").install(t)
	for key, object := range east.install(t) {
		if first[key] != nil {
			t.Errorf("both have %s", key)
		}
		if namespace := object.GetNamespace(); namespace != "" && namespace != "mesh-east" {
			t.Errorf("%s is in another namespace", key)
		}
	}
}

func TestTheGuardIsForTheAccountOfTheRelease(t *testing.T) {
	for want, r := range map[string]release{
		"system:serviceaccount:mesh-east:east-wasme-operator": east,
		"system:serviceaccount:wasme-system:mine":             standard("serviceAccount: {create: false, name: mine}"),
	} {
		installed := r.install(t)
		name := "wasme-operator"
		if r.name == "east" {
			name = "east-wasme-operator"
		}
		conditions, _, err := unstructured.NestedSlice(installed.get(t, "ValidatingAdmissionPolicy "+name).Object, "spec", "matchConditions")
		if err != nil || len(conditions) != 1 {
			t.Fatal(conditions, err)
		}
		if got := conditions[0].(map[string]any)["expression"]; got != "request.userInfo.username == '"+want+"'" {
			t.Errorf("%v, not %s", got, want)
		}
		bound, _, err := unstructured.NestedString(installed.get(t, "ValidatingAdmissionPolicyBinding "+name).Object, "spec", "policyName")
		if err != nil || bound != name {
			t.Errorf("the binding is of %q: %v", bound, err)
		}
	}
}

// TestAlertsAreAboutTheRelease: the lease's name has the class, and a command the namespace.
func TestAlertsAreAboutTheRelease(t *testing.T) {
	for want, r := range map[string]release{
		`name="wasme-operator.east"`: east,
		`name="wasme-operator"`:      standard("prometheus: {enabled: true}"),
	} {
		name := r.namespace + "/wasme-operator"
		if r.name == "east" {
			name = r.namespace + "/east-wasme-operator"
		}
		text := jsonOf(t, r.install(t).get(t, "PrometheusRule "+name))
		if quoted := strings.ReplaceAll(want, `"`, `\"`); strings.Count(text, quoted) != 2 {
			t.Errorf("%s is not in the alert of no leader", want)
		}
		if !strings.Contains(text, "kubectl get pods -n "+r.namespace) || !strings.Contains(text, "{{ $labels.namespace }}") {
			t.Error(text)
		}
	}
}

func jsonOf(t *testing.T, object *unstructured.Unstructured) string {
	t.Helper()
	text, err := json.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestPrometheusSelectsByItsLabels(t *testing.T) {
	installed := standard("prometheus: {enabled: true, labels: {release: prometheus}, namespaceLabels: {team: sre}}").install(t)
	for _, kind := range []string{"PodMonitor", "PrometheusRule"} {
		if got := installed.get(t, kind+" wasme-system/wasme-operator").GetLabels()["release"]; got != "prometheus" {
			t.Errorf("%s: %q", kind, got)
		}
	}
	policy := jsonOf(t, installed.get(t, "NetworkPolicy wasme-system/wasme-operator-metrics"))
	if !strings.Contains(policy, `"namespaceSelector":{"matchLabels":{"metrics":"enabled","team":"sre"}}`) {
		t.Error(policy)
	}
}

func TestARoleInTheOwnNamespaceHasBoth(t *testing.T) {
	role := jsonOf(t, standard("watchNamespaces: [wasme-system]").install(t).get(t, "Role wasme-system/wasme-operator-manager"))
	if !strings.Contains(role, "envoyfilters") || !strings.Contains(role, "leases") {
		t.Error(role)
	}
}

func TestNotesSayWhatToDoNext(t *testing.T) {
	for values, wants := range map[string][]string{
		"":                                {"kubectl rollout status -n wasme-system deployment/wasme-operator"},
		"moduleStore: {persistent: true}": {"kubectl rollout status -n wasme-system statefulset/wasme-operator"},
		"flags: {class: east}":            {"It needs the label wasme.io/class: east."},
		"watchNamespaces: [a, b]":         {"WARNING: the operator looks after FilterDeployments in a, b only."},
		"crds: {install: false}":          {"WARNING: the chart did not install the CRDs.", "WARNING: if another installation in this cluster has no flags.class"},
		"{crds: {install: false}, flags: {class: east}}": {"WARNING: the chart did not install the CRDs.", "wasme-operator --version 0.0.0 "},
		"{crds: {install: false}, watchNamespaces: [a]}": {"WARNING: the chart did not install the CRDs.", "WARNING: the operator looks after FilterDeployments in a only."},
		"replicas: 0":                {"WARNING: no replica runs."},
		"replicas: 1":                {"WARNING: one replica runs."},
		"flags: {verifyPods: false}": {"WARNING: with verifyPods: false"},
		"guard: {enabled: false}":    {"WARNING: without the guard"},
	} {
		t.Run(values, func(t *testing.T) {
			notes := standard(values).files(t)[notesFile]
			// The capabilities of a rendering without a cluster have no Istio.
			wants = append(wants, "helm test -n wasme-system wasme-operator", "WARNING: this cluster does not have Istio's CRDs.")
			for _, want := range wants {
				if !strings.Contains(notes, want) {
					t.Errorf("%q is not in\n%s", want, notes)
				}
			}
			if got, want := strings.Count(notes, "WARNING"), strings.Count(strings.Join(wants, ""), "WARNING"); got != want {
				t.Errorf("%d warnings, not %d:\n%s", got, want, notes)
			}
		})
	}
}

// TestHelmTestRunsWhereTheManagerRuns: its pod is pulled, placed and admitted as the manager's is.
func TestHelmTestRunsWhereTheManagerRuns(t *testing.T) {
	r := standard(`{
		image: {repository: registry.example.com/op, tag: v1, pullPolicy: Always}, imagePullSecrets: [{name: pull}],
		nodeSelector: {disk: ssd}, tolerations: [{operator: Exists}], podSecurityContext: {runAsUser: null},
	}`)
	tested := objects{}
	if err := tested.add(r.files(t)[testFile]); err != nil {
		t.Fatal(err)
	}
	pod := specOf(t, tested.get(t, "Pod wasme-system/wasme-operator-test"), "spec")
	operator := specOf(t, r.install(t).get(t, deployment), "spec", "template", "spec")
	expectSame(t, pod, operator, "imagePullSecrets", "nodeSelector", "tolerations", "securityContext")
	container := func(spec map[string]any) map[string]any { return spec["containers"].([]any)[0].(map[string]any) }
	expectSame(t, container(pod), container(operator), "image", "imagePullPolicy", "securityContext")
}

func specOf(t *testing.T, object *unstructured.Unstructured, fields ...string) map[string]any {
	t.Helper()
	spec, found, err := unstructured.NestedMap(object.Object, fields...)
	if err != nil || !found {
		t.Fatal(object, err)
	}
	return spec
}

// expectSame compares fields that both must have.
func expectSame(t *testing.T, got, want map[string]any, fields ...string) {
	t.Helper()
	for _, field := range fields {
		if want[field] == nil || !reflect.DeepEqual(got[field], want[field]) {
			t.Errorf("%s is %v, not %v", field, got[field], want[field])
		}
	}
}

func TestHelmTestAsksTheURLOfTheRelease(t *testing.T) {
	for want, values := range map[string]string{
		"http://wasme-modules.wasme-system.svc.cluster.local": "",
		"https://modules.example.com":                         "flags: {moduleServerUrl: 'https://modules.example.com'}",
	} {
		found := objects{}
		if err := found.add(standard(values).files(t)[testFile]); err != nil {
			t.Fatal(err)
		}
		pod := found.get(t, "Pod wasme-system/wasme-operator-test")
		containers, _, err := unstructured.NestedSlice(pod.Object, "spec", "containers")
		if err != nil {
			t.Fatal(err)
		}
		got, _, err := unstructured.NestedStringSlice(containers[0].(map[string]any), "args")
		if err != nil || !slices.Equal(got, []string{"check", want}) {
			t.Errorf("%q, %v", got, err)
		}
	}
}

// TestFilesAreThoseOfConfig: make manifests copies them.
func TestFilesAreThoseOfConfig(t *testing.T) {
	for _, source := range []string{
		"crd/bases/wasme.io_filterdeployments.yaml", "crd/bases/wasme.io_filterpolicies.yaml", "crd/bases/wasme.io_clusterfilterpolicies.yaml",
		"rbac/role.yaml", "rbac/policies_role.yaml", "policy/guard/guard.yaml", "prometheus/rules.yaml",
		"grafana/wasme-operator.json",
	} {
		file := path.Base(source)
		copied, err := os.ReadFile(chartFolder + "/files/" + file)
		if err != nil {
			t.Fatal(err)
		}
		original, err := os.ReadFile(root + "/config/" + source)
		if err != nil {
			t.Fatal(err)
		}
		if string(copied) != string(original) {
			t.Errorf("files/%s is not config/%s: run make manifests", file, source)
		}
	}
}
