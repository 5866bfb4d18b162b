package filterdeployment

import (
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/types"
)

func TestWhatPodsAskForIsGatheredForAsLongAsPassesTake(t *testing.T) {
	g := NewWithT(t)
	name := types.NamespacedName{Namespace: "n", Name: "f"}
	var r Reconciler
	g.Expect(r.PodDelay(name)).To(Equal(time.Second))
	for took, want := range map[time.Duration]time.Duration{
		time.Millisecond: time.Second, 40 * time.Millisecond: 2 * time.Second, time.Minute: 30 * time.Second,
	} {
		r.paces.keep(name, took, true)
		g.Expect(r.PodDelay(name)).To(Equal(want), "passes take %v", took)
	}
	r.paces.keep(name, time.Minute, false)
	g.Expect(r.PodDelay(name)).To(Equal(time.Second), "a rollout goes on")
	r.paces.keep(name, time.Minute, true)
	r.paces.forget(name)
	g.Expect(r.PodDelay(name)).To(Equal(time.Second))
}
