package build

import (
	"encoding/json"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v4/pkg/chart/v2/lint"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

const (
	deployment = "Deployment wasme-system/wasme-operator"
	flagsPage  = root + "/docs/flags.md"
	schemaFile = chartFolder + "/values.schema.json"
)

func TestHelmLintsTheChart(t *testing.T) {
	for _, message := range lint.RunAll(chartFolder, nil, "wasme-system").Messages {
		if !strings.Contains(message.Error(), "icon is recommended") {
			t.Error(message)
		}
	}
}

// args returns the manager's arguments.
func (o objects) args(t *testing.T) []string {
	t.Helper()
	container, err := manager(o)
	if err != nil {
		t.Fatal(err)
	}
	found, _, err := unstructured.NestedStringSlice(container, "args")
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestValuesAreFlags(t *testing.T) {
	const store = "--module-store-max-bytes=2147483648"
	const server, peers = "--module-server-url=http://wasme-modules.wasme-system.svc.cluster.local", "--peers=http://wasme-modules-peers.wasme-system.svc.cluster.local:8082"
	for values, want := range map[string][]string{
		"":                               {"--leader-elect", server, peers, store},
		"flags: {clusterId: east}":       {"--leader-elect", server, peers, store, "--cluster-id=east"},
		"flags: {verifyPods: false}":     {"--leader-elect", server, peers, store, "--verify-pods=false"},
		"flags: {deniedNetworks: []}":    {"--leader-elect", server, peers, store, "--denied-networks="},
		"flags: {zapLogLevel: 2}":        {"--leader-elect", server, peers, store, "--zap-log-level=2"},
		"flags: {clusterId: null}":       {"--leader-elect", server, peers, store},
		"watchNamespaces: [a, b]":        {"--leader-elect", server, peers, "--watch-namespaces=a,b", store},
		"extraArgs: [--cluster-id=west]": {"--leader-elect", server, peers, store, "--cluster-id=west"},
		"moduleStore: {size: 600Mi}":     {"--leader-elect", server, peers, "--module-store-max-bytes=419430400"},
		"moduleStore: {size: 1.5T}":      {"--leader-elect", server, peers, "--module-store-max-bytes=1000000000000"},
		"{flags: {moduleStoreMaxBytes: 8589934592}, moduleStore: {size: 10Gi}}": {"--leader-elect", server, peers, "--module-store-max-bytes=8589934592"},
		"flags: {allowedRegistries: [ghcr.io, 'localhost:5000']}":               {"--leader-elect", server, peers, store, "--allowed-registries=ghcr.io,localhost:5000"},
		"{flags: {clusterId: east}, extraArgs: [--cluster-id=x]}":               {"--leader-elect", server, peers, store, "--cluster-id=east", "--cluster-id=x"},
		"flags: {moduleServerUrl: 'https://modules.example.com'}":               {"--leader-elect", "--module-server-url=https://modules.example.com", peers, store},
		"flags: {peers: ['http://a:1', 'http://b:1']}":                          {"--leader-elect", server, "--peers=http://a:1,http://b:1", store},
		"clusterDomain: example.internal": {
			"--leader-elect", "--module-server-url=http://wasme-modules.wasme-system.svc.example.internal",
			"--peers=http://wasme-modules-peers.wasme-system.svc.example.internal:8082", store,
		},
	} {
		t.Run(values, func(t *testing.T) {
			if got := standard(values).install(t).args(t); !slices.Equal(got, want) {
				t.Errorf("%q,\nnot %q", got, want)
			}
		})
	}
}

// chartsOwn are the flags that are no values below `flags`, each with its reason.
var chartsOwn = map[string]string{
	"leader-elect":               "always set: it costs nothing with one replica",
	"leader-election-namespace":  "its own, where its Role has Leases",
	"watch-namespaces":           "the value watchNamespaces, which also decides the roles",
	"module-store":               "the folder that the chart mounts",
	"module-server-bind-address": "the port that the chart names",
	"health-probe-bind-address":  "the port that the chart names",
	"metrics-bind-address":       "the port that the chart names",
	"kubeconfig":                 "it runs in the cluster",
	"tuf-url":                    "needs the file of --tuf-root: extraArgs, extraVolumes and extraVolumeMounts",
	"tuf-root":                   "needs a volume: extraArgs, extraVolumes and extraVolumeMounts",
	"preloaded-images":           "needs a volume: extraArgs, extraVolumes and extraVolumeMounts",
	"version":                    "prints it and ends",
	"zap-devel":                  "for development; zapLogLevel and zapEncoder have what it sets",
}

// values returns the chart's values.
func values(t *testing.T) map[string]any {
	t.Helper()
	text, err := os.ReadFile(chartFolder + "/values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var read map[string]any
	if err := yaml.Unmarshal(text, &read); err != nil {
		t.Fatal(err)
	}
	return read
}

// TestEveryFlagIsAValue renders each value below flags, and compares their names with the
// manager's.
func TestEveryFlagIsAValue(t *testing.T) {
	page, err := os.ReadFile(flagsPage)
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, flag := range regexp.MustCompile("(?m)^## `--([a-z-]+)`").FindAllStringSubmatch(string(page), -1) {
		known[flag[1]] = true
	}
	set := map[string]any{}
	for name := range values(t)["flags"].(map[string]any) {
		set[name] = exampleOf(t, name)
	}
	text, err := yaml.Marshal(map[string]any{"flags": set})
	if err != nil {
		t.Fatal(err)
	}
	rendered := map[string]bool{}
	for _, arg := range standard(string(text)).install(t).args(t) {
		flag, _, _ := strings.Cut(strings.TrimPrefix(arg, "--"), "=")
		rendered[flag] = true
		if !known[flag] {
			t.Errorf("the manager has no flag --%s", flag)
		}
	}
	for flag := range known {
		if !rendered[flag] && chartsOwn[flag] == "" {
			t.Errorf("--%s is no value: add it to values.yaml and values.schema.json, or say in this test why not", flag)
		}
	}
	for flag := range chartsOwn {
		if !known[flag] {
			t.Errorf("the manager has no flag --%s", flag)
		}
	}
}

// exampleOf returns a value for a flag that the schema accepts.
func exampleOf(t *testing.T, name string) any {
	t.Helper()
	for _, example := range []any{true, 64 << 20, "30s", "info", "json", "epoch", "Off", "http://a", []any{"image"}, []any{"ecr"}, []any{"10.0.0.0/8"}, []any{"http://a"}} {
		text, err := yaml.Marshal(map[string]any{"flags": map[string]any{name: example}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := standard(string(text)).render(t); err == nil {
			return example
		}
	}
	t.Fatalf("no example fits flags.%s", name)
	return nil
}

func TestTheModuleStoreFitsItsVolume(t *testing.T) {
	for _, values := range []string{
		"{flags: {moduleStoreMaxBytes: 3221225472}, moduleStore: {size: 3Gi}}",
		"{flags: {moduleStoreMaxBytes: 2147483648}, moduleStore: {size: 1Gi}}",
		"moduleStore: {size: '0'}",
	} {
		if _, err := standard(values).render(t); err == nil || !strings.Contains(err.Error(), "raise the size") {
			t.Errorf("%s: %v", values, err)
		}
	}
}

func TestTheSchemaRefuses(t *testing.T) {
	for values, want := range map[string]string{
		"replica: 3":                                   "additional properties 'replica' not allowed",
		"replicas: two":                                "at '/replicas': got string, want integer",
		"replicas: -1":                                 "at '/replicas': minimum: got -1, want 0",
		"flags: {cluster-id: east}":                    "at '/flags': additional properties 'cluster-id' not allowed",
		"flags: {imagePollInterval: 5}":                "at '/flags/imagePollInterval': got number, want",
		"flags: {imagePollInterval: 5 minutes}":        "at '/flags/imagePollInterval': '5 minutes' does not match pattern",
		"flags: {preflight: enforce}":                  "at '/flags/preflight': value must be one of 'Enforce', 'Warn', 'Off'",
		"flags: {verifyPods: 'false'}":                 "at '/flags/verifyPods': got string, want null or boolean",
		"flags: {deniedNetworks: [10.0.0.1]}":          "at '/flags/deniedNetworks/0': '10.0.0.1' does not match pattern",
		"flags: {deniedNetworks: 10.0.0.0/8}":          "at '/flags/deniedNetworks': got string, want",
		"flags: {allowedRegistries: ['ghcr.io/acme']}": "at '/flags/allowedRegistries/0': 'ghcr.io/acme' does not match pattern",
		"flags: {allowedSources: [git]}":               "at '/flags/allowedSources/0': value must be one of 'image', 'url', 'configMap'",
		"flags: {preflightMemoryBytes: 1024}":          "at '/flags/preflightMemoryBytes': minimum",
		"flags: {maxConcurrentReconciles: 0}":          "at '/flags/maxConcurrentReconciles': minimum",
		"flags: {moduleServerUrl: 'modules:80'}":       "at '/flags/moduleServerUrl'",
		"flags: {zapLogLevel: verbose}":                "at '/flags/zapLogLevel'",
		"watchNamespaces: bookinfo":                    "at '/watchNamespaces': got string, want array",
		"watchNamespaces: [Bookinfo]":                  "at '/watchNamespaces/0': 'Bookinfo' does not match pattern",
		"watchNamespaces: [a, a]":                      "at '/watchNamespaces': items at 0 and 1 are equal",
		"extraArgs: {a: b}":                            "at '/extraArgs': got object, want array",
		"extraArgs: [cluster-id=a]":                    "at '/extraArgs/0'",
		"image: {repository: 'a:v1'}":                  "at '/image/repository'",
		"image: {digest: abc}":                         "at '/image/digest'",
		"image: {pullPolicy: Sometimes}":               "at '/image/pullPolicy': value must be one of",
		"imagePullSecrets: [pull]":                     "at '/imagePullSecrets/0': got string, want object",
		"moduleStore: {size: 3 GB}":                    "at '/moduleStore/size'",
		"goMemoryLimit: 1Gi":                           "at '/goMemoryLimit': '1Gi' does not match pattern",
		"priorityClass: {value: 2000000000}":           "at '/priorityClass/value': maximum",
		"extraEnv: [{name: GOMEMLIMIT, value: 1GiB}]":  "at '/extraEnv/0/name'",
		"podLabels: {app.kubernetes.io/name: x}":       "at '/podLabels'",
		"prometheus: {enable: true}":                   "at '/prometheus': additional properties 'enable' not allowed",
	} {
		t.Run(values, func(t *testing.T) {
			_, err := standard(values).render(t)
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v,\nwithout %q", err, want)
			}
		})
	}
}

// TestEveryValueOfTheSchemaIsInTheFile: each rendering checks the other way round.
func TestEveryValueOfTheSchemaIsInTheFile(t *testing.T) {
	text, err := os.ReadFile(schemaFile)
	if err != nil {
		t.Fatal(err)
	}
	var schema map[string]any
	if err := json.Unmarshal(text, &schema); err != nil {
		t.Fatal(err)
	}
	// Helm itself gives `global` to each chart.
	if missing := missingValues(schema, values(t), ""); !slices.Equal(missing, []string{".global"}) {
		t.Errorf("values.yaml does not have %q", missing)
	}
}

// missingValues returns the paths of the schema's properties that the values do not have.
func missingValues(schema, values map[string]any, path string) []string {
	var missing []string
	properties, _ := schema["properties"].(map[string]any)
	for _, name := range slices.Sorted(maps.Keys(properties)) {
		value, found := values[name]
		if !found {
			missing = append(missing, path+"."+name)
			continue
		}
		if below, isMap := value.(map[string]any); isMap {
			missing = append(missing, missingValues(properties[name].(map[string]any), below, path+"."+name)...)
		}
	}
	return missing
}

func TestValuesOfThePod(t *testing.T) {
	for values, want := range map[string]string{
		"nodeSelector: {disk: ssd}":                                              "{nodeSelector: {disk: ssd}}",
		"tolerations: [{operator: Exists}]":                                      "{tolerations: [{operator: Exists}]}",
		"affinity: {nodeAffinity: {a: b}}":                                       "{affinity: {nodeAffinity: {a: b}}}",
		"affinity: {}":                                                           "{affinity: {}}",
		"topologySpreadConstraints: [{maxSkew: 1}]":                              "{topologySpreadConstraints: [{maxSkew: 1}]}",
		"imagePullSecrets: [{name: pull}]":                                       "{imagePullSecrets: [{name: pull}]}",
		"podSecurityContext: {runAsUser: null, runAsGroup: null, fsGroup: null}": "{securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}}",
		"priorityClass: {create: false}":                                         "{priorityClassName: null}",
		"priorityClass: {create: false, name: system-cluster-critical}":          "{priorityClassName: system-cluster-critical}",
		"serviceAccount: {create: false}":                                        "{serviceAccountName: default}",
		"serviceAccount: {name: mine}":                                           "{serviceAccountName: mine}",
		"extraVolumes: [{name: ca, configMap: {name: ca}}]":                      "{volumes: [{name: modules, emptyDir: {sizeLimit: 3Gi}}, {name: ca, configMap: {name: ca}}]}",
		"moduleStore: {size: 10Gi}":                                              "{volumes: [{name: modules, emptyDir: {sizeLimit: 10Gi}}]}",
	} {
		t.Run(values, func(t *testing.T) {
			got, _, err := unstructured.NestedMap(standard(values).install(t).get(t, deployment).Object, "spec", "template", "spec")
			if err != nil {
				t.Fatal(err)
			}
			expectFields(t, got, want)
		})
	}
}

func TestValuesOfTheClaim(t *testing.T) {
	for values, want := range map[string]string{
		"moduleStore: {persistent: true}":                                         "{accessModes: [ReadWriteOnce], resources: {requests: {storage: 3Gi}}, storageClassName: null}",
		"moduleStore: {persistent: true, size: 10Gi, storageClassName: fast-ssd}": "{resources: {requests: {storage: 10Gi}}, storageClassName: fast-ssd}",
	} {
		t.Run(values, func(t *testing.T) {
			set := standard(values).install(t).get(t, "StatefulSet wasme-system/wasme-operator")
			claims, _, err := unstructured.NestedSlice(set.Object, "spec", "volumeClaimTemplates")
			if err != nil || len(claims) != 1 {
				t.Fatal(claims, err)
			}
			expectFields(t, claims[0].(map[string]any)["spec"].(map[string]any), want)
		})
	}
}

func TestValuesOfTheContainer(t *testing.T) {
	const digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	for values, want := range map[string]string{
		"image: {repository: 'localhost:5000/op', tag: v1}":    "{image: 'localhost:5000/op:v1'}",
		"image: {tag: v1, digest: '" + digest + "'}":           "{image: 'ghcr.io/wasme-io/wasme-operator@" + digest + "'}",
		"image: {pullPolicy: Always}":                          "{imagePullPolicy: Always}",
		"resources: {limits: {memory: 2Gi, cpu: 2}}":           "{resources: {requests: {cpu: 50m, memory: 200Mi}, limits: {memory: 2Gi, cpu: 2}}}",
		"goMemoryLimit: 1800MiB":                               "{env: [{name: GOMEMLIMIT, value: 1800MiB}]}",
		"extraEnv: [{name: HTTPS_PROXY, value: 'http://p:1'}]": "{env: [{name: GOMEMLIMIT, value: 460MiB}, {name: HTTPS_PROXY, value: 'http://p:1'}]}",
		"extraVolumeMounts: [{name: ca, mountPath: /ca}]":      "{volumeMounts: [{name: modules, mountPath: /var/lib/wasme/modules}, {name: ca, mountPath: /ca}]}",
	} {
		t.Run(values, func(t *testing.T) {
			got, err := manager(standard(values).install(t))
			if err != nil {
				t.Fatal(err)
			}
			expectFields(t, got, want)
		})
	}
}

// expectFields compares those fields that want has; null is for one that is not there.
func expectFields(t *testing.T, got map[string]any, want string) {
	t.Helper()
	var fields map[string]any
	if err := yaml.Unmarshal([]byte(want), &fields); err != nil {
		t.Fatal(err)
	}
	for name, value := range fields {
		is, err := json.Marshal(got[name])
		if err != nil {
			t.Fatal(err)
		}
		should, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		if string(is) != string(should) {
			t.Errorf("%s is %s, not %s", name, is, should)
		}
	}
}

func TestValuesOfMetadata(t *testing.T) {
	installed := standard("{podAnnotations: {a: b}, podLabels: {azure.workload.identity/use: 'true'}, serviceAccount: {annotations: {role: mine}}}").install(t)
	template, _, err := unstructured.NestedMap(installed.get(t, deployment).Object, "spec", "template")
	if err != nil {
		t.Fatal(err)
	}
	pod := unstructured.Unstructured{Object: template}
	if pod.GetAnnotations()["a"] != "b" || pod.GetAnnotations()["kubectl.kubernetes.io/default-container"] != "manager" {
		t.Error(pod.GetAnnotations())
	}
	if pod.GetLabels()["azure.workload.identity/use"] != "true" || pod.GetLabels()["app.kubernetes.io/name"] != "wasme-operator" {
		t.Error(pod.GetLabels())
	}
	if got := installed.get(t, "ServiceAccount wasme-system/wasme-operator").GetAnnotations(); !reflect.DeepEqual(got, map[string]string{"role": "mine"}) {
		t.Error(got)
	}
}

// TestValuesDecideWhatIsInstalled compares with the objects of the default values.
func TestValuesDecideWhatIsInstalled(t *testing.T) {
	for values, want := range map[string][]string{
		"":                              nil,
		"crds: {install: false}":        {"-CustomResourceDefinition clusterfilterpolicies.wasme.io", "-CustomResourceDefinition filterdeployments.wasme.io", "-CustomResourceDefinition filterpolicies.wasme.io"},
		"guard: {enabled: false}":       {"-ValidatingAdmissionPolicy wasme-operator", "-ValidatingAdmissionPolicyBinding wasme-operator"},
		"rbac: {aggregateToEdit: true}": {"+ClusterRole wasme-filterdeployments-edit"},
		"serviceAccount: {create: false, name: mine}": {"-ServiceAccount wasme-system/wasme-operator"},
		"priorityClass: {create: false}":              {"-PriorityClass wasme-operator"},
		"priorityClass: {name: high}":                 {"+PriorityClass high", "-PriorityClass wasme-operator"},
		"networkPolicy: {enabled: false}":             {"-NetworkPolicy wasme-system/wasme-operator"},
		"podDisruptionBudget: {enabled: false}":       {"-PodDisruptionBudget wasme-system/wasme-operator"},
		"replicas: 1":                                 {"-PodDisruptionBudget wasme-system/wasme-operator"},
		"prometheus: {enabled: true}":                 {"+NetworkPolicy wasme-system/wasme-operator-metrics", "+PodMonitor wasme-system/wasme-operator", "+PrometheusRule wasme-system/wasme-operator"},
		"{prometheus: {enabled: true}, networkPolicy: {enabled: false}}": {
			"+PodMonitor wasme-system/wasme-operator", "+PrometheusRule wasme-system/wasme-operator", "-NetworkPolicy wasme-system/wasme-operator",
		},
		"moduleStore: {persistent: true}": {"+StatefulSet wasme-system/wasme-operator", "-Deployment wasme-system/wasme-operator"},
		"grafana: {dashboard: true}":      {"+ConfigMap wasme-system/wasme-operator-dashboard"},
		"watchNamespaces: [a, wasme-system]": {
			"+Role a/wasme-operator-manager", "+RoleBinding a/wasme-operator-manager",
			"-ClusterRole wasme-operator-manager", "-ClusterRoleBinding wasme-operator-manager",
		},
	} {
		t.Run(values, func(t *testing.T) {
			standardly, installed := standard("").install(t), standard(values).install(t)
			var got []string
			for key := range installed {
				if standardly[key] == nil {
					got = append(got, "+"+key)
				}
			}
			for key := range standardly {
				if installed[key] == nil {
					got = append(got, "-"+key)
				}
			}
			if slices.Sort(got); !slices.Equal(got, want) {
				t.Errorf("%q, not %q", got, want)
			}
		})
	}
}
