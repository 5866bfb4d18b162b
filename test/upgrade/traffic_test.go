package upgrade

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/wasme-io/wasme-operator/test/mesh"
)

// traffic asks pods, on which a filter runs, again and again. What is not answered with 200, or
// not by the filter, has failed.
type traffic struct {
	end         context.CancelFunc
	done        sync.WaitGroup
	all, failed atomic.Int64
	// bare is whether an answer may be without the filter.
	bare bool
}

// trafficPause is the least time from one request to a pod to the next.
const trafficPause = 10 * time.Millisecond

func startTraffic(ctx context.Context, bare bool, pods ...*mesh.Running) *traffic {
	t := &traffic{bare: bare}
	ctx, t.end = context.WithCancel(ctx)
	for _, pod := range pods {
		t.done.Go(func() {
			wait.NonSlidingUntilWithContext(ctx, func(ctx context.Context) { t.ask(ctx, pod) }, trafficPause)
		})
	}
	return t
}

func (t *traffic) ask(ctx context.Context, pod *mesh.Running) {
	got := mesh.Ask(ctx, pod.URL)
	if ctx.Err() != nil {
		return
	}
	t.all.Add(1)
	if got.Status != http.StatusOK || (!t.bare && !got.Filtered()) {
		t.failed.Add(1)
		GinkgoWriter.Printf("%s answers %+v\n", pod.Pod, got)
	}
}

// expectNoFailure ends the requests.
func (t *traffic) expectNoFailure() {
	GinkgoHelper()
	t.end()
	t.done.Wait()
	all := t.all.Load()
	Expect(t.failed.Load()).To(BeZero(), "of %d requests", all)
	Expect(all).To(BeNumerically(">", 100))
	AddReportEntry("requests", all)
}
