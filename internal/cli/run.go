package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/wasme-io/wasme-operator/internal/cli/envoy"
	"github.com/wasme-io/wasme-operator/internal/cli/image"
	"github.com/wasme-io/wasme-operator/internal/preflight/host"
)

// printedPort is that of the listener in a configuration that is printed, unless --port is set.
const printedPort = 8080

// envoyLevels are the levels of Envoy's log.
var envoyLevels = []string{"trace", "debug", "info", "warning", "error", "critical", "off"}

// runFlags are the flags of run.
type runFlags struct {
	app    *app
	from   *sources
	filter *filterFlags

	envoy, image, bootstrap, out, upstream, logLevel, data string
	arguments, requests, headers                           []string
	port                                                   int
	watch                                                  bool
}

// newRun returns the command run.
func newRun(a *app) *cobra.Command {
	return newRunCommand(a, &cobra.Command{
		Use:   "run IMAGE|DIR",
		Short: "Run a filter in an Envoy on this machine",
		Example: `  # Build the project in this folder, and send it requests until Ctrl-C.
  wasme run .

  # Rebuild it whenever a file changes, without a restart of Envoy.
  wasme run . --watch

  # See what an image does to one request.
  wasme run registry.example.com/filters/hello:v1 --config world --request "GET /" -H "x-user: me"

  # Put it in front of a service.
  wasme run hello.wasm --upstream http://127.0.0.1:3000 --port 8080`,
	})
}

// newDeployEnvoy returns the command deploy envoy, which is run.
func newDeployEnvoy(a *app) *cobra.Command {
	c := newRunCommand(a, &cobra.Command{
		Use:   "envoy IMAGE|DIR",
		Short: "Run a filter in an Envoy on this machine, as wasme run does",
		Example: `  wasme deploy envoy registry.example.com/filters/hello:v1 --config world

  # Write an Envoy configuration with the filter.
  wasme deploy envoy registry.example.com/filters/hello:v1 --bootstrap envoy.yaml --out -`,
	})
	addMeaningless(a, c, "id", "docker-run-args")
	return c
}

func newRunCommand(a *app, c *cobra.Command) *cobra.Command {
	r := &runFlags{app: a, from: newSources(a, c), filter: newFilterFlags(c)}
	c.Long = `Runs a filter in an Envoy on this machine, in front of a server that answers with the request
as it arrived, or of --upstream. IMAGE is an image of the local store or of a registry, or a
.wasm file. DIR is the folder of a project, which is built.

Envoy is the one of --envoy, or envoy in the PATH, or the one of func-e in the PATH.`
	c.Args = cobra.ExactArgs(1)
	c.RunE = func(c *cobra.Command, args []string) error { return r.run(c.Context(), args[0]) }
	flags := c.Flags()
	flags.StringVar(&r.envoy, "envoy", "", "path of the Envoy to run")
	flags.StringVarP(&r.bootstrap, "bootstrap", "b", "", "file with an Envoy configuration to put the filter into, or - for standard input")
	flags.StringVar(&r.out, "out", "", "write Envoy's configuration to this file, or to standard output for -, and end")
	flags.StringVarP(&r.image, "envoy-image", "e", "", "does nothing: Envoy runs without Docker")
	flags.StringArrayVar(&r.arguments, "envoy-run-args", nil, "arguments for Envoy, with spaces between them")
	flags.StringVar(&r.upstream, "upstream", "", "URL of the server that Envoy sends requests to (default: one that answers with the request)")
	flags.IntVar(&r.port, "port", 0, "port on 127.0.0.1 that Envoy listens on (default: a free one)")
	flags.StringVar(&r.logLevel, "log-level", "info", "level of the filter's log: "+strings.Join(envoyLevels, ", "))
	flags.StringArrayVar(&r.requests, "request", nil, `send this request, such as "GET /headers", show what the filter did, and end; can be repeated`)
	flags.StringArrayVarP(&r.headers, "header", "H", nil, `header of the requests, such as "x-user: me"; can be repeated`)
	flags.StringVarP(&r.data, "data", "d", "", "body of the requests; @FILE reads it from a file")
	flags.BoolVar(&r.watch, "watch", false, "run the new filter when its files change; with --request, send the requests again")
	_ = c.RegisterFlagCompletionFunc("log-level", cobra.FixedCompletions(envoyLevels, cobra.ShellCompDirectiveNoFileComp)) // the flag is there
	return c
}

// run does what the flags ask for.
func (r *runFlags) run(ctx context.Context, arg string) error {
	setup, err := r.setup(ctx, arg)
	if err != nil {
		return err
	}
	requests, err := parseRequests(r.requests, r.headers, r.data)
	if err != nil {
		return err
	}
	if r.image != "" {
		r.app.say("note: --envoy-image does nothing: an Envoy on this machine is used")
	}
	if r.out != "" {
		return r.write(ctx, arg, setup)
	}
	if setup.Path, err = envoy.Find(ctx, r.envoy, r.app.ErrOut); err != nil {
		return err
	}
	return (&running{app: r.app, from: r.from, arg: arg, filter: r.filter, requests: requests}).run(ctx, setup, r.watch)
}

// setup returns what the flags say, without the module and the program.
func (r *runFlags) setup(ctx context.Context, arg string) (envoy.Setup, error) {
	if err := r.check(arg); err != nil {
		return envoy.Setup{}, err
	}
	setup := envoy.Setup{Port: r.port, LogLevel: r.logLevel, Arguments: strings.Fields(strings.Join(r.arguments, " "))}
	if r.upstream != "" {
		upstream, err := url.Parse(r.upstream)
		if err != nil || upstream.Scheme != "http" && upstream.Scheme != "https" || upstream.Host == "" {
			return envoy.Setup{}, misused("--upstream %q is not a URL: write one such as http://127.0.0.1:3000", r.upstream)
		}
		setup.Upstream = upstream
	}
	if r.bootstrap != "" {
		content, err := r.readBootstrap(ctx)
		if err != nil {
			return envoy.Setup{}, fmt.Errorf("reading the file of --bootstrap: %w", err)
		}
		setup.Bootstrap = content
	}
	return setup, nil
}

// check refuses flags that do not go together.
func (r *runFlags) check(arg string) error {
	_, missing := os.Stat(arg)
	switch {
	case r.bootstrap != "" && (r.upstream != "" || r.port != 0):
		return misused("--bootstrap has listeners and clusters of its own: leave --port and --upstream out")
	case r.out != "" && (r.watch || len(r.requests) > 0 || r.upstream != ""):
		return misused("--out only writes a configuration: leave --watch, --request and --upstream out")
	case len(r.requests) == 0 && (len(r.headers) > 0 || r.data != ""):
		return misused("--header and --data are for a request: add --request")
	case r.watch && missing != nil:
		return misused("--watch needs a .wasm file or the folder of a project: %s is neither", arg)
	case !slices.Contains(envoyLevels, r.logLevel):
		return misused("--log-level %q is not known: use %s", r.logLevel, strings.Join(envoyLevels, ", "))
	case r.port < 0 || r.port > 65535:
		return misused("--port %d is not a port: use 1 to 65535", r.port)
	}
	return nil
}

func (r *runFlags) readBootstrap(ctx context.Context) ([]byte, error) {
	if r.bootstrap == "-" {
		return await(ctx, func() ([]byte, error) { return io.ReadAll(r.app.In) })
	}
	return os.ReadFile(r.bootstrap)
}

// write writes Envoy's configuration, which names the file of the module.
func (r *runFlags) write(ctx context.Context, arg string, setup envoy.Setup) error {
	m, err := r.from.load(ctx, arg)
	if err != nil {
		return err
	}
	path, err := moduleFile(arg, m)
	if err != nil {
		return err
	}
	filter := envoy.FromFile(r.filter.plugin(m), path)
	var content []byte
	if setup.Bootstrap != nil {
		content, err = envoy.Patch(setup.Bootstrap, filter)
	} else {
		content, err = envoy.Bootstrap(envoy.Proxy{Port: cmp.Or(r.port, printedPort)}, filter)
	}
	if err != nil {
		return err
	}
	return r.writeTo(content)
}

// writeTo writes YAML, or JSON to a file that Envoy reads as JSON.
func (r *runFlags) writeTo(content []byte) error {
	if r.out == "-" {
		_, err := r.app.Out.Write(content)
		return err
	}
	if filepath.Ext(r.out) == ".json" {
		asJSON, err := yaml.YAMLToJSON(content)
		if err != nil {
			return fmt.Errorf("writing Envoy's configuration: %w", err)
		}
		content = asJSON
	}
	if err := os.WriteFile(r.out, content, 0o644); err != nil {
		return fmt.Errorf("writing the file of --out: %w", err)
	}
	return nil
}

// moduleFile returns the path of a module's .wasm file: what the argument names, or a file
// beside the local store that stays.
func moduleFile(arg string, m *image.Module) (string, error) {
	if info, err := os.Stat(arg); err == nil && !info.IsDir() {
		return filepath.Abs(arg)
	}
	dir, err := ownFolder("modules")
	if err != nil {
		return "", fmt.Errorf("keeping the module for Envoy: %w", err)
	}
	path := filepath.Join(dir, m.SHA256()+".wasm")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", fmt.Errorf("keeping the module for Envoy: %w", err)
	}
	if err := os.WriteFile(path, m.Wasm, 0o644); err != nil {
		return "", fmt.Errorf("keeping the module for Envoy: %w", err)
	}
	return path, nil
}

// plugin returns what a module gets from Envoy.
func (f *filterFlags) plugin(m *image.Module) envoy.Plugin {
	filter := f.of(m)
	return envoy.Plugin{RootID: filter.RootID, Configuration: string(filter.Configuration)}
}

// parseRequests reads --request, --header and --data.
func parseRequests(requests, headers []string, data string) ([]envoy.Request, error) {
	var m host.Message
	if err := complete(&m, headers, data); err != nil {
		return nil, err
	}
	header := http.Header{}
	for _, line := range m.Headers {
		header.Add(line.Name, line.Value)
	}
	var parsed []envoy.Request
	for _, text := range requests {
		method, path, _ := strings.Cut(text, " ")
		if !strings.HasPrefix(path, "/") {
			return nil, notARequest(text)
		}
		parsed = append(parsed, envoy.Request{Method: method, Path: path, Header: header, Body: m.Content()})
	}
	return parsed, nil
}

// running is a filter that runs, or is to run.
type running struct {
	app      *app
	from     *sources
	arg      string
	filter   *filterFlags
	requests []envoy.Request
	// module is the digest of the one that runs.
	module string
	// loading reports whether Envoy loads a module: an error of Envoy is then that of the module.
	loading atomic.Bool
}

// run runs the filter until Ctrl-C, or until the requests are answered.
func (r *running) run(ctx context.Context, setup envoy.Setup, watch bool) (err error) {
	var watcher *envoy.Watcher
	if watch {
		if watcher, err = envoy.NewWatcher(r.arg); err != nil {
			return err
		}
		defer watcher.Close()
	}
	m, err := r.from.load(ctx, r.arg)
	if err != nil {
		return err
	}
	r.module = m.SHA256()
	setup.Module, setup.Plugin, setup.Output = m.Wasm, r.filter.plugin(m), r.app.ErrOut
	if len(r.requests) == 0 {
		setup.Log = r.log
	}
	r.loading.Store(true)
	e, err := envoy.Start(ctx, setup)
	r.loading.Store(false)
	if err != nil {
		return startError(err)
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	if err := r.send(ctx, e); !watch && (err != nil || len(r.requests) > 0) {
		return err
	} else if err != nil {
		r.app.say("%v", err)
	}
	r.app.say("The filter runs. Envoy's administration interface is %s. Ctrl-C ends it.", e.AdminURL())
	fmt.Fprintln(r.app.Out, e.URL())
	return r.serve(ctx, e, watcher)
}

// startError adds to an error of Envoy what to do about it.
func startError(err error) error {
	if refused, is := errors.AsType[*envoy.Refused](err); is {
		return refuse("%w", refused)
	}
	if ended, is := errors.AsType[*envoy.Ended](err); is && strings.Contains(ended.Error(), "Address already in use") {
		return fmt.Errorf("%w: choose another --port", err)
	}
	return err
}

// serve returns when ctx or Envoy ends.
func (r *running) serve(ctx context.Context, e *envoy.Envoy, watcher *envoy.Watcher) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	go func() {
		select {
		case <-e.Done():
			stop(e.Err())
		case <-ctx.Done():
		}
	}()
	if watcher == nil {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	err := watcher.Run(ctx, func() { r.reload(ctx, e) })
	return cmp.Or(context.Cause(ctx), err)
}

// reload runs what the files are now. What is wrong with it is shown, and changes nothing.
func (r *running) reload(ctx context.Context, e *envoy.Envoy) {
	begin := time.Now()
	changed, err := r.swap(ctx, e)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		r.app.say("The former filter keeps running: %v", err)
	case !changed:
		r.app.say("The filter is the same as before.")
	default:
		r.app.say("The new filter runs, after %s.", time.Since(begin).Round(time.Millisecond))
		if err := r.send(ctx, e); err != nil && ctx.Err() == nil {
			r.app.say("%v", err)
		}
	}
}

// swap loads the module again, and reports whether Envoy runs another one now.
func (r *running) swap(ctx context.Context, e *envoy.Envoy) (changed bool, err error) {
	m, err := r.from.load(ctx, r.arg)
	if err != nil || m.SHA256() == r.module {
		return false, err
	}
	r.loading.Store(true)
	defer r.loading.Store(false)
	if err := e.Swap(ctx, m.Wasm); err != nil {
		return false, err
	}
	r.module = m.SHA256()
	return true, nil
}

// send sends the requests, and shows what the filter did. The error says how many failed.
func (r *running) send(ctx context.Context, e *envoy.Envoy) error {
	failed, broken := 0, 0
	for i, request := range r.requests {
		x, err := e.Send(ctx, request)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return err
		}
		if i > 0 {
			fmt.Fprintln(r.app.Out)
		}
		if err := showExchange(r.app.Out, x); err != nil {
			return err
		}
		switch {
		case x.Failure != "":
			failed++
		case x.Broken != nil:
			broken++
		}
	}
	if failed > 0 {
		return refuse("the filter failed in %d of %d requests", failed, len(r.requests))
	}
	if broken > 0 {
		return fmt.Errorf("%d of %d requests were not answered", broken, len(r.requests))
	}
	return nil
}

// log shows a line of the filter's log, or of Envoy's.
func (r *running) log(record envoy.Record) {
	source := "filter"
	if !record.Own {
		source = "envoy"
	}
	if text := strings.TrimSpace(record.Text); text != "" && (record.Own || !r.loading.Load()) {
		r.app.say("%s %s: %s", source, record.Level, printable(text))
	}
}
