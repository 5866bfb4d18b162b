package cli

import (
	"testing"

	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

// operators are Deployments of an operator, each with its flags.
func operators(args ...[]string) []appsv1.Deployment {
	var all []appsv1.Deployment
	for _, flags := range args {
		d := appsv1.Deployment{}
		d.Spec.Template.Spec.Containers = []corev1.Container{{Name: "manager", Args: flags}}
		all = append(all, d)
	}
	return all
}

func TestFlagsOfTheOperator(t *testing.T) {
	g := NewWithT(t)
	installed := operators([]string{"--leader-elect", "--module-server-url=http://one"}, []string{"--class", "blue", "-cluster-id", "east", "--verify-pods=false"})
	g.Expect(argumentsOf(installed, "")).To(HaveKeyWithValue("module-server-url", "http://one"))
	g.Expect(argumentsOf(installed, "")).To(HaveKeyWithValue("leader-elect", ""))
	g.Expect(argumentsOf(installed, "blue")).To(HaveKeyWithValue("cluster-id", "east"))
	g.Expect(argumentsOf(installed, "red")).To(BeNil())
	g.Expect(argumentsOf(nil, "")).To(BeNil())
}

func TestVerificationOfPods(t *testing.T) {
	fd := &wasmev1.FilterDeployment{ObjectMeta: metav1.ObjectMeta{Namespace: "n"}}
	off := fd.DeepCopy()
	off.Annotations = map[string]string{wasmev1.VerifyPodsAnnotation: "false"}
	for _, row := range []struct {
		name  string
		flags map[string]string
		fd    *wasmev1.FilterDeployment
		want  bool
	}{
		{"is on by default", nil, fd, true},
		{"is off by a flag", map[string]string{"verify-pods": "false"}, fd, false},
		{"is off in a namespace", map[string]string{"unverified-namespaces": "m,n"}, fd, false},
		{"is on in other namespaces", map[string]string{"unverified-namespaces": "m,nn"}, fd, true},
		{"is off by an annotation", nil, off, false},
	} {
		t.Run(row.name, func(t *testing.T) { NewWithT(t).Expect(verifiesPods(row.flags, row.fd)).To(Equal(row.want)) })
	}
}
