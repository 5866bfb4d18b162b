package versions

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/test/filters"
	"github.com/wasme-io/wasme-operator/test/mesh"
	"github.com/wasme-io/wasme-operator/test/registry"
)

// overdue is more than pods may take before Ready is False.
const overdue = 2 * time.Minute

// router is a filter of every HTTP filter chain.
const router = "envoy.filters.http.router"

// startOperator installs and runs the whole operator, for all namespaces.
func (s *suite) startOperator(t *testing.T) {
	t.Helper()
	g := NewWithT(t)
	g.Expect(s.mesh.InstallOperator(t.Context())).To(Succeed())
	operator, err := s.mesh.StartOperator(t.Context(), mesh.OperatorOptions{})
	g.Expect(err).NotTo(HaveOccurred())
	t.Cleanup(func() { NewWithT(t).Expect(operator.Stop()).To(Succeed()) })
	image, err := registry.Image(registry.WasmeArtifact, registry.Module{Bytes: s.modules[filters.Hello], RootIDs: []string{filters.RootID}})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(registry.Push(t.Context(), s.image(), image)).To(Succeed())
}

// image is that of the module hello.
func (s *suite) image() string { return s.mesh.Registry() + "/filters/hello:v1" }

func operatorReports(s *spec) {
	plain := s.create("hello", nil)
	beside := s.create("beside", &wasmev1.Position{Before: router})
	s.eventuallyAnswers(answer{Status: http.StatusForbidden})
	s.eventuallyReady(plain, wasmev1.ReasonRefused)
	s.eventuallyReady(beside, wasmev1.ReasonRefused)

	// Both are fixed: Envoy refuses a listener without one of them while it
	// refuses the other.
	s.fix(plain)
	s.fix(beside)
	s.eventuallyReady(beside, wasmev1.ReasonReady)
	s.eventuallyReady(plain, wasmev1.ReasonReady)
	s.eventuallyAnswers(mesh.Answered(http.StatusOK, "fixed", "fixed"))
}

// deletedFilter deletes one of two filters that Envoy refuses: it refuses the
// listener without it, too, because that has the other one, and is not sent the
// listener again once that is fixed. So it is, where one push brought both filters,
// and no other push comes; the answer must be the same in any case.
func deletedFilter(s *spec) {
	deleted, fixed := s.create("deleted", nil), s.create("fixed", nil)
	s.eventuallyAnswers(answer{Status: http.StatusForbidden})
	before := s.listenerUpdates()
	s.Expect(s.admin.Delete(s.ctx, deleted)).To(Succeed())
	s.Eventually(s.listenerUpdates, patience, poll).Should(BeNumerically(">", before))

	s.fix(fixed)
	s.eventuallyReady(fixed, wasmev1.ReasonReady)
	s.Expect(s.ask()).To(Equal(ok("fixed")), "the deleted filter denies requests although Ready is True")
}

// listenerUpdates counts the updates of listeners that the sidecar's Envoy has
// accepted or refused.
func (s *spec) listenerUpdates() int {
	s.t.Helper()
	count := 0
	for line := range strings.Lines(s.get(s.app.StatsURL + "?filter=lds.update_(success|rejected)")) {
		var name string
		var value int
		if found, err := fmt.Sscan(line, &name, &value); found == 2 && err == nil {
			count += value
		}
	}
	return count
}

// create creates a FilterDeployment whose configuration the module refuses.
func (s *spec) create(name string, position *wasmev1.Position) *wasmev1.FilterDeployment {
	s.t.Helper()
	fd := &wasmev1.FilterDeployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: name},
		Spec: wasmev1.FilterDeploymentSpec{
			Filter: wasmev1.FilterSpec{
				Image:            s.image(),
				ImagePullOptions: &wasmev1.ImagePullOptions{PlainHTTP: true},
				Config:           &wasmev1.Configuration{Raw: []byte(`"` + filters.RefusedConfiguration + `"`)},
				Position:         position,
			},
			Rollout: &wasmev1.RolloutSpec{Strategy: wasmev1.RolloutImmediate},
		},
	}
	s.Expect(s.admin.Create(s.ctx, fd)).To(Succeed())
	return fd
}

// fix gives a FilterDeployment a configuration that the module accepts.
func (s *spec) fix(fd *wasmev1.FilterDeployment) {
	s.t.Helper()
	s.Eventually(func() error {
		if err := s.admin.Get(s.ctx, client.ObjectKeyFromObject(fd), fd); err != nil {
			return err
		}
		fd.Spec.Filter.Config = &wasmev1.Configuration{Raw: []byte(`"fixed"`)}
		return s.admin.Update(s.ctx, fd)
	}, patience, poll).Should(Succeed())
}

// eventuallyReady waits for the reason of Ready for the newest spec.
func (s *spec) eventuallyReady(fd *wasmev1.FilterDeployment, reason string) {
	s.t.Helper()
	s.Eventually(func() (string, error) {
		if err := s.admin.Get(s.ctx, client.ObjectKeyFromObject(fd), fd); err != nil {
			return "", err
		}
		ready := apimeta.FindStatusCondition(fd.Status.Conditions, wasmev1.ConditionReady)
		if ready == nil || ready.ObservedGeneration != fd.Generation {
			return "", nil
		}
		return ready.Reason, nil
	}, overdue, poll).Should(Equal(reason))
}
