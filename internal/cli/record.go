package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/wasme-io/wasme-operator/internal/cli/traffic"
	"github.com/wasme-io/wasme-operator/internal/cli/traffic/tap"
	"github.com/wasme-io/wasme-operator/internal/version"
)

// recordFlags are those of wasme record.
type recordFlags struct {
	cluster         *cluster
	duration        time.Duration
	requests        int
	file            string
	bodies          bool
	withCredentials bool
}

func newRecord(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "record deploy/NAME|pod/NAME -o FILE",
		Short: "Record the requests and responses of a pod as a test",
		Long: `Records what one pod receives, and what its application answers, into a file that wasme test
--traffic replays: an HTTP Archive (HAR), which other tools read, too. Of a Deployment it takes one
ready pod.

An EnvoyFilter puts Envoy's tap filter into that pod's proxy, and is removed at the end and at
Ctrl-C. Each of the two changes has the proxy close its connections to clients as they become idle;
a stream that is open for longer than 45 s after it is cut off. The tap is read through a port-forward:
recording needs the rights to get and list Deployments and pods, to create pods/portforward, and to
create and delete EnvoyFilters.

Credentials in headers and in the query are replaced by ` + traffic.Redacted + `, unless --with-credentials is set.
Bodies are recorded with --bodies only, and as they are.`,
		Example: `  wasme record deploy/httpbin -n httpbin --for 30s -o recorded.har
  wasme record pod/httpbin-7c5f9-x2x4q --max 100 --bodies -o recorded.har`,
		Args: cobra.ExactArgs(1),
	}
	r := &recordFlags{cluster: newCluster(c)}
	c.Flags().DurationVar(&r.duration, "for", 30*time.Second, "how long to record")
	c.Flags().IntVar(&r.requests, "max", 1000, fmt.Sprintf("number of requests after which it ends, at most %d", traffic.MaxExchanges))
	c.Flags().StringVarP(&r.file, "output", "o", "", "file to write")
	c.Flags().BoolVar(&r.bodies, "bodies", false, fmt.Sprintf("record bodies, too, up to %d KiB of each", traffic.MaxBodyBytes>>10))
	c.Flags().BoolVar(&r.withCredentials, "with-credentials", false, "record credentials and cookies as they are")
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := r.check(); err != nil {
			return err
		}
		return r.run(c.Context(), a, args[0])
	}
	return c
}

func (r *recordFlags) check() error {
	switch {
	case r.file == "":
		return misused("there is no file to write to: set -o FILE")
	case r.duration <= 0:
		return misused("--for is %v: set a duration such as 30s", r.duration)
	case r.requests < 1 || r.requests > traffic.MaxExchanges:
		return misused("--max is %d: set a number from 1 to %d", r.requests, traffic.MaxExchanges)
	}
	return nil
}

func (r *recordFlags) run(ctx context.Context, a *app, target string) error {
	c, namespace, err := r.cluster.client()
	if err != nil {
		return err
	}
	config, err := r.cluster.config()
	if err != nil {
		return err
	}
	pod, err := findPod(ctx, c, namespace, target)
	if err != nil {
		return err
	}
	file, err := newAtomicFile(r.file)
	if err != nil {
		return err
	}
	defer file.discard()
	recorder := r.recorder(a, pod)
	recorder.Client, recorder.Forwarder = c, tap.PortForward{Config: config}
	return r.record(ctx, a, recorder, file)
}

func findPod(ctx context.Context, c client.Client, namespace, target string) (*corev1.Pod, error) {
	kind, name, err := parseSubject(target)
	if err != nil {
		return nil, err
	}
	at := client.ObjectKey{Namespace: namespace, Name: name}
	find := tap.FindPod
	switch kind {
	case podKind:
	case "Deployment":
		find = tap.FindPodOf
	default:
		return nil, misused("%q cannot be recorded: write deploy/NAME or pod/NAME", target)
	}
	pod, err := find(ctx, c, at)
	return pod, explain(ctx, "looking for "+target+" in namespace "+namespace, err)
}

// recorder announces what it is about to do, and how to undo it.
func (r *recordFlags) recorder(a *app, pod *corev1.Pod) *tap.Recorder {
	name := tap.NewFilterName()
	remove := tap.RemoveCommand(client.ObjectKey{Namespace: pod.Namespace, Name: name})
	fmt.Fprintf(a.ErrOut, "Inserting a tap into the proxy of pod %s: its connections to clients are closed as they become idle.\n", pod.Name)
	fmt.Fprintf(a.ErrOut, "If wasme is killed before it ends, remove the tap with: %s\n", remove)
	return &tap.Recorder{
		Pod: pod, FilterName: name, Bodies: r.bodies, For: r.duration, Max: r.requests,
		Begun: func() {
			fmt.Fprintf(a.ErrOut, "Recording for %v, or until %d requests have come; Ctrl-C ends it and keeps what was recorded.\n", r.duration, r.requests)
		},
	}
}

// record records, and keeps what was recorded, whatever ended it.
func (r *recordFlags) record(ctx context.Context, a *app, recorder *tap.Recorder, file *atomicFile) error {
	recording, failed := recorder.Record(ctx)
	failed = errors.Join(failed, ctx.Err())
	if len(recording.Exchanges) == 0 {
		return cmp.Or(failed, nothingCame(recorder))
	}
	if !r.withCredentials {
		for i := range recording.Exchanges {
			traffic.Redact(&recording.Exchanges[i])
		}
	}
	if err := traffic.Write(file, version.Read().Version, recording.Exchanges); err != nil {
		return errors.Join(failed, err)
	}
	if err := file.commit(); err != nil {
		return errors.Join(failed, err)
	}
	fmt.Fprintf(a.ErrOut, "Recorded %d requests in %s.\n", len(recording.Exchanges), r.file)
	if recording.Full {
		fmt.Fprintln(a.ErrOut, "It ended early, because it had become too large: record without --bodies, or fewer requests with --max.")
	}
	if recording.Unanswered > 0 {
		fmt.Fprintf(a.ErrOut, "Left out %d requests that had no answer yet.\n", recording.Unanswered)
	}
	return failed
}

// nothingCame says that there was no traffic.
func nothingCame(recorder *tap.Recorder) error {
	return fmt.Errorf("no request of pod %s was recorded in %v: send some to it, over new connections, or record for longer with --for", recorder.Pod.Name, recorder.For)
}
