package agreement

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wasme-io/wasme-operator/internal/preflight/host"
	"github.com/wasme-io/wasme-operator/test/mesh/binaries"
	"github.com/wasme-io/wasme-operator/test/mesh/ports"
	"github.com/wasme-io/wasme-operator/test/mesh/process"
)

// Envoy is one that runs. Its methods may be called concurrently, and then wait for each
// other.
type Envoy struct {
	// Lines are what the module logged while Envoy started, and Reasons are errors that Envoy
	// and its Wasm runtime logged.
	Lines   []host.Line
	Reasons []string

	setup   Setup
	folder  string
	places  places
	pool    ports.Pool
	process *process.Process
	log     log

	upstream, callouts *server
	grpc               *http.Server

	mu       sync.Mutex
	accesses int                      // streams that the access log has
	response atomic.Pointer[response] // of the upstream to the exchange under way
}

// Refused is the error of an Envoy that does not start with its module.
type Refused struct {
	// Reasons are the lines with which Envoy and its Wasm runtime refused.
	Reasons []string
	// Lines are what the module logged.
	Lines []host.Line
}

// Error implements error.
func (r *Refused) Error() string { return fmt.Sprintf("Envoy refused to start: %q", r.Reasons) }

// startTimeout bounds how long Envoy may take to start; it compiles the module then.
const startTimeout = 2 * time.Minute

// Start starts an Envoy. Its error is a *Refused when Envoy ends because of the module or
// its configuration.
func Start(ctx context.Context, setup Setup) (_ *Envoy, err error) {
	folder, err := os.MkdirTemp("", "agreement-")
	if err != nil {
		return nil, fmt.Errorf("making a folder for Envoy: %w", err)
	}
	e := &Envoy{setup: setup, folder: folder}
	defer func() {
		if err != nil {
			err = errors.Join(err, e.Close())
		}
	}()
	if err := e.prepare(); err != nil {
		return nil, err
	}
	path, err := binaries.Envoy(ctx, cmp.Or(setup.Log, io.Discard), setup.Version)
	if err != nil {
		return nil, err
	}
	return e, e.run(ctx, path)
}

// prepare makes all that Envoy needs to start.
func (e *Envoy) prepare() error {
	e.places.module = filepath.Join(e.folder, "module.wasm")
	e.places.accesses = filepath.Join(e.folder, "accesses.log")
	e.places.settings = filepath.Join(e.folder, "envoy.json")
	for _, port := range []*int{&e.places.listener, &e.places.barrier, &e.places.admin} {
		reserved, err := e.pool.Port()
		if err != nil {
			return err
		}
		*port = reserved
	}
	if err := e.listen(); err != nil {
		return err
	}
	settings, err := e.setup.bootstrap(e.places)
	if err != nil {
		return err
	}
	if err := os.WriteFile(e.places.settings, settings, 0o600); err != nil {
		return fmt.Errorf("writing Envoy's configuration: %w", err)
	}
	if err := os.WriteFile(e.places.module, e.setup.Module, 0o600); err != nil {
		return fmt.Errorf("writing the module: %w", err)
	}
	return nil
}

// listen starts what Envoy sends requests to.
func (e *Envoy) listen() error {
	var listeners [3]net.Listener
	for i, port := range []*int{&e.places.upstream, &e.places.callouts, &e.places.grpc} {
		l, bound, err := listen()
		if err != nil {
			return err
		}
		listeners[i], *port = l, bound
	}
	e.upstream = &server{listener: listeners[0], answer: func(host.Message) response { return *e.response.Load() }}
	e.callouts = &server{listener: listeners[1], answer: e.answerCallout}
	for cluster, s := range map[string]*server{Upstream: e.upstream, Callouts: e.callouts} {
		s.counted = func(ctx context.Context, bytes int) (int, error) { return e.readFrom(ctx, cluster, bytes) }
		s.serve()
	}
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	e.grpc = &http.Server{Handler: http.NotFoundHandler(), Protocols: protocols, ReadHeaderTimeout: bound}
	if e.setup.Serve != nil {
		e.grpc.Handler = e.setup.Serve
	}
	go func() { _ = e.grpc.Serve(listeners[2]) }() // it ends with Close
	return nil
}

func (e *Envoy) answerCallout(request host.Message) response {
	if e.setup.Answer == nil {
		return response{message: host.Message{Headers: host.Headers{{Name: ":status", Value: "404"}}}, limit: -1}
	}
	return response{message: e.setup.Answer(request), limit: -1}
}

// readFrom waits until Envoy has read so many bytes from a cluster, or has ended its requests,
// and has settled what that led to.
func (e *Envoy) readFrom(ctx context.Context, cluster string, bytes int) (read int, err error) {
	err = e.until(ctx, "has read a response", func(seen stats) bool {
		read = seen[upstream(cluster)+"cx_rx_bytes_total"]
		return read >= bytes || seen[upstream(cluster)+"rq_active"] == 0
	})
	if err == nil && cluster == Upstream {
		err = e.settle(ctx)
	}
	return read, err
}

// run starts the process, and waits until it serves.
func (e *Envoy) run(ctx context.Context, path string) error {
	components := "wasm:trace,misc:error"
	if e.setup.OriginPort != 0 {
		components = "wasm:error"
	}
	started, err := process.Group{Folder: e.folder}.Start(process.Command{
		Name: "envoy", Path: path, KillOnStop: true,
		Args: []string{
			"--config-path", e.places.settings, "--concurrency", strconv.Itoa(cmp.Or(e.setup.Workers, 1)), "--use-dynamic-base-id",
			"--file-flush-interval-msec", "10", "--log-level", "error", "--component-log-level", components, "--log-format", logFormat,
		},
	})
	if err != nil {
		return err
	}
	e.process, e.log = started, log{path: started.Log(), setup: &e.setup}
	err = started.WaitReady(ctx, startTimeout, func(ctx context.Context) error {
		_, err := e.ask(ctx, "/ready")
		return err
	})
	var logErr error
	e.Lines, e.Reasons, logErr = e.log.take()
	if err != nil && logErr == nil && started.Ended() && len(e.Reasons) > 0 {
		return &Refused{Reasons: e.Reasons, Lines: e.Lines}
	}
	return errors.Join(err, logErr)
}

// URL is where Envoy takes requests.
func (e *Envoy) URL() string { return fmt.Sprintf("http://127.0.0.1:%d/", e.places.listener) }

// PID is that of Envoy's process.
func (e *Envoy) PID() int { return e.process.PID() }

// Close ends the Envoy and removes its files.
func (e *Envoy) Close() error {
	var failed []error
	if e.process != nil {
		failed = append(failed, e.process.Stop())
	}
	for _, s := range []*server{e.upstream, e.callouts} {
		if s != nil {
			failed = append(failed, s.close())
		}
	}
	if e.grpc != nil {
		failed = append(failed, e.grpc.Close())
	}
	e.pool.Release()
	return errors.Join(append(failed, os.RemoveAll(e.folder))...)
}
