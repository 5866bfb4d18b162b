package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/test/mesh"
	"github.com/wasme-io/wasme-operator/test/mesh/process"
)

const (
	fetchers   = 500
	fetches    = 4
	fetchLaps  = 5
	fetchPiece = 64 << 10
	// modulesBound is the throughput in parts of nginx's.
	modulesBound = 0.8
)

// modules measures how fast modules are served to many at once, against nginx
// with the same file on the same machine.
func (p *perf) modules(ctx context.Context) error {
	c, err := startCluster(ctx)
	if err != nil {
		return err
	}
	defer c.stop()
	operator, err := c.StartOperator(ctx, mesh.OperatorOptions{})
	if err != nil {
		return err
	}
	path, size, err := c.servedModule(ctx, nil)
	if err != nil {
		return fmt.Errorf("preparing: %w", err)
	}
	ours := &fetching{url: operator.ModuleServerURL + path, size: size, clients: fetchers, fetches: fetches}
	theirs, stop, err := c.startNginx(ctx, ours)
	if errors.Is(err, exec.ErrNotFound) {
		if err := ours.lap(ctx); err != nil {
			return err
		}
		p.table.add(row{name: ours.name(), measured: ours.String(), beside: "SKIPPED: nginx is not installed (Debian's package nginx-light)", value: ours.rate(), unit: "%.0f MiB/s"})
		return nil
	}
	if err != nil {
		return err
	}
	defer stop()
	for range fetchLaps {
		for _, f := range []*fetching{ours, theirs} {
			if err := f.lap(ctx); err != nil {
				return err
			}
		}
	}
	p.table.add(row{
		name: ours.name(), measured: ours.String(), beside: "nginx " + theirs.String(),
		value: ours.rate() / theirs.rate(), unit: ratio, bound: atLeast(modulesBound),
	})
	return nil
}

// servedModule has the operator hold a module with these sections added, and returns its
// path and size.
func (c *cluster) servedModule(ctx context.Context, sections []byte) (string, int64, error) {
	image, err := c.pushWith(ctx, "perf/hello:v1", sections)
	if err != nil {
		return "", 0, err
	}
	fd := filterDeployment("default", "filter", image, "", nil)
	if err := errors.Join(c.admin.Create(ctx, deployment("default", "app", nil)), c.admin.Create(ctx, fd)); err != nil {
		return "", 0, err
	}
	if err := c.awaitReady(ctx, fd); err != nil {
		return "", 0, err
	}
	return module.Path(fd.Status.Module.SHA256), *fd.Status.Module.SizeBytes, nil
}

// nginxConfig: %s are a directive for root, the listen address and the folder of the file.
const nginxConfig = `%s
daemon off;
worker_processes auto;
pid nginx.pid;
error_log error.log;
events { worker_connections 4096; }
http {
  access_log off;
  sendfile on;
  tcp_nopush on;
  types { application/wasm wasm; }
  client_body_temp_path tmp/body; proxy_temp_path tmp/proxy; fastcgi_temp_path tmp/fastcgi;
  uwsgi_temp_path tmp/uwsgi; scgi_temp_path tmp/scgi;
  server { listen %s; root %s; }
}
`

// startNginx serves a copy of the module at the same path. The error is
// exec.ErrNotFound where nginx is not installed.
func (c *cluster) startNginx(ctx context.Context, original *fetching) (*fetching, func(), error) {
	program, err := exec.LookPath("nginx")
	if err != nil {
		program, err = exec.LookPath("/usr/sbin/nginx") // not on everybody's path
	}
	if err != nil {
		return nil, nil, fmt.Errorf("looking for nginx: %w", exec.ErrNotFound)
	}
	folder := filepath.Join(c.Folder(), "nginx")
	address, err := c.FreeAddress()
	if err != nil {
		return nil, nil, err
	}
	copied := &fetching{url: "http://" + address + "/modules/module.wasm", size: original.size, clients: original.clients, fetches: original.fetches}
	user := ""
	if os.Geteuid() == 0 {
		user = "user root;" // its own user may not read a temporary folder
	}
	if err := os.MkdirAll(filepath.Join(folder, "tmp"), 0o700); err != nil {
		return nil, nil, fmt.Errorf("preparing nginx: %w", err)
	}
	if err := download(ctx, original.url, filepath.Join(folder, "files", "modules", "module.wasm")); err != nil {
		return nil, nil, fmt.Errorf("preparing nginx: %w", err)
	}
	config := filepath.Join(folder, "nginx.conf")
	if err := os.WriteFile(config, fmt.Appendf(nil, nginxConfig, user, address, filepath.Join(folder, "files")), 0o600); err != nil {
		return nil, nil, fmt.Errorf("preparing nginx: %w", err)
	}
	running, err := process.Group{Folder: c.Folder()}.Start(process.Command{Name: "nginx", Path: program, Args: []string{"-p", folder, "-c", config, "-e", "error.log"}})
	if err != nil {
		return nil, nil, err
	}
	stop := func() { _ = running.Stop() }
	err = running.WaitReady(ctx, patience, func(ctx context.Context) error { return fetch(ctx, http.DefaultClient, copied.url, copied.size) })
	if err != nil {
		stop()
		return nil, nil, err
	}
	return copied, stop, nil
}

func download(ctx context.Context, url, path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	return os.WriteFile(path, content, 0o600)
}

// fetching is a server of the module, and how fast it was.
type fetching struct {
	url  string
	size int64
	// clients fetch the module at once, each so many times over its own connection.
	clients, fetches int

	laps    samples
	mu      sync.Mutex
	slowest time.Duration
}

func (f *fetching) name() string {
	return fmt.Sprintf("module of %.1f MiB served to %d clients at once", float64(f.size)/(1<<20), f.clients)
}

func (f *fetching) String() string {
	return fmt.Sprintf("%.0f MiB/s, slowest fetch %s", f.rate(), milliseconds(f.slowest))
}

// rate is the median throughput in MiB/s.
func (f *fetching) rate() float64 {
	return float64(int64(f.clients*f.fetches)*f.size) / (1 << 20) / f.laps.median().Seconds()
}

// lap lets all clients fetch, each with a connection of its own.
func (f *fetching) lap(ctx context.Context) error {
	took, err := stopwatch(func() error {
		return parallel(ctx, f.clients, f.clients, f.client)
	})
	f.laps = append(f.laps, took)
	return err
}

// client fetches from an address of its own, as pods do.
func (f *fetching) client(ctx context.Context, i int) error {
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1+byte(i/250), 1+byte(i%250))}}
	transport := &http.Transport{ReadBufferSize: fetchPiece, DisableCompression: true, DialContext: dialer.DialContext}
	defer transport.CloseIdleConnections()
	for range f.fetches {
		took, err := stopwatch(func() error { return fetch(ctx, &http.Client{Transport: transport}, f.url, f.size) })
		if err != nil {
			return err
		}
		f.mu.Lock()
		f.slowest = max(f.slowest, took)
		f.mu.Unlock()
	}
	return nil
}

var pieces = sync.Pool{New: func() any { return new([fetchPiece]byte) }}

// fetch reads the module and throws it away.
func fetch(ctx context.Context, from *http.Client, url string, size int64) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	response, err := from.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	piece := pieces.Get().(*[fetchPiece]byte)
	defer pieces.Put(piece)
	var read int64
	for err == nil {
		var n int
		n, err = response.Body.Read(piece[:])
		read += int64(n)
	}
	if !errors.Is(err, io.EOF) {
		return fmt.Errorf("reading %s: %w", url, err)
	}
	if response.StatusCode != http.StatusOK || read != size {
		return fmt.Errorf("%s answered %d with %d bytes instead of %d", url, response.StatusCode, read, size)
	}
	return nil
}
