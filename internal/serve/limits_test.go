package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/wasme-io/wasme-operator/internal/module"
)

// agentTime is how long pilot-agent gives one attempt.
const agentTime = 15 * time.Second

// connect returns a connection from an address of this machine.
func connect(from, to string) (net.Conn, error) {
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: agentTime}
	return dialer.Dial("tcp", to)
}

// fetchFrom fetches as an agent would, from an address of this machine.
func fetchFrom(ctx context.Context, from, url string) (size int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, agentTime)
	defer cancel()
	transport := &http.Transport{DisableKeepAlives: true, DialContext: (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).DialContext}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return 0, err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("status %d", resp.StatusCode)
	}
	return io.Copy(io.Discard, resp.Body)
}

func TestOneAddressDoesNotKeepOthersFromTheirModules(t *testing.T) {
	const idle, stalled, pods = 10_000, 1_000, 40
	content := strings.Repeat("0123456789abcdef", 8<<20/16) // more than sockets buffer
	modules, sum := storeWith(t, content)
	modules.Retain(holder, sum)
	server := listen(t, modules)
	server.progress = 2 * agentTime // so that what is stalled stays so
	base := serve(t, server)
	address := strings.TrimPrefix(base, "http://")

	var opened []net.Conn
	t.Cleanup(func() {
		for _, conn := range opened {
			_ = conn.Close()
		}
	})
	for i := range idle + stalled {
		conn, err := connect("127.0.0.2", address)
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		opened = append(opened, conn)
		if i < stalled {
			// It asks for a module and never reads it. A connection that was closed
			// at once cannot be written to, which is fine.
			_, _ = fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: modules\r\n\r\n", module.Path(sum))
		}
	}
	var fetching sync.WaitGroup
	failures := make(chan error, pods)
	for pod := range pods {
		fetching.Go(func() {
			size, err := fetchFrom(t.Context(), fmt.Sprintf("127.0.1.%d", pod+1), base+module.Path(sum))
			if err != nil || size != int64(len(content)) {
				failures <- fmt.Errorf("pod %d: %d bytes, %w", pod, size, err)
			}
		})
	}
	fetching.Wait()
	close(failures)
	for failure := range failures {
		t.Error(failure)
	}
}

func TestConnectionsAreLimited(t *testing.T) {
	g := NewWithT(t)
	one, other := netip.MustParsePrefix("10.0.0.1/32"), netip.MustParsePrefix("10.0.0.2/32")
	l := limited(nil)
	for range maxPerAddress {
		g.Expect(l.admit(one)).To(BeTrue())
	}
	g.Expect(l.admit(one)).To(BeFalse())
	g.Expect(l.admit(other)).To(BeTrue())
	l.leave(one)
	g.Expect(l.admit(one)).To(BeTrue())
	for i := range maxConnections - maxPerAddress - 1 {
		g.Expect(l.admit(client(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})))).To(BeTrue())
	}
	g.Expect(l.admit(netip.MustParsePrefix("10.0.0.3/32"))).To(BeFalse())
	l.leave(other)
	g.Expect(l.admit(netip.MustParsePrefix("10.0.0.3/32"))).To(BeTrue())
	g.Expect(l.clients).NotTo(HaveKey(other))
}

func TestAConnectionCountsOnceUntilItIsClosed(t *testing.T) {
	g := NewWithT(t)
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	g.Expect(err).NotTo(HaveOccurred())
	l := limited(inner)
	defer l.Close()
	dialled, err := net.Dial("tcp", inner.Addr().String())
	g.Expect(err).NotTo(HaveOccurred())
	defer dialled.Close()
	conn, err := l.Accept()
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(l.all).To(Equal(1))
	g.Expect(conn.Close()).To(Succeed())
	g.Expect(conn.Close()).NotTo(Succeed())
	g.Expect(l.all).To(BeZero())
	g.Expect(l.clients).To(BeEmpty())
}

func TestClientsAreAddressesAndNetworksOfIPv6(t *testing.T) {
	for given, want := range map[string]string{
		"10.0.0.1": "10.0.0.1/32", "::ffff:10.0.0.1": "10.0.0.1/32", "2001:db8::1": "2001:db8::/64", "2001:db8::ffff:1": "2001:db8::/64", "fe80::1%eth0": "fe80::/64",
	} {
		if got := client(netip.MustParseAddr(given)).String(); got != want {
			t.Errorf("%s: got %s, want %s", given, got, want)
		}
	}
	if got := client(netip.Addr{}); got.IsValid() {
		t.Errorf("no address: got %s", got)
	}
}

func TestTransfersAreAdmittedInTheirOrder(t *testing.T) {
	g := NewWithT(t)
	tr := newTransfers()
	address := func(i int) netip.Prefix { return client(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})) }
	enter := func(from netip.Prefix) (func(), error) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		return tr.enter(ctx, from)
	}
	var leaves []func()
	for range maxTransfersPerAddress {
		leave, err := enter(address(0))
		g.Expect(err).NotTo(HaveOccurred())
		leaves = append(leaves, leave)
	}
	_, err := enter(address(0))
	g.Expect(errors.Is(err, errBusy)).To(BeTrue(), "one address has its share")
	for i := range maxTransfers - maxTransfersPerAddress {
		leave, err := enter(address(i + 1))
		g.Expect(err).NotTo(HaveOccurred())
		leaves = append(leaves, leave)
	}
	_, err = enter(address(1000))
	g.Expect(errors.Is(err, errBusy)).To(BeTrue(), "all are taken")
	leaves[0]()
	leave, err := enter(address(1000))
	g.Expect(err).NotTo(HaveOccurred())
	leave()
	for _, leave := range leaves[1:] {
		leave()
	}
	g.Expect(tr.clients).To(BeEmpty())
	g.Expect(tr.all.TryAcquire(maxTransfers)).To(BeTrue(), "every slot was given back")
}

func TestAClientThatIsToTryAgainGetsAnotherConnection(t *testing.T) {
	g := NewWithT(t)
	modules, _ := storeWith(t, "here")
	resp, _ := do(t, http.MethodGet, start(t, modules)+module.Path(strings.Repeat("0", 64)), nil)
	g.Expect(resp.StatusCode).To(Equal(http.StatusServiceUnavailable))
	g.Expect(resp.Close).To(BeTrue())
	g.Expect(resp.Header.Get("Retry-After")).To(Equal("1"))
}

func TestAModuleThatIsRetainedAndNotHereIsMissed(t *testing.T) {
	g := NewWithT(t)
	modules, here := storeWith(t, "here")
	modules.Retain(holder, here)
	gone := strings.Repeat("0", 64)
	server := listen(t, modules)
	server.hold = shortHold
	missed := make(chan string, 10)
	server.missed = func(sha256 string) { missed <- sha256 }
	base := serve(t, server)
	for _, sum := range []string{here, strings.Repeat("1", 64)} {
		do(t, http.MethodGet, base+module.Path(sum), nil)
	}
	g.Expect(missed).NotTo(Receive(), "one is here, and nobody retains the other")
	modules.Retain(holder, gone)
	do(t, http.MethodGet, base+module.Path(gone), nil)
	g.Expect(missed).To(Receive(Equal(gone)))
}
