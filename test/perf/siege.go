package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/url"
	"time"

	"github.com/wasme-io/wasme-operator/test/mesh"
)

const (
	// siegeIdle connections of one address do nothing, and siegeStalled of it ask for the
	// module and never read it.
	siegeIdle    = 10_000
	siegeStalled = 1_000
	// siegeModule in bytes is more than what sockets buffer.
	siegeModule  = 16 << 20
	siegeClients = 50
	siegeLaps    = 3
	// agentTime in seconds is what pilot-agent gives each attempt to fetch a module.
	agentTime = 15
)

// siege measures how fast modules are served while one client address takes what it can
// get of the server, against the same without it.
func (p *perf) siege(ctx context.Context) error {
	c, err := startCluster(ctx)
	if err != nil {
		return err
	}
	defer c.stop()
	operator, err := c.StartOperator(ctx, mesh.OperatorOptions{})
	if err != nil {
		return err
	}
	path, size, err := c.servedModule(ctx, padding(siegeModule))
	if err != nil {
		return fmt.Errorf("preparing: %w", err)
	}
	free := &fetching{url: operator.ModuleServerURL + path, size: size, clients: siegeClients, fetches: 1}
	besieged := &fetching{url: free.url, size: size, clients: siegeClients, fetches: 1}
	for range siegeLaps {
		if err := free.lap(ctx); err != nil {
			return err
		}
	}
	end, err := besiege(ctx, operator.ModuleServerURL, path)
	if err != nil {
		return err
	}
	defer end()
	for range siegeLaps {
		if err := besieged.lap(ctx); err != nil {
			return err
		}
	}
	name := fmt.Sprintf("%s, with %s idle and %s stalled connections of one address", free.name(), thousands(siegeIdle), thousands(siegeStalled))
	p.table.add(row{name: name, measured: besieged.String(), beside: "without them " + free.String(), value: besieged.rate() / free.rate(), unit: ratio})
	p.table.add(row{name: "the slowest fetch meanwhile", measured: milliseconds(besieged.slowest), beside: "-", value: besieged.slowest.Seconds(), unit: seconds, bound: atMost(agentTime)})
	return nil
}

// besiege opens the connections of one address, and returns what closes them.
func besiege(ctx context.Context, server, path string) (end func(), err error) {
	at, err := url.Parse(server)
	if err != nil {
		return nil, err
	}
	var opened []net.Conn
	end = func() {
		for _, conn := range opened {
			_ = conn.Close()
		}
	}
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}, Timeout: 10 * time.Second}
	for i := range siegeIdle + siegeStalled {
		conn, err := dialer.DialContext(ctx, "tcp", at.Host)
		if err != nil {
			end()
			return nil, fmt.Errorf("connection %d: %w", i, err)
		}
		opened = append(opened, conn)
		if i < siegeStalled {
			// The server closes most at once, which cannot be written to then.
			_, _ = fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", path, at.Host)
		}
	}
	return end, nil
}

// padding is a custom section of a Wasm module that takes so many bytes.
func padding(size int) []byte {
	content := make([]byte, size)
	copy(content, "\x07padding")
	return append(binary.AppendUvarint([]byte{0}, uint64(size)), content...)
}
