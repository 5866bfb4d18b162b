// Package tap records the requests of one pod of a mesh with Envoy's tap filter.
//
//	tap.go       a recording from its beginning to its end
//	filter.go    the EnvoyFilter that puts tap filters into the pod's proxy, and goes again
//	admin.go     the admin endpoint of the pod's proxy, which streams what the taps see
//	segment.go   one piece of that stream
//	assemble.go  exchanges, out of pieces
//	forward.go   how to reach the admin endpoint: a port-forward
//	pod.go       the pod that is meant
//
// Two tap filters are needed: the first sees requests before any filter changes them, the
// last sees responses of the application before any filter changes those. Both stream what
// they see while it passes: at the end of a stream, Envoy has only the headers as the last
// filter left them.
package tap

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/wasme-io/wasme-operator/internal/cli/traffic"
)

// Forwarder reaches ports of pods.
type Forwarder interface {
	// Forward returns an address, host:port, that leads to a port of a pod until the context
	// ends.
	Forward(ctx context.Context, pod client.ObjectKey, port int) (string, error)
}

// AdminPort is where Envoy's admin endpoint is in pods of Istio.
const AdminPort = 15000

// Recorder records the requests of a pod.
type Recorder struct {
	Client    client.Client
	Forwarder Forwarder
	Pod       *corev1.Pod
	// FilterName is that of the EnvoyFilter while it is there: see NewFilterName.
	FilterName string
	// Bodies says that bodies are recorded, too.
	Bodies bool
	// For and Max end the recording: after that time, or that number of requests.
	For time.Duration
	Max int
	// Begun is called once requests are recorded.
	Begun func()
}

// Recording is what was recorded.
type Recording struct {
	Exchanges []traffic.Exchange
	// Unanswered is the number of requests that were under way at the end; they are left out.
	Unanswered int
	// Full says that it ended early, because it had become too large.
	Full bool
}

const (
	// cleanupTime bounds the removal of the EnvoyFilter, which happens even after Ctrl-C.
	cleanupTime = 15 * time.Second
	// quietTime is how long nothing comes of the last requests before they are taken to be
	// over, and settleTime how long that is waited for.
	quietTime  = 300 * time.Millisecond
	settleTime = 3 * time.Second
)

// Record records until the time is over, enough requests have come, or the context ends;
// what was recorded until then is returned in any case, also with an error. It leaves
// nothing behind in the cluster, or the error says what.
func (r *Recorder) Record(ctx context.Context) (recording Recording, failed error) {
	forwarding, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	address, err := r.reach(ctx, forwarding, stop)
	if err != nil {
		return Recording{}, err
	}
	if err := r.insert(ctx); err != nil {
		return Recording{}, err
	}
	defer func() { failed = errors.Join(failed, r.remove(ctx)) }()
	stream, err := attach(ctx, address, r.FilterName, r.maxBytes())
	if err != nil {
		return Recording{}, err
	}
	defer stream.close()
	if r.Begun != nil {
		r.Begun()
	}
	return r.take(ctx, stream)
}

// reach forwards the admin port until stop is called. While that begins, the end of ctx
// stops it, too: after Ctrl-C, the last requests still come through it.
func (r *Recorder) reach(ctx, forwarding context.Context, stop func()) (string, error) {
	defer context.AfterFunc(ctx, stop)()
	address, err := r.Forwarder.Forward(forwarding, client.ObjectKeyFromObject(r.Pod), AdminPort)
	if err != nil {
		return "", fmt.Errorf("reaching port %d of pod %s: %w", AdminPort, r.Pod.Name, err)
	}
	return address, nil
}

func (r *Recorder) maxBytes() int {
	if r.Bodies {
		return traffic.MaxBodyBytes
	}
	return 0
}

// take takes pieces until the end, and then those of the requests that have begun.
func (r *Recorder) take(ctx context.Context, from *stream) (Recording, error) {
	all := newAssembler(r.Max)
	end := time.NewTimer(r.For)
	defer end.Stop()
	for !all.full() {
		select {
		case s, open := <-from.segments:
			if !open {
				return all.recording(), from.err()
			}
			all.add(s, time.Now())
			continue
		case <-end.C:
		case <-ctx.Done():
		}
		break
	}
	all.closed = true
	settle(all, from)
	return all.recording(), nil
}

// settle takes the rest of the requests that have begun.
func settle(all *assembler, from *stream) {
	latest := time.NewTimer(settleTime)
	defer latest.Stop()
	quiet := time.NewTimer(quietTime)
	defer quiet.Stop()
	for {
		select {
		case s, open := <-from.segments:
			if !open {
				return
			}
			if all.add(s, time.Now()) {
				quiet.Reset(quietTime)
			}
		case <-quiet.C:
			if all.unanswered() == 0 {
				return
			}
			quiet.Reset(quietTime)
		case <-latest.C:
			return
		}
	}
}
