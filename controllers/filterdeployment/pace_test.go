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
		r.paces.keep(name, pace{took: took, ready: true})
		g.Expect(r.PodDelay(name)).To(Equal(want), "passes take %v", took)
	}
	r.paces.keep(name, pace{took: time.Minute})
	g.Expect(r.PodDelay(name)).To(Equal(time.Second), "it is not Ready")
	for took, want := range map[time.Duration]time.Duration{
		time.Millisecond: 100 * time.Millisecond, 40 * time.Millisecond: 400 * time.Millisecond, time.Minute: time.Second,
	} {
		r.paces.keep(name, pace{took: took, step: true})
		g.Expect(r.PodDelay(name)).To(Equal(want), "a step waits, and passes take %v", took)
	}
	r.paces.keep(name, pace{took: time.Minute, ready: true})
	r.paces.forget(name)
	g.Expect(r.PodDelay(name)).To(Equal(time.Second))
}
