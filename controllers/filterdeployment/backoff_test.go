package filterdeployment

import (
	"testing"
	"time"

	. "github.com/onsi/gomega"
)

func TestWaitsDoubleUntilItIsQuiet(t *testing.T) {
	g := NewWithT(t)
	now := time.Unix(1000, 0)
	waits := doubling(time.Second, 5*time.Second)
	var b backoffs[string]
	g.Expect(b.left("a", now)).To(BeZero())
	for _, want := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 5 * time.Second, 5 * time.Second} {
		g.Expect(b.extend("a", waits, now)).To(Equal(want))
		g.Expect(b.left("a", now)).To(Equal(want))
		now = now.Add(want)
		g.Expect(b.left("a", now)).To(BeZero())
	}
	now = now.Add(5 * time.Second)
	g.Expect(b.extend("a", waits, now)).To(Equal(5*time.Second), "it was not quiet for long enough")
	now = now.Add(10*time.Second + 1)
	g.Expect(b.extend("a", waits, now)).To(Equal(time.Second))
	g.Expect(b.left("b", now)).To(BeZero(), "another key")

	b.extend("b", waits, now)
	b.endAll(func(key string) bool { return key == "b" })
	g.Expect(b.left("b", now)).To(BeZero())
	g.Expect(b.left("a", now)).To(Equal(time.Second))
	b.end("a")
	g.Expect(b.left("a", now)).To(BeZero())
	g.Expect(b.extend("a", waits, now)).To(Equal(time.Second))
}
