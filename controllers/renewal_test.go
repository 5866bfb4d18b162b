package controllers

import (
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/istio"
)

var _ = It("An output keeps the last fetch that it asked for", func() {
	at := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	last := fetch{revision: "r", renewals: 3, at: at}
	object := istio.Kinds[wasmev1.OutputEnvoyFilter].New()
	Expect(fetchOf(object)).To(BeZero())
	object.SetAnnotations(map[string]string{fetchAnnotation: last.annotation()})
	Expect(fetchOf(object)).To(Equal(last))
	for _, spoilt := range []string{"r", "r x 2026-11-21T12:00:00Z", "r 3 noon", "r 3 2026-11-21T12:00:00Z more"} {
		object.SetAnnotations(map[string]string{fetchAnnotation: spoilt})
		Expect(fetchOf(object)).To(BeZero())
	}
	Expect(last.renewal("r")).To(Equal("3"))
	Expect(last.renewal("other")).To(BeEmpty())
	Expect(fetch{revision: "r"}.renewal("r")).To(BeEmpty())
})

var _ = DescribeTable("The next renewal comes",
	func(renewals int, after time.Duration) { Expect(renewalWait(renewals)).To(Equal(after)) },
	Entry("at once", 0, time.Duration(0)),
	Entry("after the first", 1, 30*time.Second),
	Entry("after the second", 2, time.Minute),
	Entry("after the fifth", 5, 8*time.Minute),
	Entry("at the bound", 6, 10*time.Minute),
	Entry("after very many", 1_000_000, 10*time.Minute),
)

var _ = DescribeTable("A renewal can help",
	func(pods []podProof, renewals int, want bool) {
		Expect(stuck(waitedFor(loadTimeout, pods), renewals)).To(HaveLen(map[bool]int{true: 1, false: 0}[want]))
		Expect(stuck(waitedFor(loadTimeout-1, pods), renewals)).To(BeEmpty(), "they have time left")
	},
	Entry("no pod", proofs(), 0, false),
	Entry("not pods that run it", proofs(loaded, draining), 0, false),
	Entry("not pods without sidecar", proofs(bare), 0, false),
	Entry("not young pods", proofs(young(missing)), 0, false),
	Entry("not pods that do not answer", proofs(unreachable, unknown), 0, false),
	Entry("not pods without a place for it", proofs(untried, isAnchored(untried)), 0, false),
	Entry("a fetch that failed", proofs(loaded, fetchFailed), 0, true),
	Entry("a fetch that failed, for ever", proofs(fetchFailed), 1_000, true),
	Entry("an older revision, some times", proofs(older), maxRefused-1, true),
	Entry("an older revision, not for ever", proofs(older), maxRefused, false),
	Entry("what seems refused, some times", proofs(missing), maxRefused-1, true),
	Entry("what seems refused, not for ever", proofs(missing), maxRefused, false),
)
