// Licensed under the Apache License, Version 2.0; see LICENSE.

package mesh_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"text/template"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	networkingv1alpha3 "istio.io/client-go/pkg/apis/networking/v1alpha3"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/yaml"

	"github.com/wasme-io/wasme-operator/test/filters"
	"github.com/wasme-io/wasme-operator/test/mesh"
)

const (
	patience = 30 * time.Second
	poll     = 20 * time.Millisecond
)

var theMesh *mesh.Mesh

func TestMesh(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "Mesh")
}

var _ = BeforeSuite(func(ctx SpecContext) {
	log.SetLogger(GinkgoLogr)
	var err error
	theMesh, err = mesh.Start(ctx, mesh.Options{Log: GinkgoWriter})
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() { Expect(theMesh.Stop()).To(Succeed()) })
}, NodeTimeout(30*time.Minute)) // the first time on a machine everything is built

// run starts a workload that ends with the spec.
func run(ctx context.Context, m *mesh.Mesh, workload mesh.Workload) *mesh.Running {
	GinkgoHelper()
	running, err := m.StartWorkload(ctx, workload)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func(ctx SpecContext) { Expect(running.Stop(ctx)).To(Succeed()) })
	return running
}

func workload(namespace, name string) mesh.Workload {
	return mesh.Workload{Namespace: namespace, Name: name, Labels: map[string]string{"app": name}, Port: 9080}
}

// filter is an EnvoyFilter that brings a module to one workload.
type filter struct {
	Namespace, Name, Context, Configuration, Revision, URL, SHA256 string
}

// serve offers a test module over http and returns a filter that fetches it.
func serve(ctx context.Context, module string, target *mesh.Running, patchContext string) filter {
	GinkgoHelper()
	content, err := filters.Build(ctx, module)
	Expect(err).NotTo(HaveOccurred())
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, module+".wasm", time.Time{}, bytes.NewReader(content))
	}))
	DeferCleanup(server.Close)
	digest := sha256.Sum256(content)
	return filter{
		Namespace: target.Workload.Namespace, Name: target.Workload.Name, Context: patchContext, Revision: "1",
		URL: server.URL + "/" + module + ".wasm", SHA256: hex.EncodeToString(digest[:]),
	}
}

// apply creates the EnvoyFilter, or replaces the one that is there.
func (f filter) apply(ctx context.Context, m *mesh.Mesh) {
	GinkgoHelper()
	tmpl, err := template.ParseFiles(filepath.Join("testdata", "envoyfilter.yaml.tmpl"))
	Expect(err).NotTo(HaveOccurred())
	var text bytes.Buffer
	Expect(tmpl.Execute(&text, f)).To(Succeed())
	var object networkingv1alpha3.EnvoyFilter
	Expect(yaml.Unmarshal(text.Bytes(), &object)).To(Succeed())
	var live networkingv1alpha3.EnvoyFilter
	if err := m.Client().Get(ctx, client.ObjectKeyFromObject(&object), &live); err == nil {
		object.ResourceVersion = live.ResourceVersion
		Expect(m.Client().Update(ctx, &object)).To(Succeed())
		return
	}
	Expect(m.Client().Create(ctx, &object)).To(Succeed())
	DeferCleanup(func(ctx SpecContext) { f.remove(ctx, m) })
}

func (f filter) remove(ctx context.Context, m *mesh.Mesh) {
	GinkgoHelper()
	object := networkingv1alpha3.EnvoyFilter{}
	object.Namespace, object.Name = f.Namespace, f.Name
	Expect(client.IgnoreNotFound(m.Client().Delete(ctx, &object))).To(Succeed())
}

// answer is what came back for one request.
type answer struct {
	Status int
	Hello  string
}

// ask sends one request; headers are pairs of name and value.
func ask(url string, headers ...string) answer {
	request, err := http.NewRequest(http.MethodGet, url, http.NoBody)
	if err != nil {
		return answer{}
	}
	for i := 0; i+1 < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	request.Host = request.Header.Get("Host")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return answer{}
	}
	defer func() { _ = response.Body.Close() }()
	return answer{response.StatusCode, response.Header.Get("hello")}
}

func asking(url string, headers ...string) func() answer {
	return func() answer { return ask(url, headers...) }
}
