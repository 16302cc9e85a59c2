package tickstorm

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	lookupTimeout = 5 * time.Second
	// connectTimeout is for each IP address: long enough for a lost SYN and its retransmission.
	connectTimeout = 3 * time.Second
	// raceTimeout is for all IP addresses of a name. The next attempt continues after them.
	raceTimeout      = 6 * time.Second
	handshakeTimeout = 10 * time.Second
	// headStart is the time between the starts of two attempts, as RFC 8305 recommends.
	headStart = 250 * time.Millisecond
)

// dialer makes connections. The IP addresses of a name are tried side by side, and the next attempt
// for the same name begins after the one that was used, in case its edge refuses or is silent.
type dialer struct {
	tls      *tls.Config
	custom   func(ctx context.Context, address string) (net.Conn, error)
	lookup   func(ctx context.Context, host string) ([]netip.Addr, error)
	connect  func(ctx context.Context, address string) (net.Conn, error)
	mu       sync.Mutex
	lastUsed map[string]netip.Addr
}

func newDialer(o *Options) *dialer {
	return &dialer{
		tls:    o.TLS,
		custom: o.Dial,
		lookup: func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		},
		connect: func(ctx context.Context, address string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", address)
		},
		lastUsed: map[string]netip.Addr{},
	}
}

// dial connects to an address, and makes the TLS handshake if there is to be one. limit is that of
// dialAction. It also returns the number of IP addresses.
func (d *dialer) dial(
	ctx context.Context, address string, limit time.Duration,
) (net.Conn, int, error) {
	conn, ips, err := d.dialWithin(ctx, address, limit)
	if err != nil || d.tls == nil {
		return conn, ips, err
	}
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	secured := tls.Client(conn, tlsConfigFor(d.tls, address))
	if err := secured.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, ips, err
	}
	return secured, ips, nil
}

func (d *dialer) dialWithin(
	ctx context.Context, address string, limit time.Duration,
) (net.Conn, int, error) {
	if limit == 0 {
		return d.dialPlain(ctx, address)
	}
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	conn, ips, err := d.dialPlain(limited, address)
	if err != nil && limited.Err() != nil && ctx.Err() == nil {
		err = errCutOff
	}
	return conn, ips, err
}

func (d *dialer) dialPlain(ctx context.Context, address string) (net.Conn, int, error) {
	if d.custom != nil {
		ctx, cancel := context.WithTimeout(ctx, lookupTimeout+raceTimeout)
		defer cancel()
		conn, err := d.custom(ctx, address)
		return conn, 1, err
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, 0, err
	}
	found, err := d.resolve(ctx, host)
	if err != nil {
		return nil, 0, err
	}
	d.mu.Lock()
	candidates := inTurn(found, d.lastUsed[address])
	d.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, raceTimeout)
	defer cancel()
	connect := func(ctx context.Context, ip netip.Addr) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, connectTimeout)
		defer cancel()
		return d.connect(ctx, net.JoinHostPort(ip.String(), port))
	}
	conn, last, err := race(ctx, candidates, connect)
	if last.IsValid() {
		d.mu.Lock()
		d.lastUsed[address] = last
		d.mu.Unlock()
	}
	if tcp, ok := conn.(*net.TCPConn); ok && err == nil {
		// This is Go's default, but samples of the time depend on it.
		if err := tcp.SetNoDelay(true); err != nil {
			conn.Close()
			return nil, len(candidates), err
		}
	}
	return conn, len(candidates), err
}

func (d *dialer) resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{ip}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	return d.lookup(ctx, host)
}

// inTurn returns IP addresses in the order in which to try them: those of the two families
// alternate, beginning with the family of the first, and the order begins after last.
func inTurn(found []netip.Addr, last netip.Addr) []netip.Addr {
	var families [2][]netip.Addr
	seen := map[netip.Addr]bool{}
	for _, ip := range found {
		ip = ip.Unmap()
		if seen[ip] {
			continue
		}
		seen[ip] = true
		family := 0
		if ip.Is4() != found[0].Unmap().Is4() {
			family = 1
		}
		families[family] = append(families[family], ip)
	}
	var ordered []netip.Addr
	for i := 0; i < len(families[0]) || i < len(families[1]); i++ {
		for _, family := range families {
			if i < len(family) {
				ordered = append(ordered, family[i])
			}
		}
	}
	for i, ip := range ordered {
		if ip == last {
			return append(ordered[i+1:len(ordered):len(ordered)], ordered[:i+1]...)
		}
	}
	return ordered
}

// race connects to the first candidate that answers. The next attempt starts when the one before it
// has failed, or 250 ms after it. It also returns the candidate that was used or, if none was, the
// one that was tried last.
func race(
	ctx context.Context, candidates []netip.Addr,
	connect func(context.Context, netip.Addr) (net.Conn, error),
) (net.Conn, netip.Addr, error) {
	type outcome struct {
		conn net.Conn
		ip   netip.Addr
		err  error
	}
	ctx, cancel := context.WithCancel(ctx)
	outcomes := make(chan outcome, len(candidates))
	started, ended := 0, 0
	defer func() {
		cancel()
		// An attempt that succeeds too late is closed again.
		go func(pending int) {
			for ; pending > 0; pending-- {
				if late := <-outcomes; late.conn != nil {
					late.conn.Close()
				}
			}
		}(started - ended)
	}()
	var last netip.Addr
	failed := errors.New("the name has no IP address")
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ended < len(candidates) {
		var next <-chan time.Time
		if started < len(candidates) {
			next = timer.C
		}
		select {
		case <-next:
			last = candidates[started]
			started++
			go func(ip netip.Addr) {
				conn, err := connect(ctx, ip)
				outcomes <- outcome{conn, ip, err}
			}(last)
			timer.Reset(headStart)
		case o := <-outcomes:
			ended++
			if o.err == nil {
				return o.conn, o.ip, nil
			}
			failed = o.err
			// The next attempt starts at once.
			timer.Stop()
			timer = time.NewTimer(0)
		case <-ctx.Done():
			return nil, last, ctx.Err()
		}
	}
	return nil, last, failed
}
