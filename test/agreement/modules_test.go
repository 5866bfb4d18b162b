package agreement_test

import (
	"errors"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/wasme-io/wasme-operator/internal/preflight/host"
	"github.com/wasme-io/wasme-operator/test/agreement"
	"github.com/wasme-io/wasme-operator/test/filters/foreign"
)

// allowing answers the calls of modules so that they let a request pass.
func allowing(host.Message) host.Message {
	m := answer("200")
	m.Body = [][]byte{[]byte("allow"), nil}
	return m
}

// serveGRPC answers each gRPC call with an empty message and status 0.
func serveGRPC(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body) // the module's message says nothing
	w.Header().Set("content-type", "application/grpc")
	w.Header().Set(http.TrailerPrefix+"grpc-status", "0")
	_, _ = w.Write(make([]byte, 5)) // the client has gone when this fails
}

func TestForeignModulesRun(t *testing.T) {
	for _, m := range foreign.All {
		t.Run(m.Name, func(t *testing.T) {
			module, err := foreign.Build(t.Context(), m.Name)
			if err != nil {
				t.Fatal(err)
			}
			setup := agreement.Setup{
				Module: module, RootID: m.RootID, Configuration: m.Configuration, Answer: allowing, Serve: http.HandlerFunc(serveGRPC),
				Patience: patience,
			}
			e := start(t, setup)
			request := post(pairs("content-type", "application/json", "x-user", "me", "x-secret", "yes"), pairs("x-end", "1"), `{"id"`, `: 1}`)
			seen := send(t, e, host.Exchange{Request: request, Response: answer("200")})
			if seen.Request == nil || seen.Details != "via_upstream" || len(seen.Reasons) > 0 {
				t.Errorf("%+v", seen)
			}
			for _, configuration := range m.Refused {
				setup.Configuration = configuration
				refuses(t, setup)
			}
		})
	}
}

// patience is longer than the ticks of the modules that hold requests until one.
const patience = 10 * time.Second

func refuses(t *testing.T, setup agreement.Setup) {
	t.Helper()
	e, err := agreement.Start(t.Context(), setup)
	if err == nil {
		t.Errorf("it accepts the configuration %q", setup.Configuration)
		err = e.Close()
	}
	if _, refused := errors.AsType[*agreement.Refused](err); !refused && err != nil {
		t.Error(err)
	}
}
