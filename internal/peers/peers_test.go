package peers

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	"github.com/wasme-io/wasme-operator/internal/module/store"
	"github.com/wasme-io/wasme-operator/internal/serve"
)

const content = "a module"

var (
	owner  = types.NamespacedName{Namespace: "bookinfo", Name: "hello"}
	digest = sha256.Sum256([]byte(content))
	sum    = hex.EncodeToString(digest[:])
)

func newStore(t *testing.T) *store.Store {
	t.Helper()
	modules, err := store.Open(t.TempDir(), store.DefaultBytes, clock.RealClock{})
	if err != nil {
		t.Fatal(err)
	}
	return modules
}

func hold(t *testing.T, modules *store.Store) {
	t.Helper()
	if err := modules.Import(strings.NewReader(content), sum, int64(len(content))); err != nil {
		t.Fatal(err)
	}
}

// replica serves a store's modules, all of them retained, and returns its URL.
func replica(t *testing.T, modules *store.Store) string {
	t.Helper()
	modules.Retain(owner, sum)
	server, err := serve.New("127.0.0.1:0", modules, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- server.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return "http://" + server.Addr()
}

// gone returns the URL of a replica that refuses connections.
func gone(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	return server.URL
}

func newPeers(t *testing.T, modules *store.Store, urls ...string) (*Peers, chan types.NamespacedName) {
	t.Helper()
	woken := make(chan types.NamespacedName, 1)
	p, err := New(t.Context(), urls, "", modules, func(name types.NamespacedName) { woken <- name })
	if err != nil {
		t.Fatal(err)
	}
	return p, woken
}

func TestCopyTakesAModuleFromTheReplicaThatHasIt(t *testing.T) {
	full, empty := newStore(t), newStore(t)
	hold(t, full)
	p, _ := newPeers(t, empty, gone(t), replica(t, full))
	if err := p.Copy(t.Context(), sum, int64(len(content))); err != nil {
		t.Fatal(err)
	}
	if !empty.Has(sum) {
		t.Error("the module is not in the store")
	}
}

func TestCopyRefusesContentWithAnotherDigest(t *testing.T) {
	liar := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("another module")) }))
	defer liar.Close()
	modules := newStore(t)
	p, _ := newPeers(t, modules, liar.URL)
	if err := p.Copy(t.Context(), sum, int64(len(content))); !errors.Is(err, ErrNoPeer) {
		t.Errorf("got %v", err)
	}
	if modules.Has(sum) {
		t.Error("the store took it")
	}
}

func TestCopyWithoutReplicas(t *testing.T) {
	p, _ := newPeers(t, newStore(t))
	if err := p.Copy(t.Context(), sum, int64(len(content))); !errors.Is(err, ErrNoPeer) {
		t.Errorf("got %v", err)
	}
}

func TestServedWaitsForEveryReplicaThatAnswers(t *testing.T) {
	own, other := newStore(t), newStore(t)
	hold(t, own)
	asked := make(chan struct{})
	lacking := replica(t, other)
	watched := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		response, err := http.DefaultClient.Head(lacking + r.URL.Path)
		if err != nil {
			t.Error(err)
			return
		}
		defer response.Body.Close()
		w.WriteHeader(response.StatusCode)
		asked <- struct{}{}
	}))
	defer watched.Close()
	p, woken := newPeers(t, own, replica(t, own), watched.URL, gone(t))
	if served, _ := p.Served(owner, sum); served {
		t.Fatal("a replica does not have it yet")
	}
	for range 2 { // the second question comes only after the first has not been enough
		select {
		case <-asked:
		case <-woken:
			t.Fatal("woken although a replica does not have it")
		}
	}
	hold(t, other)
	for {
		select {
		case <-asked:
			continue
		case name := <-woken:
			if served, _ := p.Served(owner, sum); name != owner || !served {
				t.Errorf("woke %s", name)
			}
			return
		}
	}
}

func TestAFailingNameServerIsNotTakenForNoReplicas(t *testing.T) {
	p, _ := newPeers(t, newStore(t), "http://replicas.invalid")
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.missing(ended, sum); err == nil {
		t.Error("a name that cannot be looked up is taken for no replicas")
	}
}

func TestAReplicaAloneWaitsForNoOther(t *testing.T) {
	p, _ := newPeers(t, newStore(t))
	if served, _ := p.Served(owner, sum); !served {
		t.Error("it waits, although there is no other replica")
	}
}

func TestServedWaitsForTheURLThatSidecarsAsk(t *testing.T) {
	modules := newStore(t)
	woken := make(chan types.NamespacedName, 1)
	p, err := New(t.Context(), nil, replica(t, modules), modules, func(name types.NamespacedName) { woken <- name })
	if err != nil {
		t.Fatal(err)
	}
	p.tellAfter = 0
	if served, why := p.Served(owner, sum); served || why != nil {
		t.Fatal(served, why)
	}
	<-woken
	served, why := p.Served(owner, sum)
	if served || why == nil || !strings.HasSuffix(why.Error(), ", where sidecars ask (--module-server-url), answers 503") {
		t.Errorf("%t %v", served, why)
	}
	hold(t, modules)
	<-woken
	if served, why := p.Served(owner, sum); !served || why != nil {
		t.Error(served, why)
	}
}

func TestAServiceThatIsGivenUpIsNotAskedForAWhile(t *testing.T) {
	p, err := New(t.Context(), nil, gone(t), newStore(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.unserved(t.Context(), sum); err == nil || !strings.HasPrefix(err.Error(), "the operator cannot reach its own module server, as sidecars do (--module-server-url): ") {
		t.Error(err)
	}
	p.unasked = time.Now().Add(time.Minute)
	if err := p.unserved(t.Context(), sum); err != nil {
		t.Error(err)
	}
}

func TestNewNamesAnInvalidURL(t *testing.T) {
	if _, err := New(t.Context(), []string{"modules:8082"}, "", nil, nil); err == nil || !strings.Contains(err.Error(), "modules:8082") {
		t.Errorf("got %v", err)
	}
}
