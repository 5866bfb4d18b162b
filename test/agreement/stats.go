package agreement

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
)

const (
	// pollInterval is the time between two looks at Envoy's counters.
	pollInterval = time.Millisecond
	// bound is how long Envoy may take for what takes it milliseconds.
	bound = 30 * time.Second
)

// stats are Envoy's counters and gauges, by their names.
type stats map[string]int

// look returns the counters that an exchange changes.
func (e *Envoy) look(ctx context.Context) (stats, error) {
	content, err := e.ask(ctx, "/stats?filter="+url.QueryEscape(`^(http\.main\.downstream_(cx|rq)_|cluster\.[a-z]+\.upstream_(cx|rq)_)`))
	if err != nil {
		return nil, err
	}
	all := stats{}
	lines := bufio.NewScanner(bytes.NewReader(content))
	for lines.Scan() {
		name, text, _ := strings.Cut(lines.Text(), ": ")
		if value, err := strconv.Atoi(text); err == nil { // histograms have more than a number
			all[name] = value
		}
	}
	return all, lines.Err()
}

// Metric returns the value of one of Envoy's metrics, and whether Envoy has it. Those that
// a module defines have the prefix "wasmcustom.".
func (e *Envoy) Metric(ctx context.Context, name string) (int, bool, error) {
	content, err := e.ask(ctx, "/stats")
	if err != nil {
		return 0, false, err
	}
	for line := range strings.Lines(string(content)) {
		if text, found := strings.CutPrefix(line, name+": "); found {
			value, err := strconv.Atoi(strings.TrimSpace(text))
			return value, err == nil, err
		}
	}
	return 0, false, nil
}

// ask asks Envoy's administration interface.
func (e *Envoy) ask(ctx context.Context, path string) ([]byte, error) {
	return get(ctx, fmt.Sprintf("http://127.0.0.1:%d%s", e.places.admin, path))
}

func get(ctx context.Context, address string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode >= http.StatusBadRequest {
		err = fmt.Errorf("asking Envoy: %s: %s", response.Status, content)
	}
	return content, err
}

// pass returns when Envoy's worker has ended what it was doing: it has one thread, which
// answers this request after that.
func (e *Envoy) pass(ctx context.Context) error {
	_, err := get(ctx, fmt.Sprintf("http://127.0.0.1:%d/", e.places.barrier))
	return err
}

// until looks again and again until done says that it has seen what it waits for. Before each
// look the worker has ended what it was doing.
func (e *Envoy) until(ctx context.Context, what string, done func(stats) bool) error {
	err := wait.PollUntilContextTimeout(ctx, pollInterval, bound, true, func(ctx context.Context) (bool, error) {
		if err := e.pass(ctx); err != nil {
			return false, err
		}
		seen, err := e.look(ctx)
		return err == nil && done(seen), err
	})
	if err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("waiting until Envoy %s: %w", what, err)
	}
	return err
}

const downstream = "http.main.downstream_"

func upstream(cluster string) string { return "cluster." + cluster + ".upstream_" }

// connecting reports whether there are requests to a cluster that wait for a connection.
func (s stats) connecting(cluster string) bool {
	return s[upstream(cluster)+"rq_pending_active"]+s[upstream(cluster)+"cx_connecting"] > 0
}

// quiet reports whether neither Envoy nor this process have anything to do for an exchange.
func (e *Envoy) quiet(now stats) bool {
	return !now.connecting(Upstream) && e.upstream.idle(now[upstream(Upstream)+"cx_tx_bytes_total"]) && e.answeredCalls(now)
}

// answeredCalls reports whether all calls of the module are answered.
func (e *Envoy) answeredCalls(now stats) bool {
	return !now.connecting(Callouts) && !now.connecting(GRPC) && now[upstream(Callouts)+"rq_active"]+now[upstream(GRPC)+"rq_active"] == 0
}

// settle waits until the module has had the answers to its calls.
func (e *Envoy) settle(ctx context.Context) error {
	var last stats
	return e.until(ctx, "has answered the calls of the module", func(now stats) bool {
		settled := e.answeredCalls(now) && maps.Equal(now, last)
		last = now
		return settled
	})
}
