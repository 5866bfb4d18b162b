// Licensed under the Apache License, Version 2.0; see LICENSE.

package mesh_test

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"text/template"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	networkingv1alpha3 "istio.io/client-go/pkg/apis/networking/v1alpha3"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/wasme-io/wasme-operator/test/filters"
	"github.com/wasme-io/wasme-operator/test/mesh"
	"github.com/wasme-io/wasme-operator/test/mesh/meshtest"
)

var (
	theMesh *mesh.Mesh
	modules *filters.Server
)

func TestMesh(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "Mesh")
}

var _ = BeforeSuite(func(ctx SpecContext) {
	theMesh = meshtest.Start(ctx, "")
	modules = meshtest.StartModuleServer()
}, NodeTimeout(meshtest.StartTimeout))

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
	digest := modules.Serve(meshtest.Build(ctx, module))
	return filter{
		Namespace: target.Workload.Namespace, Name: target.Workload.Name, Context: patchContext, Revision: "1",
		URL: fmt.Sprintf("%s/%s.wasm", modules.URL, digest), SHA256: digest,
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
	meshtest.Apply(ctx, m.Client(), &object)
}

func (f filter) remove(ctx context.Context, m *mesh.Mesh) {
	GinkgoHelper()
	object := networkingv1alpha3.EnvoyFilter{}
	object.Namespace, object.Name = f.Namespace, f.Name
	Expect(client.IgnoreNotFound(m.Client().Delete(ctx, &object))).To(Succeed())
}
