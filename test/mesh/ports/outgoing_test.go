// Licensed under the Apache License, Version 2.0; see LICENSE.

package ports

import (
	"errors"
	"net"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Not all systems keep the ports of outgoing connections above ours.
func TestAnOutgoingConnectionGetsNoReservedPort(t *testing.T) {
	server := listen(t)
	defer server.Close()
	// Another process may take a port as soon as it is released.
	const attempts = 10
	var released error
	for range attempts {
		free := listen(t)
		port := free.Addr().(*net.TCPAddr).Port
		free.Close()
		socket, err := bind(localhost, port)
		if errors.Is(err, syscall.EADDRINUSE) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		reserved := dial(server, port)
		closeAll([]int{socket})
		if errors.Is(reserved, syscall.ENOPROTOOPT) {
			t.Skip("Linux before 6.3 does not let a connection choose the range of its port")
		}
		if !errors.Is(reserved, syscall.EADDRNOTAVAIL) {
			t.Fatalf("while the port is reserved: %v", reserved)
		}
		if released = dial(server, port); released == nil {
			return
		}
	}
	t.Errorf("after it was released: %v", released)
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return listener
}

// dial opens a connection and has the system choose its port from a range of one.
func dial(server net.Listener, port int) error {
	dialer := net.Dialer{Control: func(_, _ string, connection syscall.RawConn) error {
		var failed error
		err := connection.Control(func(socket uintptr) {
			failed = unix.SetsockoptInt(int(socket), unix.IPPROTO_IP, unix.IP_LOCAL_PORT_RANGE, port<<16|port)
		})
		return errors.Join(err, failed)
	}}
	connection, err := dialer.Dial("tcp", server.Addr().String())
	if err != nil {
		return err
	}
	return connection.Close()
}
