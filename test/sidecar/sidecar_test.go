package sidecar_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/wasme-io/wasme-operator/test/sidecar"
)

var first, second = netip.MustParseAddr("127.1.2.3"), netip.MustParseAddr("127.1.2.4")

func TestEachPodAnswersAtItsAddress(t *testing.T) {
	s := start(t, sidecar.Page("others"))
	s.Answer(sidecar.Page("first"), first)
	want(t, s, first, "first")
	want(t, s, second, "others")
	s.AnswerElse(sidecar.Page("changed"))
	want(t, s, first, "first")
	want(t, s, second, "changed")
	want(t, s, second, "changed")

	if got := s.Requests(second); got != 3 {
		t.Errorf("%d requests of one pod", got)
	}
	if requests, pods := s.AllRequests(); requests != 5 || pods != 2 {
		t.Errorf("%d requests of %d pods", requests, pods)
	}
	s.ResetRequests()
	if requests, pods := s.AllRequests(); requests != 0 || pods != 0 {
		t.Errorf("%d requests of %d pods after the reset", requests, pods)
	}
}

func TestASilentPodIsLeftByTheClient(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	s := start(t, func(w http.ResponseWriter, r *http.Request) {
		cancel()
		sidecar.Silence(w, r)
		close(ended)
	})
	if text, err := get(ctx, s, first); err == nil {
		t.Errorf("it answers %q", text)
	}
	<-ended
}

func TestEnvoyShowsThePluginThatItRuns(t *testing.T) {
	for plugin, part := range map[string]string{
		"":                         "",
		"wasm_filter.shop/app/f@1": `{wasm_filter="shop/app/f@1"}`,
		"extensions.shop.hello-it": "extensions_shop_hello_it",
	} {
		page, err := sidecar.EnvoyPage(plugin)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(page, part) || strings.Contains(page, "details") {
			t.Errorf("%q: %s", plugin, page)
		}
	}
}

func start(t *testing.T, answer http.HandlerFunc) *sidecar.Server {
	t.Helper()
	s, err := sidecar.Start(answer)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func want(t *testing.T, s *sidecar.Server, pod netip.Addr, text string) {
	t.Helper()
	got, err := get(t.Context(), s, pod)
	if err != nil || got != text {
		t.Errorf("%s answers %q, %v", pod, got, err)
	}
}

func get(ctx context.Context, s *sidecar.Server, pod netip.Addr) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s/stats/prometheus", netip.AddrPortFrom(pod, s.Port())), http.NoBody)
	if err != nil {
		return "", err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return string(text), err
}
