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
	free := listen(t)
	port := free.Addr().(*net.TCPAddr).Port
	free.Close()
	socket, err := bind(localhost, port)
	if err != nil {
		t.Fatal(err)
	}
	err = dial(server, port)
	closeAll([]int{socket})
	if errors.Is(err, syscall.ENOPROTOOPT) {
		t.Skip("Linux before 6.3 does not let a connection choose the range of its port")
	}
	if !errors.Is(err, syscall.EADDRNOTAVAIL) {
		t.Errorf("while the port is reserved: %v", err)
	}
	if err := dial(server, port); err != nil {
		t.Errorf("after it was released: %v", err)
	}
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
