package build

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"istio.io/api/label"
	meshconfig "istio.io/api/mesh/v1alpha1"
	"istio.io/istio/pilot/pkg/features"
	"istio.io/istio/pilot/pkg/model"
	"istio.io/istio/pilot/test/xds"
	"istio.io/istio/pkg/config/constants"
	"istio.io/istio/pkg/config/mesh"
	"istio.io/istio/pkg/test"
	"istio.io/istio/pkg/wellknown"
)

// This file asks istiod's own code where it puts the filter of a golden: that
// covers proxies that no test machine can run, such as those behind iptables
// and waypoints.

// workload is the namespace of the goldens, with the workload that they are for.
// Its Service has ports that mean something else than the container's: 8080
// leads to 7070, and 8000 to 8080.
const workload = `
apiVersion: v1
kind: Namespace
metadata: {name: bookinfo}
---
apiVersion: v1
kind: Service
metadata: {name: details, namespace: bookinfo, labels: {istio.io/use-waypoint: details-v1}}
spec:
  clusterIP: 10.1.0.1
  selector: {app: details}
  ports:
  - {name: http-a, port: 8000, targetPort: 8080}
  - {name: http-b, port: 8080, targetPort: 7070}
  - {name: http-c, port: 9090, targetPort: 9090}
---
apiVersion: v1
kind: Pod
metadata: {name: details-v1-0, namespace: bookinfo, labels: {app: details, version: v1}}
spec:
  containers: [{name: app, image: a}]
status:
  phase: Running
  podIP: 10.0.0.1
  podIPs: [{ip: 10.0.0.1}]
  conditions: [{type: Ready, status: "True"}]
`

// captureNone lets the workload's sidecar bind its ports itself.
const captureNone = `
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: details, namespace: bookinfo}
spec:
  workloadSelector: {labels: {app: details}}
  ingress:
  - {bind: 10.0.0.1, port: {number: 8080, protocol: HTTP, name: a}, captureMode: NONE, defaultEndpoint: "127.0.0.1:1"}
  - {bind: 10.0.0.1, port: {number: 7070, protocol: HTTP, name: b}, captureMode: NONE, defaultEndpoint: "127.0.0.1:2"}
`

// gatewayServers give the gateway that a label selects its listeners. The ports
// are those of a Service where there is one; it listens on the container's.
func gatewayServers(label string, ports ...int) string {
	gateway := `
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: details, namespace: bookinfo}
spec:
  selector: {` + label + `}
  servers:`
	for _, port := range ports {
		gateway += fmt.Sprintf(`
  - {hosts: ["*"], port: {number: %d, protocol: HTTP, name: http-%d}}`, port, port)
	}
	return gateway
}

// waypoint is that of the Service, a Gateway of the name that the goldens use.
const waypoint = `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: details-v1, namespace: bookinfo}
spec:
  gatewayClassName: istio-waypoint
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
status:
  addresses: [{type: Hostname, value: details-v1.bookinfo.svc.cluster.local}]
---
apiVersion: v1
kind: Service
metadata:
  name: details-v1
  namespace: bookinfo
  labels: {gateway.istio.io/managed: istio.io-mesh-controller, gateway.networking.k8s.io/gateway-name: details-v1}
spec:
  clusterIP: 10.1.0.2
  ports: [{name: mesh, port: 15008, appProtocol: hbone}]
  selector: {gateway.networking.k8s.io/gateway-name: details-v1}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: waypoint, namespace: bookinfo}
spec:
  address: 10.0.0.2
  labels: {gateway.networking.k8s.io/gateway-name: details-v1}
`

// authorization puts Envoy's ext_authz into the chains of the workload.
const authorization = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: details, namespace: bookinfo}
spec:
  action: CUSTOM
  provider: {name: ext-authz}
  rules: [{to: [{operation: {paths: ["/*"]}}]}]
`

// kindOfProxy is a proxy with what makes it one.
type kindOfProxy struct {
	config string
	node   func() *model.Proxy
}

// ofWorkload is a proxy of the goldens' workload, with what injection writes into it.
func ofWorkload(nodeType model.NodeType, metadata model.NodeMetadata) *model.Proxy {
	metadata.Raw = map[string]any{
		"OWNER":      "kubernetes://apis/apps/v1/namespaces/bookinfo/deployments/details-v1",
		"CLUSTER_ID": "Kubernetes",
	}
	return &model.Proxy{
		Type: nodeType, ConfigNamespace: "bookinfo", IPAddresses: []string{"10.0.0.1"}, Metadata: &metadata,
		Labels: map[string]string{"app": "details", "version": "v1"},
	}
}

// ofGateway is a proxy of a Gateway of the Gateway API.
func ofGateway(nodeType model.NodeType, gateway, address string, more map[string]string) *model.Proxy {
	node := ofWorkload(nodeType, model.NodeMetadata{})
	delete(node.Metadata.Raw, "OWNER")
	node.IPAddresses = []string{address}
	node.Labels = map[string]string{label.IoK8sNetworkingGatewayGatewayName.Name: gateway}
	for key, value := range more {
		node.Labels[key] = value
	}
	return node
}

var (
	behindIptables = kindOfProxy{"", func() *model.Proxy { return ofWorkload(model.SidecarProxy, model.NodeMetadata{}) }}
	bindingPorts   = kindOfProxy{captureNone, func() *model.Proxy {
		return ofWorkload(model.SidecarProxy, model.NodeMetadata{InterceptionMode: model.InterceptionNone})
	}}
	// beforeTheRollout is of a pod whose template had another version label.
	beforeTheRollout = kindOfProxy{"", func() *model.Proxy {
		node := ofWorkload(model.SidecarProxy, model.NodeMetadata{})
		node.Labels["version"] = "v0"
		return node
	}}
	// ofAnotherWorkload has the labels of the goldens' workload, and is of another.
	ofAnotherWorkload = kindOfProxy{"", func() *model.Proxy {
		node := ofWorkload(model.SidecarProxy, model.NodeMetadata{})
		node.Metadata.Raw["OWNER"] = "kubernetes://apis/apps/v1/namespaces/bookinfo/deployments/details-v2"
		return node
	}}
	behindHBONE = kindOfProxy{"", func() *model.Proxy {
		return ofWorkload(model.SidecarProxy, model.NodeMetadata{EnableHBONE: true})
	}}
	gatewayByLabel = kindOfProxy{gatewayServers("app: details", 8000, 8080), func() *model.Proxy {
		return ofWorkload(model.Router, model.NodeMetadata{})
	}}
	gatewayByReference = kindOfProxy{gatewayServers(label.IoK8sNetworkingGatewayGatewayName.Name+": details-v1", 8080, 7070), func() *model.Proxy {
		return ofGateway(model.Router, "details-v1", "10.0.0.3", nil)
	}}
	otherGateway = kindOfProxy{gatewayServers(label.IoK8sNetworkingGatewayGatewayName.Name+": other", 8080, 7070), func() *model.Proxy {
		return ofGateway(model.Router, "other", "10.0.0.4", nil)
	}}
	waypointProxy     = waypointOwnedBy("details-v1")
	waypointOfAnother = waypointOwnedBy("reviews-v1")
	waypointNamedElse = waypointOwnedBy("details-waypoint")
)

// waypointOwnedBy is the Gateway's proxy in a Deployment of that name.
func waypointOwnedBy(deployment string) kindOfProxy {
	return kindOfProxy{waypoint, func() *model.Proxy {
		node := ofGateway(model.Waypoint, "details-v1", "10.0.0.2", map[string]string{label.GatewayManaged.Name: constants.ManagedGatewayMeshControllerLabel})
		node.Metadata.Raw["OWNER"] = "kubernetes://apis/apps/v1/namespaces/bookinfo/deployments/" + deployment
		return node
	}}
}

// listenersOf are the listeners that istiod gives to a proxy.
func listenersOf(t *testing.T, proxy kindOfProxy, objects ...string) []*listener.Listener {
	t.Helper()
	test.SetForTest(t, &features.EnableAmbient, true)
	test.SetForTest(t, &features.EnableSidecarHBONEListening, true)
	config := mesh.DefaultMeshConfig()
	config.ExtensionProviders = append(config.ExtensionProviders, &meshconfig.MeshConfig_ExtensionProvider{
		Name: "ext-authz",
		Provider: &meshconfig.MeshConfig_ExtensionProvider_EnvoyExtAuthzHttp{
			EnvoyExtAuthzHttp: &meshconfig.MeshConfig_ExtensionProvider_EnvoyExternalAuthorizationHttpProvider{
				Service: "details.bookinfo.svc.cluster.local", Port: 8000,
			},
		},
	})
	all := strings.Join(append(objects, workload, proxy.config), "\n---\n")
	istiod := xds.NewFakeDiscoveryServer(t, xds.FakeOptions{ConfigString: all, KubernetesObjectString: all, MeshConfig: config})
	return istiod.Listeners(istiod.SetupProxy(proxy.node()))
}

// chain is an HTTP filter chain: the listener's name and the port that it
// matches, if any, and the names of its filters.
type chain struct {
	place   string
	filters []string
}

func chainsOf(t *testing.T, listeners []*listener.Listener) []chain {
	t.Helper()
	var chains []chain
	for _, l := range listeners {
		for _, c := range append(l.GetFilterChains(), l.GetDefaultFilterChain()) {
			for _, filter := range c.GetFilters() {
				if filter.GetName() != wellknown.HTTPConnectionManager {
					continue
				}
				var manager hcm.HttpConnectionManager
				if err := filter.GetTypedConfig().UnmarshalTo(&manager); err != nil {
					t.Fatal(err)
				}
				found := chain{place: l.GetName()}
				if port := c.GetFilterChainMatch().GetDestinationPort().GetValue(); port != 0 {
					found.place = fmt.Sprintf("%s→%d", l.GetName(), port)
				}
				for _, httpFilter := range manager.GetHttpFilters() {
					found.filters = append(found.filters, httpFilter.GetName())
				}
				chains = append(chains, found)
			}
		}
	}
	return chains
}

// golden is the object of a golden file.
func golden(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(filepath.Dir(goldens), name+".out.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// owner is the FilterDeployment of the goldens.
const owner = "bookinfo-custom-filter"

// as is a golden made for a FilterDeployment of another name.
func as(filterDeployment, golden string) string {
	return strings.ReplaceAll(golden, owner, filterDeployment)
}

// isOf reports whether an HTTP filter is that of a FilterDeployment.
func isOf(filterDeployment string) func(string) bool {
	return func(name string) bool {
		return strings.HasPrefix(name, "bookinfo/"+filterDeployment+"/") ||
			strings.HasPrefix(name, model.TrafficExtensionResourceNamePrefix+"bookinfo.") && strings.Contains(name, "-"+filterDeployment+".")
	}
}

func TestIstiodPutsTheFilterWhereItBelongs(t *testing.T) {
	const virtualInbound, mainInternal = "virtualInbound", "main_internal"
	everyInbound := []string{"virtualInbound", "virtualInbound→7070", "virtualInbound→8080", "virtualInbound→9090"}
	everyOutbound := []string{"0.0.0.0_8000", "0.0.0.0_8080", "0.0.0.0_9090"}
	everyInboundOfHBONE := slices.Concat([]string{mainInternal, mainInternal + "→7070", mainInternal + "→8080", mainInternal + "→9090"}, everyInbound)
	for name, tc := range map[string]struct {
		goldens []string
		proxy   kindOfProxy
		want    []string
	}{
		"inbound": {
			[]string{"inbound-failreload", "wasmplugin-inbound", "trafficextension-inbound"}, behindIptables, everyInbound,
		},
		"inbound, other position": {
			[]string{"position-first", "position-after"}, behindIptables, everyInbound,
		},
		"inbound, by port": {
			[]string{"ports-inbound", "wasmplugin-ports-inbound", "trafficextension-ports-inbound"}, behindIptables,
			[]string{virtualInbound + "→8080", virtualInbound + "→9090"},
		},
		"inbound, by port, first": {[]string{"position-first-ports"}, behindIptables, []string{virtualInbound + "→8080"}},
		"inbound, by port, without iptables": {
			[]string{"ports-inbound", "wasmplugin-ports-inbound", "trafficextension-ports-inbound"}, bindingPorts,
			[]string{"10.0.0.1_8080→8080"},
		},
		"inbound, HBONE": {
			[]string{"inbound-failreload", "position-first", "position-after", "wasmplugin-inbound", "trafficextension-inbound"}, behindHBONE,
			everyInboundOfHBONE,
		},
		"all traffic, HBONE": {[]string{"any-failreload"}, behindHBONE, slices.Concat(everyOutbound, everyInboundOfHBONE)},
		"inbound, in a pod from before the rollout": {
			[]string{"selector-of-some-labels", "selector-without-labels", "wasmplugin-selector-of-some-labels", "trafficextension-selector-of-some-labels"}, beforeTheRollout, everyInbound,
		},
		"inbound, in a pod of another workload": {[]string{"inbound-failreload", "selector-of-some-labels", "selector-without-labels"}, ofAnotherWorkload, nil},
		"inbound, by port, HBONE": {
			[]string{"ports-inbound", "wasmplugin-ports-inbound", "trafficextension-ports-inbound"}, behindHBONE,
			[]string{mainInternal + "→8080", mainInternal + "→9090", virtualInbound + "→8080", virtualInbound + "→9090"},
		},
		"outbound": {
			[]string{"outbound-failreload", "wasmplugin-outbound", "trafficextension-outbound"}, behindIptables, everyOutbound,
		},
		"outbound, by port": {
			[]string{"ports-outbound", "wasmplugin-ports-outbound", "trafficextension-ports-outbound"}, behindIptables,
			[]string{"0.0.0.0_8080", "0.0.0.0_9090"},
		},
		"gateway": {
			[]string{"gateway-failreload", "wasmplugin-gateway", "trafficextension-gateway"}, gatewayByLabel,
			[]string{"0.0.0.0_7070", "0.0.0.0_8080"},
		},
		"gateway, by port": {
			[]string{"ports-gateway", "wasmplugin-ports-gateway", "trafficextension-ports-gateway"}, gatewayByLabel,
			[]string{"0.0.0.0_8080"},
		},
		"gateway, by reference": {
			[]string{"targetref-gateway", "wasmplugin-targetref-gateway", "trafficextension-targetref-gateway"}, gatewayByReference,
			[]string{"0.0.0.0_7070", "0.0.0.0_8080"},
		},
		"gateway, by reference and port": {
			[]string{"targetref-gateway-ports", "wasmplugin-targetref-gateway-ports", "trafficextension-targetref-gateway-ports"}, gatewayByReference,
			[]string{"0.0.0.0_8080"},
		},
		"gateway's filter in another gateway":        {[]string{"targetref-gateway", "targetref-gateway-ports", "wasmplugin-targetref-gateway"}, otherGateway, nil},
		"gateway's filter of the root namespace":     {[]string{"targetref-gateway-root-namespace"}, gatewayByReference, nil},
		"waypoint, EnvoyFilter":                      {[]string{"targetref-waypoint"}, waypointProxy, []string{mainInternal}},
		"waypoint, its Deployment has another name":  {[]string{"targetref-waypoint-name-override"}, waypointNamedElse, []string{mainInternal}},
		"waypoint's filter in the Deployment's name": {[]string{"targetref-waypoint-name-override"}, waypointProxy, nil},
		"waypoint's filter in another waypoint":      {[]string{"targetref-waypoint"}, waypointOfAnother, nil},
		"waypoint's EnvoyFilter in a sidecar":        {[]string{"targetref-waypoint", "targetref-waypoint-name-override"}, behindHBONE, nil},
		"waypoint's EnvoyFilter in a gateway":        {[]string{"targetref-waypoint"}, gatewayByReference, nil},
		"gateway's filter in a sidecar":              {[]string{"gateway-failreload", "targetref-gateway", "wasmplugin-targetref-gateway"}, behindIptables, nil},
		"sidecar's filter in a gateway":              {[]string{"inbound-failreload", "outbound-failreload", "wasmplugin-inbound"}, gatewayByLabel, nil},
		"gateway's filter in a waypoint":             {[]string{"targetref-gateway", "wasmplugin-targetref-gateway"}, waypointProxy, nil},
		"waypoint": {
			[]string{"wasmplugin-targetref-waypoint", "trafficextension-targetref-waypoint", "wasmplugin-targetref-service", "trafficextension-targetref-service"}, waypointProxy,
			[]string{mainInternal},
		},
		"waypoint's filter in a gateway": {[]string{"wasmplugin-targetref-waypoint", "wasmplugin-targetref-service"}, gatewayByReference, nil},
		"anchor that is not there":       {[]string{"position-before"}, behindIptables, nil},
	} {
		for _, file := range tc.goldens {
			t.Run(name+"/"+file, func(t *testing.T) {
				var got []string
				for _, c := range chainsOf(t, listenersOf(t, tc.proxy, golden(t, file))) {
					if slices.ContainsFunc(c.filters, isOf(owner)) {
						got = append(got, c.place)
					}
				}
				slices.Sort(got)
				if got = slices.Compact(got); !slices.Equal(got, tc.want) {
					t.Errorf("in %q, not %q", got, tc.want)
				}
			})
		}
	}
}

// istiod of Istio 1.25 and 1.26 does not read the targetRefs of an EnvoyFilter
// (getMatchedEnvoyFilters), which then is like one that selects all proxies of its
// namespace. The filter still reaches no other proxy.
func TestEnvoyFiltersNeedNoTargetRefsToSpareOthers(t *testing.T) {
	for _, file := range []string{"targetref-gateway", "targetref-gateway-ports", "targetref-waypoint-name-override"} {
		for name, proxy := range map[string]kindOfProxy{"sidecar": behindHBONE, "gateway by label": gatewayByLabel, "other gateway": otherGateway} {
			t.Run(file+"/"+name, func(t *testing.T) {
				text, _, _ := strings.Cut(golden(t, file), "  targetRefs:")
				for _, c := range chainsOf(t, listenersOf(t, proxy, text)) {
					if slices.ContainsFunc(c.filters, isOf(owner)) {
						t.Errorf("in %s", c.place)
					}
				}
			})
		}
	}
}

// Each runs twice, so that neither age nor name decides by chance.
func TestHigherPrioritiesRunEarlier(t *testing.T) {
	for name, tc := range map[string]struct{ high, low string }{
		"right before the router": {"priority-10", "priority-minus-10"},
		"negative":                {"defaults", "priority-minus-10"},
		"first":                   {"position-first-priority", "position-first"},
		"before a filter":         {"position-before-priority", "position-before"},
		"after a filter":          {"position-after-priority", "position-after"},
		"WasmPlugin":              {"wasmplugin-priority-10", "wasmplugin-priority-minus-10"},
		"TrafficExtension":        {"trafficextension-priority-10", "trafficextension-inbound"},
	} {
		for _, names := range [][2]string{{"a", "z"}, {"z", "a"}} {
			t.Run(name+"/"+names[0], func(t *testing.T) {
				high, low := as(names[0], golden(t, tc.high)), as(names[1], golden(t, tc.low))
				for _, c := range servingChains(t, high, low, authorization) {
					first, second := slices.IndexFunc(c.filters, isOf(names[0])), slices.IndexFunc(c.filters, isOf(names[1]))
					if first < 0 || second < 0 || first > second {
						t.Errorf("%s: %q", c.place, c.filters)
					}
				}
			})
		}
	}
}

func TestPositionsAreThoseBesideTheirAnchors(t *testing.T) {
	const extAuthz, grpcStats, cors, router = "envoy.filters.http.ext_authz", "envoy.filters.http.grpc_stats", "envoy.filters.http.cors", "envoy.filters.http.router"
	for file, want := range map[string]struct {
		anchor string
		// distance is -1 right before the anchor and 1 right after it.
		distance int
	}{
		"defaults":                     {router, -1},
		"position-before":              {extAuthz, -1},
		"position-after":               {cors, 1},
		"wasmplugin-phase-authn":       {extAuthz, 1},
		"trafficextension-phase-authn": {extAuthz, 1},
		"wasmplugin-phase-stats":       {grpcStats, -1},
		"trafficextension-phase-stats": {grpcStats, -1},
		"wasmplugin-inbound":           {grpcStats, -1},
		"trafficextension-inbound":     {grpcStats, -1},
	} {
		t.Run(file, func(t *testing.T) {
			for _, c := range servingChains(t, golden(t, file), authorization) {
				anchor, at := slices.Index(c.filters, want.anchor), slices.IndexFunc(c.filters, isOf(owner))
				if anchor < 0 || at != anchor+want.distance {
					t.Errorf("%s: %q", c.place, c.filters)
				}
			}
		})
	}
}

// othersFilter is an EnvoyFilter of another team, which adds a filter.
func othersFilter(name string) string {
	return `
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: ` + name + `, namespace: bookinfo}
spec:
  configPatches:
  - applyTo: HTTP_FILTER
    match:
      context: SIDECAR_INBOUND
      listener: {filterChain: {filter: {name: envoy.filters.network.http_connection_manager, subFilter: {name: envoy.filters.http.router}}}}
    patch: {operation: INSERT_BEFORE, value: {name: acme.limiter, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer, max_request_bytes: 1}}}
`
}

// The names decide which of two EnvoyFilters of the same age is applied first.
func TestAnAnchorMayComeFromAYoungerEnvoyFilter(t *testing.T) {
	for file, anchor := range map[string]struct {
		name     string
		distance int
	}{
		"position-before": {"envoy.filters.http.ext_authz", -1},
		"position-after":  {"envoy.filters.http.cors", 1},
	} {
		for _, name := range []string{"a", "z"} {
			t.Run(file+"/"+name, func(t *testing.T) {
				ours := strings.ReplaceAll(golden(t, file), anchor.name, "acme.limiter")
				for _, c := range servingChains(t, ours, othersFilter(name)) {
					theirs, at := slices.Index(c.filters, "acme.limiter"), slices.IndexFunc(c.filters, isOf(owner))
					if theirs < 0 || at != theirs+anchor.distance {
						t.Errorf("%s: %q", c.place, c.filters)
					}
				}
			})
		}
	}
}

func TestFirstIsBeforeAllOthers(t *testing.T) {
	for _, c := range servingChains(t, golden(t, "position-first"), authorization) {
		if slices.IndexFunc(c.filters, isOf(owner)) != 0 {
			t.Errorf("%s: %q", c.place, c.filters)
		}
	}
}

// servingChains are those of the workload's inbound traffic, of which there is
// one at least.
func servingChains(t *testing.T, objects ...string) []chain {
	t.Helper()
	var serving []chain
	for _, c := range chainsOf(t, listenersOf(t, behindIptables, objects...)) {
		if strings.HasPrefix(c.place, "virtualInbound→") {
			serving = append(serving, c)
		}
	}
	if len(serving) == 0 {
		t.Fatal("no chain serves inbound traffic")
	}
	return serving
}
