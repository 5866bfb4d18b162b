package tap

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/wasme-io/wasme-operator/test/portforward"
)

func TestAPortForwardLeadsToThePod(t *testing.T) {
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "at "+r.URL.Path) // the client checks it
	}))
	defer app.Close()
	cluster := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/api/v1/namespaces/ns/pods/app/portforward" {
			http.Error(w, "not that pod", http.StatusForbidden)
			return
		}
		err := portforward.Serve(w, r, func(port string) string {
			if port != "15000" {
				t.Errorf("asked for port %s", port)
			}
			return strings.TrimPrefix(app.URL, "http://")
		})
		if err != nil {
			t.Error(err)
		}
	}))
	defer cluster.Close()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	forward := PortForward{Config: &rest.Config{Host: cluster.URL}}
	address, err := forward.Forward(ctx, client.ObjectKey{Namespace: "ns", Name: "app"}, AdminPort)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		response, err := http.Get("http://" + address + "/tap")
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(response.Body)
		_ = response.Body.Close() // it was read
		if string(content) != "at /tap" || err != nil {
			t.Errorf("%q, %v", content, err)
		}
	}
	stop()
	if _, err := forward.Forward(t.Context(), client.ObjectKey{Namespace: "ns", Name: "other"}, AdminPort); err == nil || !strings.Contains(err.Error(), "not that pod") {
		t.Errorf("another pod: %v", err)
	}
}
