// Licensed under the Apache License, Version 2.0; see LICENSE.

// Package portforward is the far end of port-forwards, where there is no kubelet.
package portforward

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// Kubeconfig returns the path of a kubeconfig that leads to the API server of config through
// a proxy, which answers port-forwards by itself: connections go to the address that reach
// returns for the port of a pod, and fail where it is empty. Both end with the test.
func Kubeconfig(tb testing.TB, config *rest.Config, reach func(pod, port string) string) string {
	tb.Helper()
	address, err := url.Parse(config.Host)
	if err != nil {
		tb.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(address)
	if proxy.Transport, err = rest.TransportFor(config); err != nil {
		tb.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		resource, subresource := path.Split(r.URL.Path)
		if subresource != "portforward" {
			proxy.ServeHTTP(w, r)
			return
		}
		if err := Serve(w, r, func(port string) string { return reach(path.Base(resource), port) }); err != nil {
			tb.Errorf("serving %s: %v", r.URL.Path, err)
		}
	}))
	tb.Cleanup(server.Close)
	file := filepath.Join(tb.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"mesh": {Server: server.URL}},
		Contexts:       map[string]*clientcmdapi.Context{"mesh": {Cluster: "mesh"}},
		CurrentContext: "mesh",
	}, file); err != nil {
		tb.Fatal(err)
	}
	return file
}

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
