// Package installation installs the operator with Helm, as its users do, on a real API
// server, and runs it with the rights that the chart gives it.
package installation

import (
	"context"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/wasme-io/wasme-operator/test/mesh"
	"github.com/wasme-io/wasme-operator/test/mesh/binaries"
)

var (
	controlPlane *mesh.ControlPlane
	k8s          client.Client
)

func TestInstallation(t *testing.T) {
	RegisterFailHandler(Fail)
	SetDefaultEventuallyTimeout(30 * time.Second)
	RunSpecs(t, "Installation with Helm")
}

var _ = BeforeSuite(func(ctx context.Context) {
	var err error
	controlPlane, err = mesh.StartControlPlane(ctx, mesh.Options{})
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(controlPlane.Stop)
	k8s, err = mesh.NewClient(controlPlane.Admin())
	Expect(err).NotTo(HaveOccurred())
	crds, err := binaries.IstioFile(ctx, "manifests/charts/base/files/crd-all.gen.yaml")
	Expect(err).NotTo(HaveOccurred())
	Expect(controlPlane.InstallCRDs(crds)).To(Succeed())
	// The cluster is one that wasme 0.0.33 was installed in.
	Expect(controlPlane.StorePredecessorsCRD(ctx)).To(Succeed())
})
