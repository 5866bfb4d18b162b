// Licensed under the Apache License, Version 2.0; see LICENSE.

package ports_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wasme-io/wasme-operator/test/mesh/ports"
)

const (
	// metricsPort is the same at all addresses, as in pods.
	metricsPort = 15090
	// childEnv tells this test program to reserve as a child of a test.
	childEnv = "PORTS_TEST_CHILD"
)

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		reserveAsChild()
		return
	}
	os.Exit(m.Run())
}

func TestNothingIsGivenTwice(t *testing.T) {
	pools := []*ports.Pool{newPool(t), newPool(t)}
	seen := map[string]bool{}
	for range 1000 {
		for _, pool := range pools {
			for _, given := range reserve(t, pool) {
				if seen[given] {
					t.Fatalf("%s was given twice", given)
				}
				seen[given] = true
			}
		}
	}
}

// Ten processes take 3,000 of the 10,000 ports: without a reservation that
// counts for all of them, hundreds would be given twice.
func TestNothingIsGivenToTwoProcesses(t *testing.T) {
	const processes = 10
	seen := map[string]int{}
	var children []*child
	for range processes {
		children = append(children, startChild(t))
	}
	for i, c := range children {
		for _, given := range c.reservations(t) {
			if other, taken := seen[given]; taken {
				t.Errorf("%s was given to the processes %d and %d", given, other, i)
			}
			seen[given] = i
		}
	}
	if want := processes * 2 * childRounds; len(seen) != want {
		t.Errorf("%d reservations, not %d", len(seen), want)
	}
}

func TestAReservationEndsWithItsProcess(t *testing.T) {
	c := startChild(t)
	given := c.reservations(t)[0]
	if err := exclusively(given); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("while the process has %s: %v", given, err)
	}
	c.kill()
	if err := exclusively(given); err != nil {
		t.Errorf("after the process has ended: %v", err)
	}
}

func TestAServerListensWhereAPortIsReserved(t *testing.T) {
	pool := newPool(t)
	port, err := pool.Port()
	if err != nil {
		t.Fatal(err)
	}
	address, err := pool.Address(metricsPort)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []string{fmt.Sprintf("127.0.0.1:%d", port), fmt.Sprintf("%s:%d", address, metricsPort)} {
		for range 2 { // again after a crash
			listener, err := net.Listen("tcp", at)
			if err != nil {
				t.Fatal(err)
			}
			connection, err := net.Dial("tcp", at)
			if err != nil {
				t.Fatal(err)
			}
			connection.Close()
			listener.Close()
		}
		if connection, err := net.Dial("tcp", at); err == nil {
			connection.Close()
			t.Errorf("%s answers without a server", at)
		}
	}
}

// exclusively binds an address that no other socket may have.
func exclusively(address string) error {
	host, portText, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	port, err := strconv.Atoi(portText)
	if err != nil {
		return err
	}
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(socket)
	return unix.Bind(socket, &unix.SockaddrInet4{Port: port, Addr: [4]byte(net.ParseIP(host).To4())})
}

// childRounds is how often a child reserves a port and an address.
const childRounds = 300

// child is a process that reserves ports and keeps them.
type child struct {
	command *exec.Cmd
	output  *bufio.Scanner
}

func startChild(t *testing.T) *child {
	t.Helper()
	c := &child{command: exec.Command(os.Args[0])}
	c.command.Env = append(os.Environ(), childEnv+"=yes")
	c.command.Stderr = os.Stderr
	if _, err := c.command.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	output, err := c.command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.kill)
	c.output = bufio.NewScanner(output)
	return c
}

// kill ends the child and waits until it is gone. It may be called again.
func (c *child) kill() {
	_ = c.command.Process.Kill() // it may have ended
	_ = c.command.Wait()         // it was killed
}

// reservations returns all that the child has reserved.
func (c *child) reservations(t *testing.T) []string {
	t.Helper()
	var all []string
	for range 2 * childRounds {
		if !c.output.Scan() {
			t.Fatal("the child ended:", c.output.Err())
		}
		all = append(all, c.output.Text())
	}
	return all
}

// reserveAsChild reserves, prints what it got a line each, and keeps it until it
// is killed or the test has ended.
func reserveAsChild() {
	var pool ports.Pool
	for range childRounds {
		given, err := reserveOne(&pool)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(strings.Join(given, "\n"))
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
}

func reserve(t *testing.T, pool *ports.Pool) []string {
	t.Helper()
	given, err := reserveOne(pool)
	if err != nil {
		t.Fatal(err)
	}
	return given
}

// reserveOne reserves a port and an address, and returns both as host:port.
func reserveOne(pool *ports.Pool) ([]string, error) {
	port, err := pool.Port()
	if err != nil {
		return nil, err
	}
	address, err := pool.Address(metricsPort)
	if err != nil {
		return nil, err
	}
	return []string{fmt.Sprintf("127.0.0.1:%d", port), fmt.Sprintf("%s:%d", address, metricsPort)}, nil
}

func newPool(t *testing.T) *ports.Pool {
	t.Helper()
	pool := &ports.Pool{}
	t.Cleanup(pool.Release)
	return pool
}
