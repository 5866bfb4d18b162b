// Licensed under the Apache License, Version 2.0; see LICENSE.

// Package portforward is the far end of port-forwards, where there is no kubelet.
package portforward

import (
	"fmt"
	"io"
	"net"
	"net/http"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// Serve answers a request for the subresource portforward of a pod: connections go to where
// address leads the port. It speaks SPDY and no WebSockets, and ends with the client.
func Serve(w http.ResponseWriter, r *http.Request, address func(port string) string) error {
	if r.Method != http.MethodPost {
		http.Error(w, "WebSockets are not spoken here", http.StatusBadRequest)
		return nil
	}
	if _, err := httpstream.Handshake(r, w, []string{portforward.PortForwardProtocolV1Name}); err != nil {
		return fmt.Errorf("agreeing on a protocol: %w", err)
	}
	connection := spdy.NewResponseUpgrader().UpgradeResponse(w, r, func(stream httpstream.Stream, _ <-chan struct{}) error {
		if stream.Headers().Get(corev1.StreamType) == corev1.StreamTypeData {
			go forward(stream, address(stream.Headers().Get(corev1.PortHeader)))
		}
		return nil
	})
	if connection == nil {
		return fmt.Errorf("the request is no upgrade to SPDY")
	}
	defer connection.Close()
	<-connection.CloseChan()
	return nil
}

// forward joins a stream with an address until either of them closes.
func forward(stream httpstream.Stream, address string) {
	defer stream.Reset() //nolint:errcheck // the client may be gone
	server, err := net.Dial("tcp", address)
	if err != nil {
		return // the client sees it
	}
	defer server.Close()
	go func() {
		_, _ = io.Copy(server, stream)
		_ = server.Close() // the client is gone: there is no one to answer
	}()
	_, _ = io.Copy(stream, server) // either side may end it
}
