package pull

import (
	"net/http"
	"testing"
	"time"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/test/moduletest"
	"github.com/wasme-io/wasme-operator/test/registry"
)

func TestHowLongAServerWantsToBeLeftAlone(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		status int
		header string
		want   time.Duration
	}{
		"seconds":                {429, "90", 90 * time.Second},
		"a date":                 {429, "Sun, 01 Mar 2026 12:05:00 GMT", 5 * time.Minute},
		"a date that has passed": {429, "Sun, 01 Mar 2026 11:00:00 GMT", time.Second},
		"no time":                {429, "", defaultRetryAfter},
		"nonsense":               {429, "soon", defaultRetryAfter},
		"a negative number":      {429, "-5", defaultRetryAfter},
		"zero":                   {429, "0", time.Second},
		"a day":                  {429, "86400", maxRetryAfter},
		"a century":              {429, "3153600000", defaultRetryAfter},
		"overloaded":             {503, "30", 30 * time.Second},
		"only unavailable":       {503, "", 0},
		"broken":                 {500, "30", 0},
		"found":                  {200, "30", 0},
	} {
		t.Run(name, func(t *testing.T) {
			resp := &http.Response{StatusCode: c.status, Header: http.Header{}}
			if c.header != "" {
				resp.Header.Set("Retry-After", c.header)
			}
			got := limitOf(resp, now)
			if (got == nil) != (c.want == 0) || got != nil && (got.after != c.want || got.status != c.status) {
				t.Errorf("got %v, want %s", got, c.want)
			}
		})
	}
}

func TestALimitIsReportedAfterOneRequest(t *testing.T) {
	for name, c := range map[string]struct {
		options  []registry.Option
		fault    registry.Fault
		requests int
	}{
		"ping":     {nil, registry.Limit("90"), 1},
		"token":    {[]registry.Option{registry.WithBearerAuth(nil)}, answer("/token", limited), 2},
		"manifest": {nil, answer("/manifests/", limited), 3},
		"blob":     {nil, answer("/blobs/", limited), 4},
	} {
		t.Run(name, func(t *testing.T) {
			r := moduletest.StartRegistry(t, c.options...)
			image := moduletest.Push(t, r, "filter:v1", moduletest.FormOf(t, registry.CNCFArtifact, moduletest.Wasm("limited")))
			r.Inject(c.fault)
			_, err := pull(t, Options{Limits: module.DefaultLimits}, Request{Image: image, PlainHTTP: true})
			moduletest.WantError(t, err, wasmev1.ReasonRegistryUnavailable, r.Host()+" limits requests (status 429)")
			if got := module.AsError(err); got == nil || got.RetryAfter != 90*time.Second {
				t.Errorf("%+v", got)
			}
			moduletest.WantRequests(t, r, "", "", c.requests)
		})
	}
	t.Run("URL", func(t *testing.T) {
		r := moduletest.StartRegistry(t)
		url := r.PutFile("/filter.wasm", moduletest.Wasm("limited"))
		r.Inject(registry.Limit("90"))
		_, err := fetch(t, NewClient(Options{Limits: module.DefaultLimits}), Request{URL: url, SHA256: moduletest.SHA256(moduletest.Wasm("limited"))})
		moduletest.WantError(t, err, wasmev1.ReasonRegistryUnavailable, r.Host()+" limits requests (status 429)")
		if got := module.AsError(err); got == nil || got.RetryAfter != 90*time.Second {
			t.Errorf("%+v", got)
		}
	})
}

func limited(w http.ResponseWriter) {
	w.Header().Set("Retry-After", "90")
	w.WriteHeader(http.StatusTooManyRequests)
}
