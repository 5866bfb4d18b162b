// Licensed under the Apache License, Version 2.0; see LICENSE.

package mesh_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/wasme-io/wasme-operator/test/mesh"
	"github.com/wasme-io/wasme-operator/test/mesh/meshtest"
	"github.com/wasme-io/wasme-operator/test/mesh/process"
)

// heldFolder names the folder in which TestHeld starts a mesh.
const heldFolder = "MESH_TEST_HELD_FOLDER"

var _ = Describe("What a run leaves behind", func() {
	It("is nothing when it is killed", func(ctx SpecContext) {
		folder := GinkgoT().TempDir()
		held := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestHeld$")
		held.Env = append(os.Environ(), heldFolder+"="+folder)
		output, err := held.StdoutPipe()
		Expect(err).NotTo(HaveOccurred())
		Expect(held.Start()).To(Succeed())
		admin := lineAfter(output, "admin ")
		Expect(meshtest.Fetching(ctx, admin+"/ready")()).To(ContainSubstring("LIVE"))
		Expect(alive(folder)).To(ContainElements("etcd", "istiod", HavePrefix("sidecar.")))

		Expect(held.Process.Kill()).To(Succeed())
		Expect(held.Wait()).NotTo(Succeed())
		Eventually(func() []string { return alive(folder) }).Should(BeEmpty())
		Eventually(meshtest.Fetching(ctx, admin+"/ready")).Should(BeEmpty(), "Envoy, a grandchild, is gone too")
	})

	It("is everything when it is detached, until Down", func(ctx SpecContext) {
		folder := filepath.Join(GinkgoT().TempDir(), "mesh")
		c, err := mesh.StartControlPlane(ctx, mesh.Options{Folder: folder, Log: GinkgoWriter, Detached: true})
		Expect(err).NotTo(HaveOccurred())
		Expect(alive(folder)).To(ConsistOf("etcd", "kube-apiserver", "kube-controller-manager"))
		_, err = mesh.StartControlPlane(ctx, mesh.Options{Folder: folder, Log: GinkgoWriter})
		Expect(err).To(MatchError(ContainSubstring("still run there")))

		Expect(mesh.Down(c.Folder())).To(Succeed())
		Expect(alive(folder)).To(BeEmpty())
		Expect(mesh.Down(c.Folder())).To(Succeed(), "once more")
		Expect(alive(theMesh.Folder())).NotTo(BeEmpty(), "others are left alone")
	})

	It("does not disturb a mesh beside it", func(ctx SpecContext) {
		second, err := mesh.Start(ctx, mesh.Options{Log: GinkgoWriter})
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(func() { Expect(second.Stop()).To(Succeed()) })
		first := meshtest.Run(ctx, theMesh, workload("beside", "app"))
		other, err := second.StartWorkload(ctx, workload("beside", "app"))
		Expect(err).NotTo(HaveOccurred())
		Expect(other.Address).NotTo(Equal(first.Address))
		serve(ctx, "hello", other, "SIDECAR_INBOUND").apply(ctx, second)
		meshtest.EventuallyAnswers(ctx, other, "world")
		Expect(mesh.Ask(ctx, first.URL)).To(Equal(mesh.Answered(http.StatusOK)))
	})

	It("refuses a folder that holds other things", func(ctx SpecContext) {
		folder := GinkgoT().TempDir()
		precious := filepath.Join(folder, "precious")
		Expect(os.WriteFile(precious, nil, 0o600)).To(Succeed())
		_, err := mesh.StartControlPlane(ctx, mesh.Options{Folder: folder, Log: GinkgoWriter})
		Expect(err).To(MatchError(ContainSubstring("holds other things")))
		Expect(precious).To(BeAnExistingFile())
	})
})

// TestHeld is the run that a spec above kills: it starts a mesh, says so and
// waits.
func TestHeld(t *testing.T) {
	folder := os.Getenv(heldFolder)
	if folder == "" {
		t.Skip("only for the suite")
	}
	m, err := mesh.Start(context.Background(), mesh.Options{Folder: folder, Log: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	running, err := m.StartWorkload(context.Background(), workload("held", "app"))
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println("admin " + running.AdminURL)
	select {}
}

func alive(folder string) []string {
	GinkgoHelper()
	names, err := process.Group{Folder: folder}.Running()
	Expect(err).NotTo(HaveOccurred())
	return names
}

// lineAfter returns what follows a prefix on the first line that has it.
func lineAfter(output io.Reader, prefix string) string {
	GinkgoHelper()
	for lines := bufio.NewScanner(output); lines.Scan(); {
		if rest, found := strings.CutPrefix(lines.Text(), prefix); found {
			return rest
		}
	}
	Fail("the output ended without " + prefix)
	return ""
}
