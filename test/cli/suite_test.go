// Package cli_test runs the command line as its users do, against a real API server that has
// the operator's CRD and Istio's.
package cli_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/cli"
	"github.com/wasme-io/wasme-operator/test/mesh"
	"github.com/wasme-io/wasme-operator/test/mesh/binaries"
)

// Shared by all specs. Each has a namespace of its own (newNamespace).
var (
	controlPlane *mesh.ControlPlane
	// kubeconfig is the path of one with every right.
	kubeconfig string
	// user is a client with every right.
	user client.WithWatch
	// withoutCRD is what came of wasme status before the CRD was installed.
	withoutCRD result
)

func TestCommandLine(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "Command line")
}

var _ = BeforeSuite(func(ctx context.Context) {
	var err error
	controlPlane, err = mesh.StartControlPlane(ctx, mesh.Options{Log: GinkgoWriter})
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(controlPlane.Stop)
	// The user of this machine has clusters and credentials that no spec may see.
	GinkgoT().Setenv("KUBECONFIG", filepath.Join(GinkgoT().TempDir(), "none"))
	GinkgoT().Setenv("DOCKER_CONFIG", GinkgoT().TempDir())
	kubeconfig = controlPlane.Kubeconfig()
	withoutCRD = wasme(ctx, "status")
	istioCRDs, err := binaries.IstioFile(ctx, "manifests/charts/base/files/crd-all.gen.yaml")
	Expect(err).NotTo(HaveOccurred())
	Expect(controlPlane.InstallCRDs(istioCRDs, filepath.Join("..", "..", "config", "crd", "bases"))).To(Succeed())
	user, err = mesh.NewClient(controlPlane.Admin())
	Expect(err).NotTo(HaveOccurred())
})

// result is what came of a command.
type result struct {
	Code        int
	Out, ErrOut string
}

// wasme runs a command against the suite's API server, with every right.
func wasme(ctx context.Context, args ...string) result {
	return wasmeWith(ctx, kubeconfig, "", args...)
}

// wasmeWith runs a command with a kubeconfig and a standard input.
func wasmeWith(ctx context.Context, kubeconfig, in string, args ...string) result {
	var out, errOut bytes.Buffer
	streams := genericiooptions.IOStreams{In: bytes.NewBufferString(in), Out: &out, ErrOut: &errOut}
	code := cli.Run(ctx, append(args, "--kubeconfig", kubeconfig), streams)
	return result{code, out.String(), errOut.String()}
}

// newNamespace creates a namespace for a spec.
func newNamespace(ctx context.Context) string {
	GinkgoHelper()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "spec-"}}
	Expect(user.Create(ctx, namespace)).To(Succeed())
	return namespace.Name
}

// guest returns the kubeconfig of an account that has some rights to the FilterDeployments of a
// namespace, and no others.
func guest(ctx context.Context, namespace string, verbs ...string) string {
	GinkgoHelper()
	meta := metav1.ObjectMeta{Namespace: namespace, Name: "guest"}
	Expect(user.Create(ctx, &corev1.ServiceAccount{ObjectMeta: meta})).To(Succeed())
	Expect(user.Create(ctx, &rbacv1.Role{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{wasmev1.GroupVersion.Group}, Resources: []string{"filterdeployments"}, Verbs: verbs},
	}})).To(Succeed())
	Expect(user.Create(ctx, &rbacv1.RoleBinding{ObjectMeta: meta,
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: meta.Name},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: meta.Name}},
	})).To(Succeed())
	path, err := controlPlane.KubeconfigAs(ctx, namespace, meta.Name)
	Expect(err).NotTo(HaveOccurred())
	return path
}

// write writes a file for a spec and returns its path.
func write(name, format string, args ...any) string {
	GinkgoHelper()
	path := filepath.Join(GinkgoT().TempDir(), name)
	Expect(os.WriteFile(path, fmt.Appendf(nil, format, args...), 0o600)).To(Succeed())
	return path
}

// read returns the content of a file.
func read(path string) string {
	GinkgoHelper()
	content, err := os.ReadFile(path)
	Expect(err).NotTo(HaveOccurred())
	return string(content)
}

// waiting bounds how long specs wait for an operator.
const waiting = time.Minute
