package controllers

import (
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/istio"
)

var _ = It("A renewal is kept on an output, of its revision only", func() {
	at := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	last := renewal{count: 3, at: at}
	object := istio.Kinds[wasmev1.OutputEnvoyFilter].New()
	Expect(renewalOf(nil, "r")).To(BeZero())
	Expect(renewalOf(object, "r")).To(BeZero())
	object.SetAnnotations(map[string]string{renewalAnnotation: last.annotation("r")})
	Expect(renewalOf(object, "r")).To(Equal(last))
	Expect(renewalOf(object, "other")).To(BeZero())
	for _, spoilt := range []string{"r", "r x 2026-11-21T12:00:00Z", "r 3 noon", "r 3 2026-11-21T12:00:00Z more"} {
		object.SetAnnotations(map[string]string{renewalAnnotation: spoilt})
		Expect(renewalOf(object, "r")).To(BeZero())
	}
	Expect(last.key()).To(Equal("3"))
	Expect(renewal{}.key()).To(BeEmpty())
})

var _ = DescribeTable("The next renewal comes",
	func(count int, after time.Duration) {
		at := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
		Expect(renewal{count: count, at: at}.due().Sub(at)).To(Equal(after))
	},
	Entry("at once", 0, time.Duration(0)),
	Entry("after the first", 1, 30*time.Second),
	Entry("after the second", 2, time.Minute),
	Entry("after the fifth", 5, 8*time.Minute),
	Entry("at the bound", 6, 10*time.Minute),
	Entry("after very many", 1_000_000, 10*time.Minute),
)

var _ = DescribeTable("A renewal can help",
	func(pods []podProof, count int, want bool) {
		Expect(renewable(pods, renewal{count: count})).To(Equal(want))
	},
	Entry("no pod", proofs(), 0, false),
	Entry("not pods that run it", proofs(loaded, draining), 0, false),
	Entry("not pods without sidecar", proofs(bare), 0, false),
	Entry("not young pods", proofs(young(missing)), 0, false),
	Entry("not pods that do not answer", proofs(unreachable, unknown), 0, false),
	Entry("a fetch that failed", proofs(loaded, fetchFailed), 0, true),
	Entry("a fetch that failed, for ever", proofs(fetchFailed), 1_000, true),
	Entry("an older revision, some times", proofs(older), maxRefused-1, true),
	Entry("an older revision, not for ever", proofs(older), maxRefused, false),
	Entry("what seems refused, some times", proofs(missing), maxRefused-1, true),
	Entry("what seems refused, not for ever", proofs(missing), maxRefused, false),
)
