package dataplane

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"slices"
	"syscall"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/log"
)

// Failure says why a pod could not be asked.
type Failure string

const (
	// FailureAddress says that no pod can have this address.
	FailureAddress Failure = "invalid_address"
	// FailureTimeout says that there was no answer within 2 s.
	FailureTimeout Failure = "timeout"
	// FailureRefused says that nothing listens there. The sidecar may not have started, or
	// it serves its metrics to its own pod only.
	FailureRefused Failure = "connection_refused"
	// FailureConnection says that there is no route to the pod, or that the connection broke.
	FailureConnection Failure = "connection_failed"
	// FailureStatus says that the answer's status is not 200.
	FailureStatus Failure = "bad_status"
	// FailureMalformed says that the answer is not Prometheus text, or is compressed.
	FailureMalformed Failure = "malformed"
	// FailureTooLarge says that the answer is longer than that of any sidecar.
	FailureTooLarge Failure = "too_large"
)

const (
	statsPath = "/stats/prometheus"
	// statsQuery limits Envoy's answer to the rows of plugins, and two of listeners, which
	// takes 2 ms and a few hundred bytes instead of about 40 KB. pilot-agent passes it on.
	statsQuery = "filter=wasm.*vm_reload|listener_manager.lds.update_(success|rejected)"
	// maxHeaderBytes is the longest header of an answer.
	maxHeaderBytes = 16 << 10
	// appScrapeSeconds is how long pilot-agent can wait for the metrics of the app, which
	// it puts after its own.
	appScrapeSeconds = "1"
)

var errAddress = errors.New("no pod can have this address")

type statusError int

func (e statusError) Error() string { return fmt.Sprintf("the answer's status is %d", int(e)) }

// scraper asks sidecars for their metrics.
type scraper struct {
	transport http.RoundTripper
}

func newScraper() *scraper {
	return &scraper{transport: &http.Transport{
		Proxy:       nil,
		DialContext: (&net.Dialer{KeepAlive: -1}).DialContext,
		// Each look has its own connection, because thousands of open ones would cost more.
		DisableKeepAlives: true,
		// An answer that unpacks to more than was sent is not accepted.
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxHeaderBytes,
		WriteBufferSize:        1 << 10,
	}}
}

// look asks a pod what it runs. Where Envoy's port is shut, pilot-agent is asked, which
// merges Envoy's answer into its own; and wherever that can explain why a plugin is not
// there. Each of the two has the time that the lane gives.
func (s *scraper) look(ctx context.Context, j *job) sight {
	if j.viaAgent {
		if seen := s.askAgent(ctx, j); seen.viaAgent {
			if j.counts {
				seen.traffic = s.askTraffic(ctx, j, agentProbes, j.at.agentEndpoint())
			}
			return seen
		}
	}
	seen := s.askEnvoy(ctx, j)
	switch seen.failure {
	case "":
		if slices.ContainsFunc(j.explain, seen.lacks) {
			seen.agent = s.askAgent(ctx, j).agent
		}
		if j.counts {
			seen.traffic = s.askTraffic(ctx, j, envoyProbes, j.at.statsEndpoint())
		}
	case FailureTimeout, FailureRefused, FailureConnection:
		if j.lane.asksAgents && !j.viaAgent {
			if merged := s.askAgent(ctx, j); merged.viaAgent {
				return merged
			}
		}
	}
	return seen
}

func (s *scraper) askEnvoy(ctx context.Context, j *job) (seen sight) {
	took, err := s.get(ctx, envoyProbes, j.at.statsEndpoint(), statsQuery, j.lane.patience, func(body io.Reader) (err error) {
		seen.page, err = parsePage(body)
		return err
	})
	if seen.took = took; err != nil {
		log.FromContext(ctx).V(1).Info("Asking a sidecar what it runs failed", "endpoint", j.at.statsEndpoint(), "error", err.Error())
		return sight{failure: failureOf(err), took: took}
	}
	return seen
}

// askAgent returns nothing but the time that it took where pilot-agent does not answer.
func (s *scraper) askAgent(ctx context.Context, j *job) (seen sight) {
	var answer *agentPage
	took, err := s.get(ctx, agentProbes, j.at.agentEndpoint(), statsQuery, j.lane.patience, func(body io.Reader) (err error) {
		answer, err = parseAgent(body)
		return err
	})
	if seen.took = took; err != nil {
		log.FromContext(ctx).V(1).Info("Asking a pilot-agent failed", "endpoint", j.at.agentEndpoint(), "error", err.Error())
		return seen
	}
	seen.agent = &answer.agentCounts
	if seen.viaAgent = answer.listeners.shown; seen.viaAgent {
		seen.page = answer.page
	}
	return seen
}

// askTraffic returns nil where the requests cannot be counted.
func (s *scraper) askTraffic(ctx context.Context, j *job, counted *probes, at netip.AddrPort) (found *traffic) {
	_, err := s.get(ctx, counted, at, trafficQuery, j.lane.patience, func(body io.Reader) (err error) {
		found, err = parseTraffic(body)
		return err
	})
	if err != nil {
		log.FromContext(ctx).V(1).Info("Counting a sidecar's requests failed", "endpoint", at, "error", err.Error())
		return nil
	}
	return found
}

func (s sight) lacks(plugin string) bool {
	return !shows(plugin, rowsOf(plugin, s.plugins))
}

func (p Pod) statsEndpoint() netip.AddrPort {
	return endpoint(p.Address, p.StatsPort, DefaultStatsPort)
}

func (p Pod) agentEndpoint() netip.AddrPort {
	return endpoint(p.Address, p.AgentPort, DefaultAgentPort)
}

func endpoint(address netip.Addr, port, fallback uint16) netip.AddrPort {
	if port == 0 {
		port = fallback
	}
	return netip.AddrPortFrom(address.Unmap(), port)
}

// get asks one endpoint, passes the answer to read, and returns how long that took. It
// follows no redirects, uses no proxy and looks up no names.
func (s *scraper) get(ctx context.Context, counted *probes, at netip.AddrPort, query string, patience time.Duration, read func(io.Reader) error) (took time.Duration, err error) {
	begin := time.Now()
	defer func() {
		if cause := recover(); cause != nil {
			// The answer of one pod must not end the operator.
			err = fmt.Errorf("%w: %v", errMalformed, cause)
			log.FromContext(ctx).Error(err, "Reading a sidecar's answer panicked", "endpoint", at, "stack", string(debug.Stack()))
		}
		took = time.Since(begin)
		counted.observe(failureOf(err), took)
	}()
	if !podAddress(at.Addr()) {
		return 0, errAddress
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+at.String()+statsPath+"?"+query, http.NoBody)
	if err != nil {
		return 0, err
	}
	request.Header.Set("User-Agent", "wasme-operator")
	request.Header.Set("X-Prometheus-Scrape-Timeout-Seconds", appScrapeSeconds)
	response, err := s.transport.RoundTrip(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return 0, statusError(response.StatusCode)
	}
	if encoding := response.Header.Get("Content-Encoding"); encoding != "" {
		return 0, fmt.Errorf("%w: it is encoded (%.20q)", errMalformed, encoding)
	}
	return 0, read(response.Body)
}

// podAddress reports whether a pod can have an address, so that the operator asks nothing
// else. It accepts loopback addresses, which the pods of tests have.
func podAddress(address netip.Addr) bool {
	return address.IsValid() && address.Zone() == "" &&
		!address.IsUnspecified() && !address.IsMulticast() && !address.IsLinkLocalUnicast()
}

func failureOf(err error) Failure {
	var status statusError
	var network net.Error
	switch {
	case err == nil:
		return ""
	case errors.Is(err, errAddress):
		return FailureAddress
	case errors.Is(err, errTooLarge):
		return FailureTooLarge
	case errors.Is(err, errMalformed):
		return FailureMalformed
	case errors.As(err, &status):
		return FailureStatus
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &network) && network.Timeout():
		return FailureTimeout
	case errors.Is(err, syscall.ECONNREFUSED):
		return FailureRefused
	}
	return FailureConnection
}
