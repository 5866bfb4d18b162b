package migrate

import (
	"fmt"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/istio"
	"github.com/wasme-io/wasme-operator/internal/ownership"
	"github.com/wasme-io/wasme-operator/internal/workload"
	"github.com/wasme-io/wasme-operator/test/predecessor"
)

const (
	cachedDigest = "165600e2e4d099b5d32b29fbfcc3a03b9215d70df2523fa9abcf4901408fbac1"
	otherDigest  = "aaaa00e2e4d099b5d32b29fbfcc3a03b9215d70df2523fa9abcf4901408fbac1"
)

// objectFrom returns an object of namespace n from the YAML of its spec. A later one is younger.
func objectFrom(t *testing.T, kind wasmev1.Output, name, spec string) istio.Output {
	t.Helper()
	object := istio.Kinds[kind].New()
	object.SetNamespace("n")
	object.SetName(name)
	object.SetCreationTimestamp(metav1.Unix(1, 0))
	raw, err := yaml.YAMLToJSON([]byte(spec))
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	object.Content().Raw = raw
	return object
}

// deploymentNamed returns a Deployment of namespace n, whose pods have its labels.
func deploymentNamed(name string, labels map[string]string) *appsv1.Deployment {
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: name, Labels: labels}}
	d.Spec.Selector = &metav1.LabelSelector{MatchLabels: labels}
	d.Spec.Template.Labels = labels
	return d
}

// gateway returns a Deployment whose pods are gateways.
func gateway(name string, labels map[string]string) *appsv1.Deployment {
	d := deploymentNamed(name, labels)
	d.Spec.Template.Annotations = map[string]string{"inject.istio.io/templates": "gateway"}
	return d
}

func labelled(app string) map[string]string { return map[string]string{"app": app} }

// bookinfo is two workloads.
func bookinfo() []workload.Object {
	return []workload.Object{deploymentNamed("details-v1", labelled("details")), deploymentNamed("reviews-v1", labelled("reviews"))}
}

// stepOf plans the replacement of one object.
func stepOf(t *testing.T, object istio.Output, workloads []workload.Object) Step {
	t.Helper()
	steps, unused := Plan(&Inventory{Objects: []istio.Output{object}, Workloads: workloads, RootNamespace: "root"}, Images{})
	g := NewWithT(t)
	g.Expect(unused).To(BeEmpty())
	g.Expect(steps).To(HaveLen(1))
	return steps[0]
}

// specOf returns the YAML of a FilterDeployment's spec.
func specOf(t *testing.T, fd *wasmev1.FilterDeployment) string {
	t.Helper()
	text, err := yaml.Marshal(fd.Spec)
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	return string(text)
}

// wasmValue is the value of an HTTP filter with a module that has an address.
const wasmValue = `{name: hello, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm, config: {
  root_id: root, configuration: {'@type': type.googleapis.com/google.protobuf.StringValue, value: world},
  vm_config: {vm_id: vm, runtime: envoy.wasm.runtime.v8, code: {remote: {sha256: ` + cachedDigest + `, http_uri: {uri: 'http://modules/hello.wasm', timeout: 10s, cluster: modules}}}}}}}`

// inserted is an EnvoyFilter with one patch that inserts a value before the router.
func inserted(context, value string) string {
	return fmt.Sprintf(`
workloadSelector: {labels: {app: details}}
configPatches:
- applyTo: HTTP_FILTER
  match: {context: %s, listener: {filterChain: {filter: {name: envoy.filters.network.http_connection_manager, subFilter: {name: envoy.filters.http.router}}}}}
  patch: {operation: INSERT_BEFORE, value: %s}
`, context, value)
}

func TestWhatReplacesAnEnvoyFilter(t *testing.T) {
	details := `deployment:
  istio:
    kind: Deployment
    labels:
      app: details
filter:
`
	source := "  sha256: " + cachedDigest + "\n  url: http://modules/hello.wasm\n"
	for _, row := range []struct {
		name, spec, want string
	}{
		{"with a module behind a URL", inserted("SIDECAR_INBOUND", wasmValue), details + "  config: world\n  failStrategy: FailClosed\n  patchContext: inbound\n  rootID: root\n" + source},
		{"whose configuration is wrapped in a Struct, with the names of protobuf's JSON", inserted("SIDECAR_OUTBOUND", `{name: hello, typedConfig: {'@type': type.googleapis.com/udpa.type.v1.TypedStruct,
  typeUrl: type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm, value: {config: {rootId: root, failOpen: true,
  configuration: {'@type': type.googleapis.com/google.protobuf.Struct, value: {a: 1}},
  vmConfig: {runtime: envoy.wasm.runtime.v8, code: {remote: {httpUri: {uri: 'oci://registry.test/hello:v1'}}}}}}}}`), details + `  config:
    '@type': type.googleapis.com/google.protobuf.Struct
    value:
      a: 1
  failStrategy: FailOpen
  image: registry.test/hello:v1
  patchContext: outbound
  rootID: root
`},
		{"with variables, a reload after crashes, and an image by its digest", inserted("ANY", `{name: hello, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm, config: {
  root_id: root, failure_policy: FAIL_RELOAD, reload_config: {backoff: {base_interval: 1s}},
  vm_config: {environment_variables: {key_values: {B: b, A: a}, host_env_keys: [HOME]}, code: {remote: {sha256: `+cachedDigest+`, http_uri: {uri: 'oci://registry.test/hello:v1'}}}}}}}`), details + `  failStrategy: FailReload
  image: registry.test/hello@sha256:` + cachedDigest + `
  patchContext: any
  rootID: root
  vm:
    env:
    - name: A
      value: a
    - name: B
      value: b
    - name: HOME
      valueFrom:
        host: {}
`},
		{"of ECDS, at two ports, after another filter", `
workloadSelector: {labels: {app: details}}
priority: 7
configPatches:
- applyTo: EXTENSION_CONFIG
  patch: {operation: ADD, value: ` + wasmValue + `}
- applyTo: HTTP_FILTER
  match: {context: SIDECAR_INBOUND, listener: {portNumber: 9080, filterChain: {filter: {subFilter: {name: envoy.filters.http.cors}}}}}
  patch: &patch
    operation: INSERT_AFTER
    value: {name: hello, config_discovery: {config_source: {ads: {}}, type_urls: [type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm]}}
- applyTo: HTTP_FILTER
  match: {context: SIDECAR_INBOUND, listener: {filterChain: {destinationPort: 80, filter: {subFilter: {name: envoy.filters.http.cors}}}}}
  patch: *patch
`, details + "  config: world\n  failStrategy: FailClosed\n  patchContext: inbound\n  ports:\n  - 80\n  - 9080\n  position:\n    after: envoy.filters.http.cors\n  priority: 7\n  rootID: root\n" + source},
		{"on inbound and outbound traffic, first", `
workloadSelector: {labels: {app: details}}
configPatches:
- applyTo: HTTP_FILTER
  match: {context: SIDECAR_INBOUND}
  patch: {operation: INSERT_FIRST, value: ` + wasmValue + `}
- applyTo: HTTP_FILTER
  match: {context: SIDECAR_OUTBOUND}
  patch: {operation: INSERT_FIRST, value: ` + wasmValue + `}
`, details + "  config: world\n  failStrategy: FailClosed\n  patchContext: any\n  position:\n    first: true\n  rootID: root\n" + source},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := NewWithT(t)
			s := stepOf(t, objectFrom(t, wasmev1.OutputEnvoyFilter, "hello", row.spec), bookinfo())
			g.Expect(s.Err).NotTo(HaveOccurred())
			g.Expect(s.Differs).To(BeFalse())
			g.Expect(s.Workloads).To(Equal([]string{"details-v1"}))
			g.Expect(s.FilterDeployments).To(HaveLen(1))
			g.Expect(s.FilterDeployments[0].Name).To(Equal("hello"))
			g.Expect(s.FilterDeployments[0].Annotations).To(Equal(map[string]string{ReplacesAnnotation: "EnvoyFilter/hello"}))
			g.Expect(specOf(t, s.FilterDeployments[0])).To(Equal(row.want))
		})
	}
	t.Run("with two filters is one FilterDeployment for each", func(t *testing.T) {
		g := NewWithT(t)
		spec := inserted("SIDECAR_INBOUND", wasmValue) + strings.SplitN(inserted("SIDECAR_INBOUND", strings.Replace(wasmValue, "root_id: root", "root_id: other", 1)), "configPatches:\n", 2)[1]
		s := stepOf(t, objectFrom(t, wasmev1.OutputEnvoyFilter, "two", spec), bookinfo())
		g.Expect(s.Err).NotTo(HaveOccurred())
		g.Expect(s.FilterDeployments).To(HaveLen(2))
		g.Expect(s.FilterDeployments[0].Name).To(Equal("two-1"))
		g.Expect(s.FilterDeployments[1].Spec.Filter.RootID).To(Equal("other"))
	})
	t.Run("without a Wasm filter is nothing", func(t *testing.T) {
		steps, _ := Plan(&Inventory{Objects: []istio.Output{
			objectFrom(t, wasmev1.OutputEnvoyFilter, "lua", inserted("ANY", `{name: lua, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua}}`)),
			objectFrom(t, wasmev1.OutputTrafficExtension, "other", `{}`),
		}}, Images{})
		NewWithT(t).Expect(steps).To(BeEmpty())
	})
	t.Run("of a FilterDeployment is nothing", func(t *testing.T) {
		object := objectFrom(t, wasmev1.OutputEnvoyFilter, "hello", inserted("ANY", wasmValue))
		ownership.Claim(object, &wasmev1.FilterDeployment{ObjectMeta: metav1.ObjectMeta{Name: "hello", UID: "1"}}, nil)
		steps, _ := Plan(&Inventory{Objects: []istio.Output{object}}, Images{})
		NewWithT(t).Expect(steps).To(BeEmpty())
	})
}

func TestWhatIsRefused(t *testing.T) {
	plugin := func(config string) string {
		return inserted("SIDECAR_INBOUND", `{name: hello, typed_config: {'@type': `+wasmType+`, config: {root_id: root, vm_config: {code: {remote: {http_uri: {uri: 'oci://registry.test/a:v1'}}}}, `+config+`}}}`)
	}
	vm := func(config string) string {
		return inserted("SIDECAR_INBOUND", `{name: hello, typed_config: {'@type': `+wasmType+`, config: {root_id: root, vm_config: {`+config+`}}}}`)
	}
	from := func(code string) string { return vm(`code: {` + code + `}`) }
	with := func(old, changed string) string {
		return strings.Replace(inserted("SIDECAR_INBOUND", wasmValue), old, changed, 1)
	}
	const inbound = "context: SIDECAR_INBOUND"
	for _, row := range []struct{ name, spec, field, says string }{
		{"another patch", inserted("SIDECAR_INBOUND", wasmValue) + "- applyTo: CLUSTER\n  patch: {operation: ADD, value: {name: modules}}\n", "spec.configPatches[1]", "(CLUSTER)"},
		{"a version of proxies", with(inbound, inbound+", proxy: {proxyVersion: '1.20'}"), "spec.configPatches[0].match.proxy.proxyVersion", "all proxies"},
		{"metadata of proxies", with(inbound, inbound+", proxy: {metadata: {A: b}}"), "spec.configPatches[0].match.proxy.metadata", "all proxies"},
		{"a context of waypoints", inserted("WAYPOINT", wasmValue), "spec.configPatches[0].match.context", "WAYPOINT"},
		{"a listener", with("listener: {", "listener: {name: virtualInbound, "), "spec.configPatches[0].match.listener.name", "portNumber"},
		{"a server name", with("filterChain: {", "filterChain: {sni: a.test, "), "spec.configPatches[0].match.listener.filterChain.sni", "portNumber"},
		{"no place", with("INSERT_BEFORE", "ADD"), "spec.configPatches[0].patch.operation", `ADD beside "envoy.filters.http.router"`},
		{"a change of another filter", with("INSERT_BEFORE", "MERGE"), "spec.configPatches[0].patch.operation", "MERGE"},
		{"a class", with("INSERT_BEFORE", "INSERT_BEFORE, filterClass: AUTHZ"), "spec.configPatches[0].patch.filterClass", "INSERT_BEFORE"},
		{"a disabled filter", with("name: hello", "name: hello, disabled: true"), "spec.configPatches[0].patch.value.disabled", "no such setting"},
		{"capabilities", plugin("capability_restriction_config: {allowed_capabilities: {a: {}}}"), "spec.configPatches[0].patch.value.typed_config.config.capability_restriction_config", "no such setting"},
		{"an unknown policy", plugin("failure_policy: MAYBE"), "spec.configPatches[0].patch.value.typed_config.config.failure_policy", `"MAYBE"`},
		{"another runtime", vm("runtime: envoy.wasm.runtime.wamr"), "spec.configPatches[0].patch.value.typed_config.config.vm_config.runtime", "wamr"},
		{"a configuration of the VM", vm("configuration: {'@type': a}"), "spec.configPatches[0].patch.value.typed_config.config.vm_config.configuration", "no such setting"},
		{"a variable of Istio's", vm("environment_variables: {key_values: {ISTIO_META_A: b}}"), "environment_variables.key_values", "ISTIO_META_A"},
		{"a text where there is none", vm("code: text"), "spec.configPatches[0].patch.value.typed_config.config.vm_config.code", "no object"},
		{"a configuration of an unknown type", plugin("configuration: {'@type': type.googleapis.com/a.B}"), "spec.filter.config", "a.B"},
		{"a reference without its configuration", inserted("SIDECAR_INBOUND", `{name: hello, config_discovery: {type_urls: [`+wasmType+`]}}`), "config_discovery", "in no patch of this object"},
		{"a configuration without reference", "configPatches: [{applyTo: EXTENSION_CONFIG, patch: {operation: ADD, value: " + wasmValue + "}}]", "spec.configPatches[0].patch.value", `refers to "hello"`},
		{"ports of all traffic", with(inbound+", listener: {", "context: ANY, listener: {portNumber: 80, "), "spec.filter.ports", "another on outbound"},
		{"a reference to a ServiceEntry", "targetRefs: [{kind: ServiceEntry, group: networking.istio.io, name: a}]\n" + strings.Replace(inserted("SIDECAR_INBOUND", wasmValue), "workloadSelector: {labels: {app: details}}\n", "", 1), "spec.targetRefs[0]", "ServiceEntry a"},
		{"no workload", with("app: details", "app: none"), "", "reaches the pods of no workload"},
		{"a file", from("local: {filename: /etc/hello.wasm}"), "", "the file /etc/hello.wasm of the proxy: name the image with --image hello=IMAGE"},
		{"a module inside", from("local: {inline_bytes: AAAA}"), "", "inside the object"},
		{"a URL without digest", from("remote: {http_uri: {uri: 'http://a/b.wasm'}}"), "", "set its sha256 in the object"},
		{"no module", from(""), "", "does not say where the module comes from"},
		{"no root id that anything lists", with("root_id: root,", ""), "", "the root id of the plugin is empty"},
		{"a priority out of bounds", inserted("SIDECAR_INBOUND", wasmValue) + "priority: 2000\n", "spec.priority", "-2000"},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := NewWithT(t)
			s := stepOf(t, objectFrom(t, wasmev1.OutputEnvoyFilter, "hello", row.spec), bookinfo())
			g.Expect(s.Err).To(MatchError(And(ContainSubstring(row.field), ContainSubstring(row.says))))
		})
	}
	t.Run("an object of another program", func(t *testing.T) {
		object := objectFrom(t, wasmev1.OutputEnvoyFilter, "hello", inserted("SIDECAR_INBOUND", wasmValue))
		object.SetOwnerReferences([]metav1.OwnerReference{{Kind: "Gateway", Name: "g", UID: "7", Controller: new(true)}})
		NewWithT(t).Expect(stepOf(t, object, bookinfo()).Err).To(MatchError(ContainSubstring("Gateway g made it")))
	})
}

func TestWhatReplacesAWasmPlugin(t *testing.T) {
	everything := `deployment:
  istio:
    kind: Deployment
    labels:
      app: details
    output: WasmPlugin
filter:
`
	for _, row := range []struct{ name, spec, want string }{
		{"with everything", `{selector: {matchLabels: {app: details}}, url: 'oci://registry.test/hello:v1', sha256: ` + cachedDigest + `, imagePullSecret: registry, imagePullPolicy: IfNotPresent,
  pluginName: root, pluginConfig: {a: {b: [1]}}, phase: AUTHZ, priority: 10, failStrategy: FAIL_OPEN, type: HTTP,
  vmConfig: {env: [{name: A, value: a}, {name: HOME, valueFrom: HOST}]}, match: [{mode: SERVER, ports: [{number: 9080}, {number: 80}]}]}`, everything + `  config:
    a:
      b:
      - 1
  failStrategy: FailOpen
  image: registry.test/hello@sha256:` + cachedDigest + `
  imagePullOptions:
    pullSecret: registry
  imagePullPolicy: IfNotPresent
  patchContext: inbound
  ports:
  - 80
  - 9080
  position:
    phase: Authz
  priority: 10
  rootID: root
  vm:
    env:
    - name: A
      value: a
    - name: HOME
      valueFrom:
        host: {}
`},
		{"with little", `{selector: {matchLabels: {app: details}}, url: registry.test/hello:v1, pluginConfig: {}}`, everything + "  failStrategy: FailClosed\n  image: registry.test/hello:v1\n  patchContext: any\n"},
		{"with a URL", `{selector: {matchLabels: {app: details}}, url: 'https://modules/hello.wasm', imagePullPolicy: IfNotPresent, sha256: ` + cachedDigest + `, pluginName: root, match: [{mode: CLIENT}]}`,
			everything + "  failStrategy: FailClosed\n  patchContext: outbound\n  rootID: root\n  sha256: " + cachedDigest + "\n  url: https://modules/hello.wasm\n"},
		{"with selectors of all traffic", `{selector: {matchLabels: {app: details}}, url: registry.test/hello:v1, match: [{mode: CLIENT}, {mode: SERVER}]}`,
			everything + "  failStrategy: FailClosed\n  image: registry.test/hello:v1\n  patchContext: any\n"},
		{"with targetRefs", `{targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: gw}, {kind: Service, group: core, name: s}], url: registry.test/hello:v1, match: [{mode: SERVER}]}`, `deployment:
  istio:
    output: WasmPlugin
    targetRefs:
    - group: gateway.networking.k8s.io
      kind: Gateway
      name: gw
    - kind: Service
      name: s
filter:
  failStrategy: FailClosed
  image: registry.test/hello:v1
  patchContext: inbound
`},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := NewWithT(t)
			s := stepOf(t, objectFrom(t, wasmev1.OutputWasmPlugin, "hello", row.spec), bookinfo())
			g.Expect(s.Err).NotTo(HaveOccurred())
			g.Expect(s.FilterDeployments).To(HaveLen(1))
			g.Expect(specOf(t, s.FilterDeployments[0])).To(Equal(row.want))
		})
	}
	for _, row := range []struct{ name, spec, says string }{
		{"is refused for TCP", `{selector: {matchLabels: {app: details}}, url: registry.test/a:v1, type: NETWORK}`, "spec.type: NETWORK"},
		{"is refused with ports of one kind of traffic only", `{selector: {matchLabels: {app: details}}, url: registry.test/a:v1, match: [{mode: CLIENT}, {mode: SERVER, ports: [{number: 80}]}]}`, "spec.match: "},
		{"is refused when it cannot be read", `{url: 7}`, "spec: it cannot be read"},
		{"is refused with a scheme that is not known", `{selector: {matchLabels: {app: details}}, url: 'ftp://a/b'}`, "ftp://a/b, which the operator cannot fetch"},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := stepOf(t, objectFrom(t, wasmev1.OutputWasmPlugin, "hello", row.spec), bookinfo())
			NewWithT(t).Expect(s.Err).To(MatchError(ContainSubstring(row.says)))
		})
	}
}

// byWasme is an EnvoyFilter of `wasme deploy istio` for a workload.
func byWasme(t *testing.T, name, app, digest string) istio.Output {
	t.Helper()
	made := predecessor.Filter{ID: "hello.n", RootID: "root", Configuration: "world", App: app, SHA256: digest}
	return objectFrom(t, wasmev1.OutputEnvoyFilter, name, made.EnvoyFilter())
}

func TestWhatReplacesWasmesOwn(t *testing.T) {
	found := func() *Inventory {
		return &Inventory{
			Objects:   []istio.Output{byWasme(t, "details-v1-hello.n", "details", cachedDigest), byWasme(t, "reviews-v1-hello.n", "reviews", cachedDigest)},
			Workloads: bookinfo(), CachedImages: []string{"registry.test/hello:v1", "registry.test/other:v1"},
		}
	}
	t.Run("asks for the image, and names those that were deployed", func(t *testing.T) {
		g := NewWithT(t)
		steps, _ := Plan(found(), Images{})
		g.Expect(steps).To(HaveLen(1))
		g.Expect(steps[0].Err).To(MatchError("the module is the file /var/local/lib/wasme-cache/" + cachedDigest + " of the proxy: name the image with --image hello=IMAGE; wasme deployed registry.test/hello:v1, registry.test/other:v1"))
		g.Expect(steps[0].FilterDeployments[0].Name).To(Equal("hello"))
	})
	t.Run("is one FilterDeployment for all workloads, which keeps the digest", func(t *testing.T) {
		g := NewWithT(t)
		steps, unused := Plan(found(), Images{Of: map[string]string{"hello": "registry.test/hello:v1"}, Pull: wasmev1.ImagePullOptions{PullSecret: "registry"}})
		g.Expect(unused).To(BeEmpty())
		g.Expect(steps).To(HaveLen(1))
		s := steps[0]
		g.Expect(s.Err).NotTo(HaveOccurred())
		g.Expect(s.Differs).To(BeFalse())
		g.Expect(s.Notes).To(ConsistOf(ContainSubstring("no current proxy runs it")))
		g.Expect(s.Objects).To(HaveLen(2))
		g.Expect(s.FilterDeployments[0].Annotations[ReplacesAnnotation]).To(Equal("EnvoyFilter/details-v1-hello.n,EnvoyFilter/reviews-v1-hello.n"))
		g.Expect(specOf(t, s.FilterDeployments[0])).To(Equal(`deployment:
  istio:
    kind: Deployment
    selector: {}
filter:
  config: world
  id: hello
  image: registry.test/hello:v1
  imagePullOptions:
    pullSecret: registry
  patchContext: inbound
  rootID: root
  sha256: ` + cachedDigest + "\n"))
	})
	t.Run("is several for different modules", func(t *testing.T) {
		g := NewWithT(t)
		i := found()
		i.Objects[1] = byWasme(t, "reviews-v1-hello.n", "reviews", otherDigest)
		steps, unused := Plan(i, Images{Of: map[string]string{"details-v1-hello.n": "registry.test/hello:v1", "n/envoyfilter/reviews-v1-hello.n": "registry.test/hello:v2", "none": "registry.test/a:v1"}})
		g.Expect(unused).To(Equal([]string{"none"}))
		g.Expect(steps).To(HaveLen(2))
		g.Expect(steps[1].FilterDeployments[0].Name).To(Equal("hello-migrated"))
		g.Expect(steps[1].FilterDeployments[0].Spec.Filter.Image).To(Equal("registry.test/hello:v2"))
	})
	t.Run("is nothing without the workload", func(t *testing.T) {
		g := NewWithT(t)
		i := found()
		i.Workloads = i.Workloads[:1]
		steps, _ := Plan(i, Images{Of: map[string]string{"details-v1-hello.n": "registry.test/hello:v1"}})
		g.Expect(steps).To(HaveLen(2))
		g.Expect(steps[1].Err).To(MatchError(ContainSubstring("the workload reviews-v1, which does not exist: delete it with kubectl delete envoyfilter reviews-v1-hello.n -n n")))
	})
	t.Run("resumes an interrupted migration", func(t *testing.T) {
		g := NewWithT(t)
		i := found()
		steps, _ := Plan(i, Images{Of: map[string]string{"hello": "registry.test/hello:v1"}})
		made := steps[0].FilterDeployments[0]
		i.FilterDeployments = []wasmev1.FilterDeployment{*made}
		again, _ := Plan(i, Images{Of: map[string]string{"hello": "registry.test/hello:v2"}})
		g.Expect(again[0].Kept).To(BeFalse())
		g.Expect(again[0].FilterDeployments[0].Name).To(Equal("hello"))
		g.Expect(again[0].FilterDeployments[0].Spec.Filter.Image).To(Equal("registry.test/hello:v2"), "the user may have named the wrong one")

		i.Objects = i.Objects[1:]
		last, _ := Plan(i, Images{Of: map[string]string{"hello": "registry.test/hello:v2"}})
		g.Expect(last[0].Kept).To(BeTrue())
		g.Expect(last[0].FilterDeployments).To(Equal([]*wasmev1.FilterDeployment{made}), "one for fewer workloads would take the filter from the others")
	})
	t.Run("has another name than a FilterDeployment that is there", func(t *testing.T) {
		i := found()
		i.FilterDeployments = []wasmev1.FilterDeployment{{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "hello"}}}
		steps, _ := Plan(i, Images{Of: map[string]string{"details-v1-hello.n": "registry.test/hello:v1"}})
		NewWithT(t).Expect(steps[0].FilterDeployments[0].Name).To(Equal("hello-migrated"))
	})
}

func TestWorkloadsThatAreReached(t *testing.T) {
	pod := func(name string, labels map[string]string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: name, Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "istio-proxy"}}}}
	}
	owned := func(p *corev1.Pod, deployment string) *corev1.Pod {
		p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "ISTIO_META_OWNER", Value: "kubernetes://apis/apps/v1/namespaces/n/deployments/" + deployment}}
		return p
	}
	statefulSet := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "db", Labels: labelled("details")}}
	statefulSet.Spec.Template.Labels = labelled("details")
	differently := deploymentNamed("details-v2", map[string]string{"app": "details", "version": "v2"})
	differently.Labels = labelled("other")
	for _, row := range []struct {
		name, selector, match string
		workloads             []workload.Object
		pods                  []*corev1.Pod
		want                  []string
		differs               string
	}{
		{"are all without a selector", "", "", bookinfo(), nil, []string{"Deployment {} inbound: details-v1, reviews-v1"}, ""},
		{"are of several kinds", "app: details", "", append(bookinfo(), statefulSet), nil, []string{"Deployment app=details inbound: details-v1, db", "StatefulSet app=details inbound: details-v1, db"}, ""},
		{"are selected by a label of their own where their pods' labels say something else", "version: v2", "", append(bookinfo(), differently), nil, []string{"Deployment app=other inbound: details-v2"}, ""},
		{"are selected by several values of a label", "app: details", "", []workload.Object{deploymentNamed("a", labelled("a")), withPods(deploymentNamed("b", labelled("b")), labelled("details")), withPods(deploymentNamed("c", labelled("c")), labelled("details"))}, nil, []string{"Deployment app in (b,c) inbound: b, c"}, ""},
		{"cannot be told from others with the same labels", "app: details", "", []workload.Object{withPods(deploymentNamed("a", labelled("x")), labelled("other")), withPods(deploymentNamed("b", labelled("x")), labelled("details"))}, nil, []string{"Deployment app=x inbound: b"}, "a would get the filter, too"},
		{"have pods with labels that injection added", "canonical: details", "", bookinfo(), []*corev1.Pod{owned(pod("details-1", map[string]string{"canonical": "details"}), "details-v1")}, []string{"Deployment app=details inbound: details-v1"}, ""},
		{"have older pods with other labels", "app: details", "", bookinfo(), []*corev1.Pod{owned(pod("details-0", labelled("old")), "details-v1")}, []string{"Deployment app=details inbound: details-v1"}, "the pods details-0 have other labels"},
		{"leave out pods of no workload", "app: details", "", bookinfo(), []*corev1.Pod{pod("job-1", labelled("details"))}, []string{"Deployment app=details inbound: details-v1"}, "the pods job-1 belong to no Deployment"},
		{"are gateways where only these have the traffic", "istio: ingress", "CLIENT", append(bookinfo(), gateway("ingress", map[string]string{"istio": "ingress"})), nil, []string{"Deployment istio=ingress gateway: ingress"}, ""},
		{"are gateways where all of their traffic is meant", "istio: ingress", "CLIENT_AND_SERVER", append(bookinfo(), gateway("ingress", map[string]string{"istio": "ingress"})), nil, []string{"Deployment istio=ingress gateway: ingress"}, ""},
		{"are no gateways where these have no such traffic", "", "", append(bookinfo(), gateway("ingress", labelled("ingress"))), nil, []string{"Deployment {} inbound: details-v1, reviews-v1"}, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := NewWithT(t)
			mode := row.match
			if mode == "" {
				mode = "SERVER"
			}
			object := objectFrom(t, wasmev1.OutputWasmPlugin, "hello", `{selector: {matchLabels: {`+row.selector+`}}, url: registry.test/hello:v1, match: [{mode: `+mode+`}]}`)
			steps, _ := Plan(&Inventory{Objects: []istio.Output{object}, Workloads: row.workloads, Pods: row.pods, RootNamespace: "root"}, Images{})
			g.Expect(steps).To(HaveLen(1))
			g.Expect(steps[0].Err).NotTo(HaveOccurred())
			var got []string
			for _, fd := range steps[0].FilterDeployments {
				selection, err := workload.SelectionOf(fd)
				g.Expect(err).NotTo(HaveOccurred())
				selector := selection.Selector.String()
				if selection.Selector.Empty() {
					selector = "{}"
				}
				got = append(got, fmt.Sprintf("%s %s %s: %s", selection.Kind.Name, selector, fd.Spec.Filter.PatchContext, strings.Join(steps[0].Workloads, ", ")))
			}
			g.Expect(got).To(Equal(row.want))
			g.Expect(steps[0].Differs).To(Equal(row.differs != ""))
			g.Expect(strings.Join(steps[0].Notes, "\n")).To(ContainSubstring(row.differs))
		})
	}
	t.Run("of other namespaces are refused", func(t *testing.T) {
		g := NewWithT(t)
		object := objectFrom(t, wasmev1.OutputWasmPlugin, "hello", `{selector: {matchLabels: {app: details}}, url: registry.test/hello:v1}`)
		other := deploymentNamed("details-v1", labelled("details"))
		other.Namespace = "m"
		for says, workloads := range map[string][]workload.Object{
			"reaches all namespaces (m/details-v1)": append(bookinfo(), other),
			"runs filters only on gateways":         bookinfo(),
		} {
			steps, _ := Plan(&Inventory{Objects: []istio.Output{object}, Workloads: workloads, RootNamespace: "n"}, Images{})
			g.Expect(steps[0].Err).To(MatchError(ContainSubstring(says)))
		}
		ingress := gateway("ingress", labelled("details"))
		steps, _ := Plan(&Inventory{Objects: []istio.Output{object}, Workloads: []workload.Object{ingress}, RootNamespace: "n"}, Images{})
		g.Expect(steps[0].Err).NotTo(HaveOccurred())
	})
}

func TestWorkloadsWhosePodsAWasmPluginCannotTellApart(t *testing.T) {
	v1 := deploymentNamed("details-v1", labelled("details"))
	v2 := deploymentNamed("details-v2", map[string]string{"app": "details", "version": "v2"})
	for _, row := range []struct {
		name, spec, refused string
	}{
		{"get an EnvoyFilter each", `{selector: {matchLabels: {app: details}}, url: registry.test/hello:v1}`, ""},
		{"are refused with a phase, which an EnvoyFilter lacks", `{selector: {matchLabels: {app: details}}, url: registry.test/hello:v1, phase: AUTHN}`, "spec.phase: only a WasmPlugin has phases, but with one for each workload the filter runs more than once on each request to 1 workloads"},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := NewWithT(t)
			s := stepOf(t, objectFrom(t, wasmev1.OutputWasmPlugin, "hello", row.spec), []workload.Object{v1, v2})
			if row.refused != "" {
				g.Expect(s.Err).To(MatchError(ContainSubstring(row.refused)))
				return
			}
			g.Expect(s.Err).NotTo(HaveOccurred())
			g.Expect(s.FilterDeployments[0].Spec.Deployment.Istio.Output).To(BeEmpty())
			g.Expect(s.Notes).To(ConsistOf(ContainSubstring("its output is an EnvoyFilter")))
		})
	}
}

func withPods(d *appsv1.Deployment, labels map[string]string) *appsv1.Deployment {
	d.Spec.Template.Labels = labels
	return d
}

func TestOlderObjectsAreReplacedFirst(t *testing.T) {
	g := NewWithT(t)
	older := objectFrom(t, wasmev1.OutputWasmPlugin, "z", `{url: registry.test/hello:v1}`)
	younger := objectFrom(t, wasmev1.OutputWasmPlugin, "a", `{url: registry.test/hello:v1}`)
	younger.SetCreationTimestamp(metav1.NewTime(older.GetCreationTimestamp().Add(time.Minute)))
	younger.SetLabels(map[string]string{"app.kubernetes.io/managed-by": "Helm"})
	steps, _ := Plan(&Inventory{Objects: []istio.Output{younger, older}, Workloads: bookinfo()}, Images{})
	g.Expect(steps).To(HaveLen(2))
	g.Expect(steps[0].FilterDeployments[0].Name).To(Equal("z"))
	g.Expect(steps[1].Notes).To(ConsistOf("Helm put it there and may put it back: remove it there, too"))
}

func TestAnnotationsOfWasme(t *testing.T) {
	const volume, mount = "sidecar.istio.io/userVolume", "sidecar.istio.io/userVolumeMount"
	ours := `[{\"name\":\"cache-dir\",\"hostPath\":{\"path\":\"/var/local/lib/wasme-cache\"}}]`
	for _, row := range []struct {
		name         string
		before, want map[string]string
	}{
		{"are removed", map[string]string{volume: ours, mount: ours, "a": "b"}, map[string]string{"a": "b"}},
		{"give way to what was there before", map[string]string{volume: ours, mount: ours, backupPrefix + volume: "[]"}, map[string]string{volume: "[]"}},
		{"give way to nothing where the backup is wasme's own", map[string]string{volume: ours, backupPrefix + volume: ours}, map[string]string{}},
		{"are not someone else's", map[string]string{volume: "[]", backupPrefix + mount: "[]"}, map[string]string{volume: "[]", backupPrefix + mount: "[]"}},
		{"may be none", nil, nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := NewWithT(t)
			got, changed := Cleaned(row.before)
			g.Expect(got).To(Equal(row.want))
			g.Expect(changed).To(Equal(len(row.before) != len(row.want)))
		})
	}
	NewWithT(t).Expect(ImagesIn(&corev1.ConfigMap{Data: map[string]string{"images": "a:v1\nb:v2\n"}})).To(Equal([]string{"a:v1", "b:v2"}))
}

// Anyone who can write an object can have it read.
func FuzzPlan(f *testing.F) {
	f.Add([]byte(`{"configPatches": [{"applyTo": "HTTP_FILTER", "patch": {"operation": "INSERT_FIRST", "value": {"name": "envoy.filters.http.wasm", "config": {"config": {"configuration": "a", "vmConfig": {"code": {"local": {"filename": "/a"}}}}}}}}]}`))
	f.Add([]byte(`{"selector": {"matchLabels": {"app": "details"}}, "url": "oci://a/b", "match": [{"ports": [{"number": 80}]}], "vmConfig": {"env": [{"name": "A"}]}}`))
	f.Fuzz(func(_ *testing.T, spec []byte) {
		for _, kind := range []wasmev1.Output{wasmev1.OutputEnvoyFilter, wasmev1.OutputWasmPlugin} {
			object := istio.Kinds[kind].New()
			object.SetNamespace("n")
			object.SetName("a")
			object.Content().Raw = spec
			Plan(&Inventory{Objects: []istio.Output{object}, Workloads: bookinfo()}, Images{Of: map[string]string{"a": "registry.test/a:v1"}})
		}
	})
}
