package signatures

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/internal/module/pull"
	"github.com/wasme-io/wasme-operator/internal/module/resolve"
	"github.com/wasme-io/wasme-operator/test/moduletest"
)

// patience is how long a test waits for what must come.
const patience = 30 * time.Second

func TestARegistryThatLimitsRequestsIsLeftAlone(t *testing.T) {
	r := moduletest.StartRegistry(t)
	r.Inject(func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "60")
			w.WriteHeader(http.StatusTooManyRequests)
		})
	})
	client := pull.NewClient(pull.Options{Limits: module.DefaultLimits})
	woken := make(chan types.NamespacedName, 10)
	pool := New(client, resolve.New(nil, client, resolve.Options{Clock: clock.RealClock{}}), func(owner types.NamespacedName) { woken <- owner })
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- pool.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		moduletest.Must(t, <-ended)
	})
	for i, name := range []string{"first", "second"} {
		owner := types.NamespacedName{Namespace: "n", Name: name}
		asked := Request{Request: pull.Request{Image: r.Host() + "/" + name + ":v1", PlainHTTP: true}, Digest: v1.Hash{Algorithm: "sha256", Hex: moduletest.SHA256(name)}}
		pool.Ask(owner, asked)
		select {
		case <-woken:
		case <-time.After(patience):
			t.Fatal("nobody was woken")
		}
		err := pool.Ask(owner, asked).Err
		if failure := module.AsError(err); failure == nil || failure.RetryAfter < 50*time.Second || !strings.Contains(failure.Message, "it is asked again at") {
			t.Errorf("image %d: %+v", i, err)
		}
		if retryAfter(err) < 50*time.Second {
			t.Errorf("image %d is looked at again after %s", i, retryAfter(err))
		}
	}
	if got := r.Requests("", ""); got != 1 {
		t.Errorf("%d requests", got)
	}
}
