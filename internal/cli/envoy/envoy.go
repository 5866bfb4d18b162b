// Package envoy runs a filter in a real Envoy on this machine: for its author, who sends
// requests through it, changes the filter and sends them again.
//
//	config.go, patch.go   Envoy's configuration, written anew or put into one that there is; pure
//	find.go, process.go   the program and its process
//	admin.go, log.go      what Envoy says: statistics, and its log with the module's lines
//	upstream.go           what is behind Envoy: an echo, or a URL
//	exchange.go           a request, and what the filter made of it
//	watch.go              the author's files
//
// Envoy gets the filter by ECDS from a file, which names the file of the module. Swap writes
// another module and renames another file to that path: Envoy loads the module, and from then
// on new requests get it. Requests under way end with the module that they began with. What
// Envoy refuses changes nothing: the former module keeps serving.
package envoy

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// loadBound is how long Envoy may take to start, or to load a module: it compiles it then.
	loadBound = 2 * time.Minute
	// pollInterval is the time between two looks at Envoy.
	pollInterval = 20 * time.Millisecond
)

// Setup is what an Envoy runs.
type Setup struct {
	// Path is that of the program (Find).
	Path string
	// Module is the content of a .wasm file.
	Module []byte
	Plugin Plugin
	// Bootstrap is a configuration for Envoy that gets the filter (Patch); nil: the one of
	// Bootstrap, with Port, and an upstream that echoes requests or forwards them to Upstream.
	Bootstrap []byte
	Port      int
	Upstream  *url.URL
	// LogLevel is that of Envoy's Wasm logger, such as debug; info when empty.
	LogLevel string
	// Arguments go to Envoy.
	Arguments []string
	// Log is called with each record of Envoy's log; nil for none.
	Log func(Record)
	// Output receives Envoy's standard output; nil for nobody.
	Output io.Writer
}

// Envoy is one that runs. Its methods may be called concurrently.
type Envoy struct {
	setup    Setup
	folder   string
	places   places
	journal  *journal
	process  *process
	upstream *upstream // nil with a bootstrap of the user's
	admin    admin
	address  string // host:port of the listener

	swapping sync.Mutex
	module   string // the file of the one that serves
	version  int    // of the last resource
}

// places are Envoy's files.
type places struct{ bootstrap, admin, resource string }

// Refused is the error of an Envoy that does not take a module.
type Refused struct {
	// Reasons are what Envoy and the module logged about it.
	Reasons []string
}

// Error implements error.
func (r *Refused) Error() string { return "Envoy refuses the module: " + joined(r.Reasons) }

// Ended is the error of an Envoy that has ended by itself.
type Ended struct {
	// Early reports whether it ended before it served: most often, its configuration is wrong.
	Early bool
	// Reasons are what Envoy logged last.
	Reasons []string
}

// Error implements error.
func (e *Ended) Error() string {
	if e.Early {
		return "Envoy does not start: " + joined(e.Reasons)
	}
	return "Envoy has ended: " + joined(e.Reasons)
}

func joined(reasons []string) string {
	return cmp.Or(strings.Join(reasons, "; "), "it does not say why: see more with --log-level debug")
}

// Start starts an Envoy, and returns when it serves with the filter. Close must be called,
// also after ctx has ended. The error is a *Refused when Envoy does not take the module, and
// an *Ended when it does not start.
func Start(ctx context.Context, setup Setup) (_ *Envoy, err error) {
	folder, err := os.MkdirTemp("", "wasme-run-")
	if err != nil {
		return nil, fmt.Errorf("making a folder for Envoy: %w", err)
	}
	e := &Envoy{setup: setup, folder: folder, journal: newJournal(setup.Plugin, setup.Log)}
	e.places = places{
		bootstrap: filepath.Join(folder, "envoy.yaml"),
		admin:     filepath.Join(folder, "admin"),
		resource:  filepath.Join(folder, "filter.json"),
	}
	e.admin.file = e.places.admin
	defer func() {
		if err != nil {
			err = errors.Join(err, e.Close())
		}
	}()
	listener, err := e.prepare()
	if err != nil {
		return nil, err
	}
	if e.process, err = startProcess(setup.Path, arguments(&e.setup, e.places), setup.Output, e.journal); err != nil {
		return nil, err
	}
	if err := e.awaitReady(ctx); err != nil {
		return nil, err
	}
	e.address, err = e.admin.listener(ctx, listener)
	return e, err
}

// prepare writes all that Envoy reads when it starts, and starts the upstream. It returns the
// name of the listener that requests go to.
func (e *Envoy) prepare() (listener string, err error) {
	root, err := e.bootstrap()
	if err != nil {
		return "", err
	}
	if listener, err = insert(root, Discovered(e.places.resource), accessLog()); err != nil {
		return "", err
	}
	complete(root)
	content, err := marshal(root)
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(e.places.bootstrap, content, 0o600); err != nil {
		return "", fmt.Errorf("writing Envoy's configuration: %w", err)
	}
	e.module, err = e.deliver(e.setup.Module)
	return listener, err
}

// bootstrap returns Envoy's configuration without the filter.
func (e *Envoy) bootstrap() (object, error) {
	if e.setup.Bootstrap != nil {
		return parse(e.setup.Bootstrap)
	}
	upstream, err := startUpstream(e.setup.Upstream)
	if err != nil {
		return nil, err
	}
	e.upstream = upstream
	proxy := Proxy{Port: e.setup.Port, UpstreamPort: upstream.port()}
	return object{"static_resources": proxy.resources()}, nil
}

// complete adds what ECDS and wasme need, where a bootstrap does not have it: a node, and the
// administration interface.
func complete(bootstrap object) {
	if bootstrap["admin"] == nil {
		bootstrap["admin"] = object{"address": loopback(0)}
	}
	node := member(bootstrap, "node")
	if node == nil {
		node = object{}
		bootstrap["node"] = node
	}
	for _, field := range []string{"id", "cluster"} {
		if node[field] == nil {
			node[field] = "wasme"
		}
	}
}

// deliver writes a module and the resource that names it, which Envoy then loads. It returns
// the file of the module.
func (e *Envoy) deliver(module []byte) (string, error) {
	path := e.fileOf(module)
	if err := os.WriteFile(path, module, 0o600); err != nil {
		return "", fmt.Errorf("writing the module for Envoy: %w", err)
	}
	e.version++
	resource, err := Resource(e.setup.Plugin, path, strconv.Itoa(e.version))
	if err != nil {
		return "", err
	}
	aside := e.places.resource + ".new"
	if err := os.WriteFile(aside, resource, 0o600); err != nil {
		return "", fmt.Errorf("writing the filter's configuration: %w", err)
	}
	if err := os.Rename(aside, e.places.resource); err != nil {
		return "", fmt.Errorf("writing the filter's configuration: %w", err)
	}
	return path, nil
}

// fileOf returns where a module is written: another for each, because Envoy loads what has
// another configuration than before.
func (e *Envoy) fileOf(module []byte) string {
	sum := sha256.Sum256(module)
	return filepath.Join(e.folder, hex.EncodeToString(sum[:])+".wasm")
}

// awaitReady waits until Envoy serves, and checks that it took the module.
func (e *Envoy) awaitReady(ctx context.Context) error {
	if err := e.poll(ctx, "start", loadBound, func(ctx context.Context) (bool, error) { return e.admin.ready(ctx), nil }); err != nil {
		return err
	}
	seen, err := e.admin.deliveries(ctx)
	if err == nil && seen.version != strconv.Itoa(e.version) {
		return e.refusal(ctx, 0)
	}
	return err
}

// URL is where Envoy takes requests, without a slash at the end.
func (e *Envoy) URL() string { return "http://" + e.address }

// AdminURL is Envoy's administration interface.
func (e *Envoy) AdminURL() string { return "http://" + e.admin.address }

// Done is closed when Envoy's process has ended.
func (e *Envoy) Done() <-chan struct{} { return e.process.ended }

// Swap replaces the module, and returns when new requests get the new one. The error is a
// *Refused when Envoy does not take it; the former one keeps serving then.
func (e *Envoy) Swap(ctx context.Context, module []byte) error {
	e.swapping.Lock()
	defer e.swapping.Unlock()
	if e.fileOf(module) == e.module {
		return nil
	}
	before, err := e.admin.deliveries(ctx)
	if err != nil {
		return err
	}
	position := e.journal.position()
	path, err := e.deliver(module)
	if err != nil {
		return err
	}
	if err := e.awaitDelivery(ctx, before, position); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	former := e.module
	e.module = path
	return os.Remove(former)
}

// awaitDelivery waits until all workers have the last resource, or Envoy has refused it.
func (e *Envoy) awaitDelivery(ctx context.Context, before deliveries, position int) error {
	refused := false
	err := e.poll(ctx, "load the module", loadBound, func(ctx context.Context) (bool, error) {
		now, err := e.admin.deliveries(ctx)
		refused = now.rejected > before.rejected || now.malformed > before.malformed
		return refused || now.version == strconv.Itoa(e.version) && now.reloads > before.reloads, err
	})
	if err == nil && refused {
		return e.refusal(ctx, position)
	}
	return err
}

// poll looks again and again until done, Envoy's end or a bound.
func (e *Envoy) poll(ctx context.Context, what string, bound time.Duration, done func(context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, bound, fmt.Errorf("Envoy does not %s within %s", what, bound))
	defer cancel()
	for {
		finished, err := done(ctx)
		switch {
		case e.process.hasEnded():
			return e.Err()
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case finished || err != nil:
			return err
		}
		select {
		case <-e.process.ended:
		case <-ctx.Done():
		case <-time.After(pollInterval):
		}
	}
}

// refusal is the error of a resource that Envoy has refused since a position of its log.
func (e *Envoy) refusal(ctx context.Context, position int) *Refused {
	return &Refused{Reasons: reasons(e.journal.until(ctx, position, isRefusal))}
}

// lastWords is how many records before Envoy's end say why it ended.
const lastWords = 20

// Err returns why Envoy has ended by itself, after Done: an *Ended.
func (e *Envoy) Err() error {
	records, _ := e.journal.since(e.journal.position() - lastWords)
	return &Ended{Early: e.address == "", Reasons: reasons(records)}
}

// Close ends Envoy and the upstream, and removes their files.
func (e *Envoy) Close() error {
	var failed []error
	if e.process != nil {
		e.process.stop()
	}
	if e.upstream != nil {
		failed = append(failed, e.upstream.close())
	}
	return errors.Join(append(failed, os.RemoveAll(e.folder))...)
}
