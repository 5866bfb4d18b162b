package doctor

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"github.com/onsi/gomega/types"
	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/version"
	"sigs.k8s.io/yaml"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

const root = "../../../"

// read reads a manifest of this repository.
func read(t *testing.T, path string, into any) {
	t.Helper()
	content, err := os.ReadFile(root + path)
	if err == nil {
		err = yaml.Unmarshal(content, into)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// saying matches a finding by its status and a piece of its line.
func saying(status Status, text string) types.GomegaMatcher {
	return And(HaveField("Status", status), WithTransform(Finding.String, ContainSubstring(text)))
}

func TestVersionOfTheAPIServer(t *testing.T) {
	for given, want := range map[string]types.GomegaMatcher{
		"v1.30.0":             saying(OK, "Kubernetes v1.30.0"),
		"v1.37.1-eks-1234567": saying(OK, "v1.37.1-eks"),
		"v1.29.14":            saying(Fail, "v1.29.14 is older than 1.30, which the operator needs: update the cluster"),
		"unreadable":          saying(NotChecked, `"unreadable"`),
	} {
		t.Run(given, func(t *testing.T) { NewWithT(t).Expect(Server(given)).To(want) })
	}
}

func TestClocks(t *testing.T) {
	for _, row := range []struct {
		offset, within time.Duration
		want           types.GomegaMatcher
	}{
		{0, time.Second, saying(OK, "agree within 1s")},
		{-4 * time.Second, time.Second, saying(OK, "agree within 4s")},
		{6 * time.Second, 2 * time.Second, saying(OK, "agree within 6s")},
		{time.Minute, time.Second, saying(Warn, "this machine is 1m0s ahead of the API server: synchronise")},
		{-time.Minute, time.Second, saying(Warn, "this machine is 1m0s behind the API server")},
	} {
		t.Run(fmt.Sprint(row.offset), func(t *testing.T) { NewWithT(t).Expect(Clock(row.offset, row.within)).To(row.want) })
	}
}

func TestRightsThatAreMissingAreNotChecked(t *testing.T) {
	g := NewWithT(t)
	right := Right{Verb: "get", Group: "apiextensions.k8s.io", Resource: "customresourcedefinitions"}
	g.Expect(Unreadable("CRD", fmt.Errorf("reading: %w", &MissingRight{right}))).To(Equal(Finding{
		"CRD", NotChecked, "the right to get customresourcedefinitions.apiextensions.k8s.io is missing", "ask for it, or have someone who has it run wasme doctor",
	}))
	g.Expect(Unreadable("CRD", errors.New("refused"))).To(saying(NotChecked, "refused"))
	g.Expect(Failed([]Finding{Unreadable("a", errors.New("b")), fail("c", "", ""), warn("d", "", "")})).To(Equal(1))
}

func TestRightsOfTheUser(t *testing.T) {
	g := NewWithT(t)
	needed := UserNeeds("bookinfo")
	g.Expect(UserRights("bookinfo", nil)).To(saying(OK, "namespace bookinfo"))
	forward := Right{Verb: "create", Resource: "pods/portforward", Namespace: "bookinfo"}
	g.Expect(needed).To(ContainElement(forward))
	g.Expect(UserRights("bookinfo", []Right{forward})).To(saying(Warn, "in namespace bookinfo you may not create pods/portforward (for wasme describe): ask for them"))
	watch := Right{Verb: "watch", Group: "wasme.io", Resource: "filterdeployments", Namespace: "bookinfo"}
	g.Expect(UserRights("bookinfo", []Right{watch})).To(saying(Warn, "you may not watch filterdeployments.wasme.io (for wasme status, deploy and rollout)"))
	g.Expect(Right{"patch", "wasme.io", "filterdeployments/status", ""}.String()).To(Equal("patch filterdeployments.wasme.io/status"))
}

// operatorOf returns the operator of config/manager.
func operatorOf(t *testing.T) Operator {
	t.Helper()
	var d appsv1.Deployment
	read(t, "config/manager/deployment.yaml", &d)
	return Operator{Kind: "Deployment", Namespace: d.Namespace, Name: d.Name, Asked: 2, Ready: 2, Pods: d.Spec.Template, Flags: map[string]string{"leader-elect": ""}}
}

func TestRightsOfTheOperatorAreThoseThatItsRolesGrant(t *testing.T) {
	g := NewWithT(t)
	var content []byte
	for _, file := range []string{"role.yaml", "policies_role.yaml"} {
		text, err := os.ReadFile(root + "config/rbac/" + file)
		g.Expect(err).NotTo(HaveOccurred())
		content = slices.Concat(content, []byte("\n---\n"), text)
	}
	var granted []Right
	for text := range strings.SplitSeq(string(content), "\n---\n") {
		var role rbacv1.ClusterRole
		g.Expect(yaml.Unmarshal([]byte(text), &role)).To(Succeed())
		for _, rule := range role.Rules {
			for _, resource := range rule.Resources {
				for _, verb := range rule.Verbs {
					granted = append(granted, Right{verb, rule.APIGroups[0], resource, role.Namespace})
				}
			}
		}
	}
	g.Expect(OperatorNeeds("wasme-system", nil)).To(ConsistOf(granted))
}

func TestRightsOfTheOperator(t *testing.T) {
	g := NewWithT(t)
	o := operatorOf(t)
	g.Expect(o.User()).To(Equal("system:serviceaccount:wasme-system:wasme-operator"))
	g.Expect(o.AccountRights(nil)).To(saying(OK, "ServiceAccount wasme-operator may do what config/rbac grants"))
	denied := OperatorNeeds("wasme-system", []string{"bookinfo"})[:5]
	g.Expect(o.AccountRights(denied)).To(saying(Fail, "may not get configmaps in namespace bookinfo, get namespaces in namespace bookinfo, get secrets in namespace bookinfo and 2 more: apply config/rbac"))
	g.Expect(OperatorNeeds("own", []string{"a", "b"})).To(ContainElements(Right{"get", "", "secrets", "b"}, Right{"get", "coordination.k8s.io", "leases", "own"}))
}

func TestCRD(t *testing.T) {
	for _, row := range []struct {
		name   string
		change func(*apiextensionsv1.CustomResourceDefinition, map[string]apiextensionsv1.JSONSchemaProps)
		want   types.GomegaMatcher
	}{
		{"of this version", nil, saying(OK, "has the fields that this wasme knows")},
		{"of an older operator", func(_ *apiextensionsv1.CustomResourceDefinition, fields map[string]apiextensionsv1.JSONSchemaProps) {
			delete(fields["filter"].Properties, "priority")
			delete(fields, "rollout")
		}, saying(Warn, "the operator is older than this wasme: its CRD has no spec.filter.priority, spec.rollout: apply config/default of a newer version")},
		{"of a newer operator", func(_ *apiextensionsv1.CustomResourceDefinition, fields map[string]apiextensionsv1.JSONSchemaProps) {
			fields["filter"].Properties["later"] = apiextensionsv1.JSONSchemaProps{Type: "string"}
		}, saying(Warn, "the operator is newer than this wasme, which does not know spec.filter.later: update wasme")},
		{"of another version", func(_ *apiextensionsv1.CustomResourceDefinition, fields map[string]apiextensionsv1.JSONSchemaProps) {
			delete(fields, "suspend")
			fields["later"] = apiextensionsv1.JSONSchemaProps{Type: "string"}
		}, saying(Warn, "its CRD has no spec.suspend, and wasme does not know spec.later")},
		{"that is not established", func(crd *apiextensionsv1.CustomResourceDefinition, _ map[string]apiextensionsv1.JSONSchemaProps) {
			crd.Status.Conditions[0].Status = apiextensionsv1.ConditionFalse
		}, saying(Fail, "is not established")},
		{"of the predecessor", func(crd *apiextensionsv1.CustomResourceDefinition, _ map[string]apiextensionsv1.JSONSchemaProps) {
			crd.Spec.Versions[0].Schema = nil
		}, saying(Fail, "is that of solo-io's wasme: it has no schema: apply config/crd")},
	} {
		t.Run(row.name, func(t *testing.T) {
			var crd apiextensionsv1.CustomResourceDefinition
			read(t, "config/crd/bases/wasme.io_filterdeployments.yaml", &crd)
			crd.Status.Conditions = []apiextensionsv1.CustomResourceDefinitionCondition{{Type: apiextensionsv1.Established, Status: apiextensionsv1.ConditionTrue}}
			if row.change != nil {
				row.change(&crd, crd.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"].Properties)
			}
			NewWithT(t).Expect(CRD(&crd)).To(row.want)
		})
	}
	NewWithT(t).Expect(CRD(nil)).To(saying(Fail, "is not there: install the operator"))
}

func TestFieldsOfTheStatusAreCompared(t *testing.T) {
	g := NewWithT(t)
	var crd apiextensionsv1.CustomResourceDefinition
	read(t, "config/crd/bases/wasme.io_filterdeployments.yaml", &crd)
	delete(crd.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["status"].Properties["conditions"].Items.Schema.Properties, "reason")
	delete(crd.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["status"].Properties["workloads"].AdditionalProperties.Schema.Properties, "state")
	g.Expect(compareFields(schemaOf(&crd))).To(saying(Warn, "its CRD has no status.conditions[].reason, status.workloads.*.state"))
}

func TestReplicas(t *testing.T) {
	for _, row := range []struct {
		asked, ready int32
		want         types.GomegaMatcher
	}{
		{2, 2, saying(OK, "Deployment wasme-system/wasme-operator: 2 of 2 replicas are Ready, image wasme-operator:dev")},
		{2, 1, saying(Warn, "1 of 2 replicas are Ready: look at kubectl describe pods -n wasme-system")},
		{1, 0, saying(Fail, "none of its 1 replica is Ready")},
		{0, 0, saying(Fail, "has 0 replicas: pods that start get no modules: kubectl scale -n wasme-system deployment wasme-operator --replicas=2")},
	} {
		t.Run(fmt.Sprintf("%d of %d", row.ready, row.asked), func(t *testing.T) {
			o := operatorOf(t)
			o.Asked, o.Ready = row.asked, row.ready
			NewWithT(t).Expect(o.Replicas()).To(row.want)
		})
	}
	NewWithT(t).Expect(NoOperator()).To(saying(Fail, "install it with kubectl apply -k config/default"))
}

func TestFlagsOfTheOperator(t *testing.T) {
	g := NewWithT(t)
	o := operatorOf(t)
	g.Expect(o.Settings()).To(saying(OK, "--cluster-id=Kubernetes --preflight=Enforce --verify-pods"))
	g.Expect(o.HealthPort()).To(BeEquivalentTo(8081))
	g.Expect(o.ServedPort()).To(Equal(Port{8082, "modules"}))
	o.Flags = map[string]string{"cluster-id": "east", "preflight": "Off", "class": "blue", "watch-namespaces": "a,b", "verify-pods": "false", "module-server-bind-address": "[::1]:9000"}
	g.Expect(o.Settings()).To(saying(Warn, "--cluster-id=east --preflight=Off --class=blue --watch-namespaces=a,b --verify-pods=false: nobody asks pods"))
	g.Expect(o.ServedPort()).To(Equal(Port{Number: 9000}))
	g.Expect(o.LeaseName()).To(Equal("wasme-operator.blue"))
	for namespace, want := range map[string]bool{"b": true, "c": false} {
		g.Expect(o.LooksAfter(&wasmev1.FilterDeployment{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Labels: map[string]string{wasmev1.ClassLabel: "blue"}}})).To(Equal(want))
	}
	g.Expect(o.LooksAfter(&wasmev1.FilterDeployment{ObjectMeta: metav1.ObjectMeta{Namespace: "b"}})).To(BeFalse())
	o.Asked = 1
	g.Expect(o.Elects()).To(BeFalse())
	g.Expect(o.WithoutElection()).To(saying(OK, "one replica"))
	o.Asked = 2
	g.Expect(o.WithoutElection()).To(saying(Fail, "2 replicas reconcile at once: add the flag --leader-elect"))
}

func TestLeader(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	lease := func(holder string, age time.Duration) *coordinationv1.Lease {
		return &coordinationv1.Lease{Spec: coordinationv1.LeaseSpec{HolderIdentity: &holder, LeaseDurationSeconds: new(int32(12)), RenewTime: &metav1.MicroTime{Time: now.Add(-age)}}}
	}
	for _, row := range []struct {
		name    string
		lease   *coordinationv1.Lease
		renewed bool
		want    types.GomegaMatcher
	}{
		{"that renews", lease("a", 2*time.Second), false, saying(OK, "a, renewed 2s ago")},
		{"a little ahead", lease("a", -2*time.Second), false, saying(OK, "a, renewed 0s ago")},
		{"that is gone", lease("a", time.Minute), false, saying(Fail, "a has not renewed its lease for 1m0s")},
		{"whose clock is behind", lease("a", time.Minute), true, saying(Warn, "the clock of a is 1m0s behind the API server's: synchronise")},
		{"whose clock is ahead", lease("a", -time.Minute), true, saying(Warn, "the clock of a is 1m0s ahead of the API server's")},
		{"that gave up", lease("", time.Second), false, saying(Fail, "no replica leads")},
		{"that never was", nil, false, saying(Fail, "no replica leads")},
	} {
		t.Run(row.name, func(t *testing.T) { NewWithT(t).Expect(operatorOf(t).Lease(row.lease, now, row.renewed)).To(row.want) })
	}
}

func TestPredecessor(t *testing.T) {
	g := NewWithT(t)
	d := appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "wasme", Name: "wasme-operator"}}
	d.Spec.Template.Spec.Containers = []corev1.Container{{Image: "quay.io/solo-io/wasme:0.0.33", Args: []string{"operator"}}}
	g.Expect(Predecessor([]appsv1.Deployment{{}, d})).To(saying(Fail, "kubectl scale -n wasme deployment wasme-operator --replicas=0"))
	d.Spec.Replicas = new(int32(0))
	g.Expect(Predecessor([]appsv1.Deployment{d})).To(saying(OK, "none"))
}

func TestOperatorOutsideTheMesh(t *testing.T) {
	var installed corev1.Namespace
	read(t, "config/manager/namespace.yaml", &installed)
	sidecar := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "one"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "istio-proxy"}}}}
	for _, row := range []struct {
		name      string
		namespace map[string]string
		labels    map[string]string
		pods      []corev1.Pod
		want      types.GomegaMatcher
	}{
		{"as installed", installed.Labels, operatorOf(t).Pods.Labels, nil, saying(OK, "have no sidecar")},
		{"by its pods alone", nil, operatorOf(t).Pods.Labels, nil, saying(OK, "have no sidecar")},
		{"by its pods, in a namespace of the mesh", map[string]string{"istio-injection": "enabled", "istio.io/dataplane-mode": "ambient"}, operatorOf(t).Pods.Labels, nil, saying(OK, "")},
		{"by its namespace alone", installed.Labels, nil, nil, saying(OK, "")},
		{"with a sidecar", installed.Labels, nil, []corev1.Pod{sidecar}, saying(Fail, "pod wasme-system/one has a sidecar")},
		{"injected", map[string]string{"istio-injection": "enabled"}, nil, nil, saying(Fail, "get a sidecar when they start")},
		{"injected by a revision", map[string]string{"istio.io/rev": "canary"}, nil, nil, saying(Fail, "get a sidecar when they start")},
		{"injected by its label", nil, map[string]string{"sidecar.istio.io/inject": "true"}, nil, saying(Fail, "get a sidecar when they start")},
		{"ambient", map[string]string{"istio.io/dataplane-mode": "ambient"}, nil, nil, saying(Fail, "ambient mesh")},
		{"perhaps", nil, nil, nil, saying(Warn, "if Istio injects them by default: label its namespace")},
	} {
		t.Run(row.name, func(t *testing.T) {
			o := operatorOf(t)
			o.Pods.Labels = row.labels
			NewWithT(t).Expect(o.OutsideMesh(row.namespace, row.pods)).To(row.want)
		})
	}
}

func istiod(image string, labels map[string]string) appsv1.Deployment {
	d := appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "istio-system", Name: "istiod", Labels: labels}}
	d.Spec.Template.Spec.Containers = []corev1.Container{{Image: image}}
	return d
}

func TestVersionsOfIstiod(t *testing.T) {
	for _, row := range []struct {
		name string
		all  []appsv1.Deployment
		want types.GomegaMatcher
	}{
		{"of its image", []appsv1.Deployment{istiod("docker.io/istio/pilot:1.31.0-distroless", nil)}, saying(OK, "istio-system/istiod 1.31.0")},
		{"of its label", []appsv1.Deployment{istiod("mirror/pilot@sha256:00", map[string]string{"app.kubernetes.io/version": "1.29.2"})}, saying(OK, "istiod 1.29.2")},
		{"the older of two", []appsv1.Deployment{istiod("istio/pilot:1.31.0", nil), istiod("istio/pilot:1.24.6", nil)}, saying(Fail, "istio-system/istiod 1.24.6, istio-system/istiod 1.31.0: it is older than 1.25")},
		{"that it does not say", []appsv1.Deployment{istiod("istio/pilot:latest", nil)}, saying(NotChecked, "neither label nor image tag")},
		{"elsewhere", nil, saying(NotChecked, "it may run outside of this cluster")},
	} {
		t.Run(row.name, func(t *testing.T) {
			found, _ := Istiod(row.all)
			NewWithT(t).Expect(found).To(row.want)
		})
	}
}

func TestVersionsOfProxies(t *testing.T) {
	g := NewWithT(t)
	v := version.MustParseGeneric
	g.Expect(Proxies(nil)).To(saying(NotChecked, "no pod with a sidecar"))
	g.Expect(Proxies([]Proxy{{"a/1", v("1.31.0")}, {"a/2", v("1.31.0")}, {"a/3", nil}})).To(saying(OK, "3 sidecars with filters: 1 of an unknown version, 2 1.31.0"))
	g.Expect(Proxies([]Proxy{{"a/1", v("1.31.0")}, {"a/2", v("1.24.1")}})).To(saying(Fail, "those of a/2 are older than 1.25 and refuse filters: update Istio"))
	g.Expect(Proxies([]Proxy{{"a/1", nil}})).To(saying(NotChecked, "1 sidecar with filters: 1 of an unknown version"))
}

func TestKindsOfIstio(t *testing.T) {
	g := NewWithT(t)
	extension := []wasmev1.Output{wasmev1.OutputTrafficExtension}
	g.Expect(Kinds(nil, nil, nil)).To(saying(OK, "TrafficExtension"))
	g.Expect(Kinds(extension, nil, version.MajorMinor(1, 29))).To(saying(OK, "comes with Istio 1.30"))
	g.Expect(Kinds(extension, nil, version.MajorMinor(1, 30))).To(saying(Warn, "has no TrafficExtension: install the CRDs"))
	g.Expect(Kinds(extension, extension, nil)).To(saying(Fail, "has no TrafficExtension, which filters need"))
	g.Expect(Kinds([]wasmev1.Output{wasmev1.OutputEnvoyFilter, wasmev1.OutputWasmPlugin}, nil, nil)).To(saying(Fail, "has no EnvoyFilter, which"))
}

func TestServiceOfTheModuleServer(t *testing.T) {
	for given, want := range map[string]ModuleServer{
		"":                                    {URL: DefaultServerURL, Service: nameIn("wasme-system", "wasme-modules"), Port: 80},
		"http://m.n.svc.example.internal:81":  {URL: "http://m.n.svc.example.internal:81", Service: nameIn("n", "m"), Port: 81},
		"https://m.n.svc":                     {URL: "https://m.n.svc", Service: nameIn("n", "m"), Port: 443},
		"http://127.0.0.1:8082":               {URL: "http://127.0.0.1:8082", Port: 8082},
		"http://modules.example.com/anything": {URL: "http://modules.example.com/anything", Port: 80},
	} {
		t.Run(given, func(t *testing.T) {
			NewWithT(t).Expect(Operator{Flags: map[string]string{"module-server-url": given}}.ModuleServer()).To(Equal(want))
		})
	}
}

func TestEndpointsOfTheModuleServer(t *testing.T) {
	server := Operator{}.ModuleServer()
	service := &corev1.Service{Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}
	endpoint := func(uid string, ready *bool) discoveryv1.Endpoint {
		return discoveryv1.Endpoint{Addresses: []string{"10.0.0.1"}, Conditions: discoveryv1.EndpointConditions{Ready: ready}, TargetRef: &corev1.ObjectReference{UID: typesUID(uid)}}
	}
	slice := func(endpoints ...discoveryv1.Endpoint) discoveryv1.EndpointSlice {
		return discoveryv1.EndpointSlice{Endpoints: endpoints}
	}
	for _, row := range []struct {
		name    string
		service *corev1.Service
		slices  []discoveryv1.EndpointSlice
		want    types.GomegaMatcher
	}{
		{"in two families", service, []discoveryv1.EndpointSlice{slice(endpoint("a", nil), endpoint("b", new(true))), slice(endpoint("a", nil))}, saying(OK, "Service wasme-system/wasme-modules has 2 Ready endpoints")},
		{"not Ready", service, []discoveryv1.EndpointSlice{slice(endpoint("a", new(false)))}, saying(Fail, "has no Ready endpoint")},
		{"none", service, nil, saying(Fail, "has no Ready endpoint")},
		{"no port", &corev1.Service{}, nil, saying(Fail, "has no port 80")},
		{"no Service", nil, nil, saying(Fail, "is not there, from which sidecars fetch modules")},
	} {
		t.Run(row.name, func(t *testing.T) { NewWithT(t).Expect(server.Endpoints(row.service, row.slices)).To(row.want) })
	}
}

func TestAnswersOfTheOperator(t *testing.T) {
	const module = "the module of FilterDeployment a/b"
	unreached := Answer{Pod: "n/2", Unreached: errors.New("no kubelet")}
	for _, row := range []struct {
		name    string
		answers []Answer
		module  string
		want    types.GomegaMatcher
	}{
		{"that are right", []Answer{{Pod: "n/1"}, {Pod: "n/2"}}, module, saying(OK, "is Ready and has the module of FilterDeployment a/b (n/1, n/2)")},
		{"before there are modules", []Answer{{Pod: "n/1"}}, "", saying(OK, "the module server answers (n/1)")},
		{"without the module", []Answer{{Pod: "n/1"}, unreached, {Pod: "n/3", Module: "503"}}, module, saying(Fail, "pod n/3 answers for the module of FilterDeployment a/b: 503: look at the log")},
		{"that it is not Ready", []Answer{{Pod: "n/1", Ready: "500"}}, module, saying(Fail, "pod n/1 answers /readyz: 500")},
		{"that do not come", []Answer{unreached}, module, saying(NotChecked, "no port-forward to pod n/2: no kubelet")},
		{"of nobody", nil, "", saying(NotChecked, "no pod of the operator runs")},
	} {
		t.Run(row.name, func(t *testing.T) { NewWithT(t).Expect(Answers(row.answers, row.module)).To(row.want) })
	}
}

func TestFetchesAreReadFromPagesOfRealAgents(t *testing.T) {
	for file, want := range map[string]Fetches{
		"agent-loaded.txt": {Succeeded: 1},
		"agent-failed.txt": {Succeeded: 2, Failed: 1},
	} {
		t.Run(file, func(t *testing.T) {
			content, err := os.ReadFile(root + "internal/dataplane/testdata/" + file)
			if err != nil {
				t.Fatal(err)
			}
			var found Fetches
			for line := range strings.Lines(string(content)) {
				found.ParseFetches(line)
			}
			NewWithT(t).Expect(found).To(Equal(want))
		})
	}
}

func TestFetchesOfSidecars(t *testing.T) {
	g := NewWithT(t)
	good, unreached := Fetches{Pod: "n/1", Succeeded: 3}, Fetches{Pod: "n/2", Unreached: errors.New("no kubelet")}
	g.Expect(SidecarFetches([]Fetches{good, unreached})).To(saying(OK, "1 sidecar asked, which fetched 3 modules since they started; no fetch failed"))
	g.Expect(SidecarFetches([]Fetches{good, {Pod: "n/3", Failed: 1, Succeeded: 1}})).To(saying(Warn, "n/3 could not fetch a Wasm module at some time since they started: see https"))
	g.Expect(SidecarFetches([]Fetches{good, {Pod: "n/3", Failed: 1}})).To(saying(Fail, "n/3 could fetch no Wasm module"))
	g.Expect(SidecarFetches([]Fetches{unreached})).To(saying(NotChecked, "no port-forward to pod n/2: no kubelet"))
	g.Expect(SidecarFetches(nil)).To(saying(NotChecked, "no pod with a sidecar is selected"))
}

func TestFilterDeployments(t *testing.T) {
	now := time.Now()
	fd := func(name string, conditions ...metav1.Condition) wasmev1.FilterDeployment {
		return wasmev1.FilterDeployment{
			ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: name, CreationTimestamp: metav1.Time{Time: now.Add(-time.Hour)}},
			Status:     wasmev1.FilterDeploymentStatus{Conditions: conditions},
		}
	}
	c := func(kind, status, reason string) metav1.Condition {
		return metav1.Condition{Type: kind, Status: metav1.ConditionStatus(status), Reason: reason, Message: "because"}
	}
	ready, failed := fd("ready", c("Ready", "True", "Ready")), fd("failed", c("Loaded", "False", "Refused"), c("Ready", "False", "Refused"))
	suspended, fresh := fd("suspended", c("Ready", "False", "Suspended")), fd("fresh")
	suspended.Spec.Suspend, fresh.CreationTimestamp.Time = true, now
	t.Run("are all right", func(t *testing.T) {
		NewWithT(t).Expect(FilterDeployments([]wasmev1.FilterDeployment{ready, suspended}, now)).To(ConsistOf(saying(OK, "2 FilterDeployments, none of which waits or fails")))
	})
	t.Run("are listed when they are not Ready, those that failed first", func(t *testing.T) {
		waiting := fd("a", c("Ready", "Unknown", "Loading"))
		NewWithT(t).Expect(FilterDeployments([]wasmev1.FilterDeployment{ready, waiting, fresh, failed, fd("unseen")}, now)).To(HaveExactElements(
			saying(Fail, "Ready is False, Refused: because: see https://github.com/wasme-io/wasme-operator/blob/main/docs/conditions.md#loaded, and wasme status failed -n n"),
			saying(Fail, "no operator has seen it: run an operator without --class that watches namespace n"),
			saying(Warn, "docs/conditions.md#ready, and wasme status a -n n"),
			saying(Warn, "it is new"),
		))
	})
	t.Run("are counted when they are many", func(t *testing.T) {
		var many []wasmev1.FilterDeployment
		for i := range 30 {
			many = append(many, fd(fmt.Sprint(i), c("Ready", "False", "Refused")))
		}
		found := FilterDeployments(many, now)
		NewWithT(t).Expect(found).To(HaveLen(maxListed + 1))
		NewWithT(t).Expect(found[maxListed]).To(saying(Fail, "10 more are not Ready, 10 of which failed: see wasme status -A"))
	})
}
