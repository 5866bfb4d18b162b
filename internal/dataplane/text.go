package dataplane

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// A page has these bounds, because anyone can listen at a pod's address.
const (
	maxPage = 1 << 20
	// maxLine is many times the longest row of a plugin, about 1 KB.
	maxLine = 16 << 10
	// maxLines is enough for four metrics of each of 256 plugins, each with its type.
	maxLines = 4 * 2 * 256
)

var (
	errTooLarge  = errors.New("the answer is longer than that of any sidecar")
	errMalformed = errors.New("the answer is not Prometheus text")
)

// reloads counts how often a plugin's VM was created again after crashes (FAIL_RELOAD),
// since the plugin was loaded: with success, without, or postponed because the last time
// was a moment ago.
type reloads struct {
	success, failure, backoff uint64
}

// roseFrom reports whether there was a crash between two looks at a plugin. If a counter
// is lower than before, all of them have started again from zero.
func (r reloads) roseFrom(before reloads) bool {
	if r.success < before.success || r.failure < before.failure || r.backoff < before.backoff {
		before = reloads{}
	}
	return r != before
}

// page is what Envoy says about plugins.
type page struct {
	// plugins holds those that it has loaded, and those that it refused just now.
	plugins map[string]reloads
	// listeners counts its updates of listeners. Every Envoy shows them.
	listeners listenerCounts
}

// listenerCounts counts the updates of an Envoy's listeners since it started.
type listenerCounts struct {
	// shown says that the page has them.
	shown             bool
	accepted, refused uint64
}

// Prefixes of what pages show.
const (
	pluginPrefix = "envoy_wasm_"
	// Istio's bootstrap never leaves out the metrics of the listener manager, because
	// pilot-agent's readiness depends on them.
	listenersPrefix   = "envoy_listener_manager_lds_update_"
	acceptedListeners = listenersPrefix + "success"
	refusedListeners  = listenersPrefix + "rejected"
	// agentPrefix begins pilot-agent's own metrics.
	agentPrefix = "istio_agent_"
	conversions = "istio_agent_wasm_config_conversion_count{"
)

// parsePage reads Envoy's answer to statsQuery. It is in Prometheus' text format 0.0.4
// and has four counters for each plugin:
//
//	envoy_wasm_vm_reload{wasm_filter="bookinfo/details-v1/hello@14643ae8"} 0
//	envoy_wasm_vm_reload_success{wasm_filter="bookinfo/details-v1/hello@14643ae8"} 0
//	envoy_wasm_bookinfo_hello_vm_reload{} 0
//
// The first two are those of a plugin named wasm_filter.bookinfo/details-v1/hello@14643ae8,
// because of a rule in Istio's bootstrap. The third is that of one named bookinfo.hello,
// whose name is sanitised. Any other text is an error.
func parsePage(body io.Reader) (page, error) {
	found := page{plugins: map[string]reloads{}}
	var parser sampleParser
	lines := newLines(body, maxPage, maxLines)
	for lines.Scan() {
		line := lines.Text()
		if line == "" || line[0] == '#' {
			continue
		}
		s, err := parser.parse(line)
		if err != nil {
			return page{}, err
		}
		found.add(s)
	}
	return found, lines.err()
}

// add takes over a sample of Envoy.
func (p *page) add(s sample) {
	switch s.metric {
	case acceptedListeners:
		p.listeners.shown, p.listeners.accepted = true, s.count()
	case refusedListeners:
		p.listeners.refused = s.count()
	}
	if name, counter := pluginOf(s); name != "" {
		counts := p.plugins[name]
		counts.set(counter, s.count())
		p.plugins[name] = counts
	}
}

func (r *reloads) set(counter string, value uint64) {
	switch counter {
	case "_success":
		r.success = value
	case "_failure":
		r.failure = value
	case "_backoff":
		r.backoff = value
	}
}

// pluginOf returns which plugin a sample is about, and which of its counters it is.
func pluginOf(s sample) (name, counter string) {
	rest, found := strings.CutPrefix(s.metric, pluginPrefix)
	if !found {
		return "", ""
	}
	for _, counter = range []string{"_success", "_failure", "_backoff", ""} {
		if name, found = strings.CutSuffix(rest, "vm_reload"+counter); found {
			break
		}
	}
	if !found || name != "" && !strings.HasSuffix(name, "_") {
		return "", ""
	}
	name = strings.TrimSuffix(name, "_")
	label := s.labels["wasm_filter"]
	switch {
	case label == "":
		return name, counter
	case name == "":
		return "wasm_filter." + label, counter
	}
	return "wasm_filter." + label + "." + name, counter
}

// agentCounts holds pilot-agent's counts since it started, over all plugins of its pod.
type agentCounts struct {
	// failedFetches counts the plugins whose module could not be fetched. Each was
	// replaced by one that allows or denies everything.
	failedFetches uint64
	// plugins counts those that it passed on to Envoy, replaced or not.
	plugins uint64
}

// agentPage is what pilot-agent says: its own counts and, where it could ask Envoy
// and Istio is not set up otherwise, what that says.
type agentPage struct {
	agentCounts
	page
}

// parseAgent reads pilot-agent's answer. Its own metrics come first. Those of Envoy,
// filtered by statsQuery, and of the app follow, of which the latter can have any form
// and length. What comes after the bounds of a page is the app's.
func parseAgent(body io.Reader) (*agentPage, error) {
	found := agentPage{page: page{plugins: map[string]reloads{}}}
	var parser sampleParser
	answered := false
	lines := newLines(body, maxPage, maxLines)
	for lines.Scan() {
		line := lines.Text()
		answered = answered || strings.HasPrefix(line, agentPrefix)
		isConversion := strings.HasPrefix(line, conversions)
		if !isConversion && !strings.HasPrefix(line, pluginPrefix) && !strings.HasPrefix(line, listenersPrefix) {
			continue
		}
		s, err := parser.parse(line)
		if err != nil {
			return nil, err
		}
		if isConversion {
			found.count(s)
			continue
		}
		found.add(s)
	}
	if answered {
		return &found, nil
	}
	if err := lines.err(); err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("%w of pilot-agent", errMalformed)
}

// count takes over a sample of pilot-agent's conversions.
func (c *agentCounts) count(s sample) {
	if c.plugins += s.count(); s.labels["result"] == "fetch_failure" {
		c.failedFetches = s.count()
	}
}

// lines is a Scanner that stops at the bounds of a page.
type lines struct {
	*bufio.Scanner
	body        *io.LimitedReader
	count, most int
}

func newLines(body io.Reader, bytes int64, most int) *lines {
	limited := &io.LimitedReader{R: body, N: bytes}
	scanner := bufio.NewScanner(limited)
	scanner.Buffer(nil, maxLine)
	return &lines{Scanner: scanner, body: limited, most: most}
}

// Scan returns false at the end of the page, or at its bounds.
func (l *lines) Scan() bool {
	if !l.Scanner.Scan() {
		return false
	}
	l.count++
	return l.count <= l.most
}

// err returns why the lines ended before the page did.
func (l *lines) err() error {
	switch err := l.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return fmt.Errorf("%w: a line is longer than %d bytes", errMalformed, maxLine)
	case err != nil:
		return err
	case l.count > l.most || l.body.N == 0:
		return errTooLarge
	}
	return nil
}

// sample is one line of Prometheus text. Its value is a count, unless the metric is the sum
// of a histogram.
type sample struct {
	metric string
	labels map[string]string
	value  float64
}

func (s sample) count() uint64 { return uint64(s.value) }

// sampleParser parses single lines, so that the memory that it needs does not depend on
// the page.
type sampleParser struct {
	parser *expfmt.TextParser
}

func (p *sampleParser) parse(line string) (sample, error) {
	if p.parser == nil {
		parser := expfmt.NewTextParser(model.LegacyValidation)
		p.parser = &parser
	}
	families, err := p.parser.TextToMetricFamilies(strings.NewReader(line + "\n"))
	if err != nil {
		return sample{}, fmt.Errorf("%w: %w", errMalformed, err)
	}
	for name, family := range families {
		for _, metric := range family.GetMetric() {
			return sampleOf(name, metric)
		}
	}
	return sample{}, fmt.Errorf("%w: %.100q", errMalformed, line)
}

func sampleOf(name string, metric *dto.Metric) (sample, error) {
	// maxCount is the largest count that a float64 holds exactly.
	const maxCount = 1 << 53
	value := metric.GetUntyped().GetValue()
	isCount := value == math.Trunc(value) || strings.HasSuffix(name, "_sum")
	if !(value >= 0 && value <= maxCount) || !isCount {
		return sample{}, fmt.Errorf("%w: %g is not a count", errMalformed, value)
	}
	labels := make(map[string]string, len(metric.GetLabel()))
	for _, label := range metric.GetLabel() {
		labels[label.GetName()] = label.GetValue()
	}
	return sample{metric: name, labels: labels, value: value}, nil
}
