package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	networking "istio.io/client-go/pkg/apis/networking/v1alpha3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/test/mesh"
)

const (
	// headerRounds is how often each side changes the header, in turn.
	headerRounds = 30
	// headerBound is the time through the operator in times of that by hand.
	headerBound = 1.15
	// requestChanges is the number of changes under load.
	requestChanges = 50
	// connections ask without a pause, each its own.
	connections = 4
	// firstValue is the configuration that the copied EnvoyFilter holds.
	firstValue = "value-first"
	// debounced is longer than istiod waits for more changes after one.
	debounced = 400 * time.Millisecond
)

// traffic measures what Envoy answers: how long a change of a FilterDeployment
// takes to get there, against the same change of an EnvoyFilter by hand, and
// how many requests fail during changes.
func (p *perf) traffic(ctx context.Context) error {
	c, started, err := startMesh(ctx)
	if err != nil {
		return err
	}
	defer c.stop()
	if _, err := c.StartOperator(ctx, mesh.OperatorOptions{}); err != nil {
		return err
	}
	operated, byHand, err := c.twoSides(ctx, started)
	if err != nil {
		return fmt.Errorf("preparing: %w", err)
	}
	if err := p.headers(ctx, operated, byHand); err != nil {
		return err
	}
	return p.requests(ctx, operated)
}

// side is a workload whose filter's configuration can be changed.
type side struct {
	url    string
	change func(ctx context.Context, value string) error
}

// twoSides are one workload under the operator, and another one with an
// EnvoyFilter of the same shape that nobody looks after.
func (c *cluster) twoSides(ctx context.Context, m *mesh.Mesh) (operated, byHand side, err error) {
	image, err := c.push(ctx, "")
	if err != nil {
		return operated, byHand, err
	}
	for namespace, side := range map[string]*side{"operated": &operated, "by-hand": &byHand} {
		running, err := m.StartWorkload(ctx, mesh.Workload{
			Namespace: namespace, Name: "app", Labels: map[string]string{"app": "app"}, Port: 9080, NativeSidecar: true,
		})
		if err != nil {
			return operated, byHand, err
		}
		side.url = running.URL
	}
	fd := filterDeployment("operated", "hello", image, firstValue, nil)
	operated.change = func(ctx context.Context, value string) error { return c.configure(ctx, fd, value) }
	if err := c.admin.Create(ctx, fd); err != nil {
		return operated, byHand, err
	}
	if err := c.awaitReady(ctx, fd); err != nil {
		return operated, byHand, err
	}
	if byHand.change, err = c.handmade(ctx, fd, "by-hand"); err != nil {
		return operated, byHand, err
	}
	for _, s := range []side{operated, byHand} {
		if _, err := s.timed(ctx, "value-second"); err != nil {
			return operated, byHand, err
		}
	}
	return operated, byHand, nil
}

// handmade copies the output of a FilterDeployment to another namespace, and
// returns what changes the copy: its configuration and its revision, as the
// operator does, with one request.
func (c *cluster) handmade(ctx context.Context, fd *wasmev1.FilterDeployment, namespace string) (func(context.Context, string) error, error) {
	var list networking.EnvoyFilterList
	if err := c.admin.List(ctx, &list, client.InNamespace(fd.Namespace)); err != nil {
		return nil, fmt.Errorf("reading the output: %w", err)
	}
	if len(list.Items) != 1 {
		return nil, fmt.Errorf("there are %d outputs, not one", len(list.Items))
	}
	content, err := json.Marshal(&list.Items[0].Spec)
	if err != nil {
		return nil, fmt.Errorf("encoding the output: %w", err)
	}
	template := strings.ReplaceAll(string(content), fd.Namespace, namespace)
	object := &networking.EnvoyFilter{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "hand-made"}}
	if err := json.Unmarshal([]byte(template), &object.Spec); err != nil {
		return nil, fmt.Errorf("decoding the output: %w", err)
	}
	revision, edits := fd.Status.Revision, 0
	change := func(ctx context.Context, value string) error {
		edits++
		edited := strings.NewReplacer(firstValue, value, revision, fmt.Sprintf("%0*x", len(revision), edits)).Replace(template)
		if err := json.Unmarshal([]byte(edited), &object.Spec); err != nil {
			return fmt.Errorf("decoding the edited output: %w", err)
		}
		return c.admin.Update(ctx, object)
	}
	return change, c.admin.Create(ctx, object)
}

func (p *perf) headers(ctx context.Context, operated, byHand side) error {
	var ours, theirs samples
	for i := range 2 * headerRounds {
		side, series := operated, &ours
		// In turn, and every other time the other way round.
		if (i/2+i)%2 == 1 {
			side, series = byHand, &theirs
		}
		took, err := side.timed(ctx, fmt.Sprint("header-", i))
		if err != nil {
			return err
		}
		*series = append(*series, took)
	}
	p.table.addRatio("configuration changed to new header at Envoy", ours, "EnvoyFilter changed by hand", theirs, atMost(headerBound))
	return nil
}

// timed is how long a change takes to be seen by who asks the workload.
func (s side) timed(ctx context.Context, value string) (time.Duration, error) {
	took, err := stopwatch(func() error {
		if err := s.change(ctx, value); err != nil {
			return err
		}
		return s.awaitHeader(ctx, value)
	})
	if err != nil {
		return 0, err
	}
	return took, pause(ctx, debounced)
}

func (s side) awaitHeader(ctx context.Context, value string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		_, header, err := get(ctx, http.DefaultClient, s.url)
		if err == nil && header == value {
			return nil
		}
		if pause(ctx, time.Millisecond) != nil {
			return fmt.Errorf("waiting for the header %q at %s: got %q, %w", value, s.url, header, err)
		}
	}
}

// get returns the status and the header that the filter sets.
func get(ctx context.Context, from *http.Client, url string) (status int, header string, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return 0, "", err
	}
	response, err := from.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	return response.StatusCode, response.Header.Get("hello"), err
}

func (p *perf) requests(ctx context.Context, operated side) error {
	load := startLoad(ctx, operated.url)
	for i := range requestChanges {
		if _, err := operated.timed(ctx, fmt.Sprint("under-load-", i)); err != nil {
			load.stop()
			return err
		}
	}
	all, failed := load.stop()
	p.table.add(row{
		name:     fmt.Sprintf("requests failed over %d changes of configuration", requestChanges),
		measured: fmt.Sprintf("%d of %d requests", failed, all),
		beside:   "-",
		value:    float64(failed),
		unit:     count,
		bound:    atMost(0),
	})
	return nil
}

// stream asks over connections that are kept alive, without a pause.
type stream struct {
	end         context.CancelFunc
	done        sync.WaitGroup
	all, failed atomic.Int64
}

func startLoad(ctx context.Context, url string) *stream {
	s := &stream{}
	ctx, s.end = context.WithCancel(ctx)
	for range connections {
		s.done.Go(func() {
			transport := &http.Transport{}
			defer transport.CloseIdleConnections()
			for ctx.Err() == nil {
				status, _, err := get(ctx, &http.Client{Transport: transport}, url)
				if ctx.Err() != nil {
					return
				}
				s.all.Add(1)
				if err != nil || status != http.StatusOK {
					s.failed.Add(1)
				}
			}
		})
	}
	return s
}

func (s *stream) stop() (all, failed int64) {
	s.end()
	s.done.Wait()
	return s.all.Load(), s.failed.Load()
}
