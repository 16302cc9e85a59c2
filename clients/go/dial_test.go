package tickstorm

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"
)

func ips(texts ...string) []netip.Addr {
	var all []netip.Addr
	for _, text := range texts {
		all = append(all, netip.MustParseAddr(text))
	}
	return all
}

func TestAddressesAlternateAndBeginAfterTheLastOne(t *testing.T) {
	found := ips("2001:db8::1", "2001:db8::2", "192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.1")
	want := ips("2001:db8::1", "192.0.2.1", "2001:db8::2", "192.0.2.2", "192.0.2.3")
	if got := inTurn(found, netip.Addr{}); !reflect.DeepEqual(got, want) {
		t.Errorf("%v", got)
	}
	want = ips("2001:db8::2", "192.0.2.2", "192.0.2.3", "2001:db8::1", "192.0.2.1")
	if got := inTurn(found, want[4]); !reflect.DeepEqual(got, want) {
		t.Errorf("%v", got)
	}
	if got := inTurn(nil, netip.Addr{}); got != nil {
		t.Errorf("%v", got)
	}
}

func TestARaceIsWonByTheFirstThatAnswers(t *testing.T) {
	candidates := ips("192.0.2.1", "192.0.2.2", "192.0.2.3")
	client, server := net.Pipe()
	defer server.Close()
	// The first never answers, the second refuses, and the third is tried at once after that.
	connect := func(ctx context.Context, ip netip.Addr) (net.Conn, error) {
		switch ip {
		case candidates[0]:
			<-ctx.Done()
			return nil, ctx.Err()
		case candidates[1]:
			return nil, errors.New("refused")
		}
		return client, nil
	}
	conn, used, err := race(testContext(t), candidates, connect)
	if err != nil || conn != client || used != candidates[2] {
		t.Errorf("%v, %v", used, err)
	}
	connect = func(context.Context, netip.Addr) (net.Conn, error) { return nil, errors.New("refused") }
	_, used, err = race(testContext(t), candidates, connect)
	if err == nil || used != candidates[2] {
		t.Errorf("%v, %v", used, err)
	}
	if _, _, err = race(testContext(t), nil, nil); err == nil {
		t.Error("a race without candidates was won")
	}
}

func TestTheNextAttemptBeginsAfterTheAddressThatWasUsed(t *testing.T) {
	d := newDialer(&Options{})
	d.lookup = func(context.Context, string) ([]netip.Addr, error) {
		return ips("192.0.2.1", "192.0.2.2", "192.0.2.3"), nil
	}
	var mu sync.Mutex
	var tried []string
	d.connect = func(_ context.Context, address string) (net.Conn, error) {
		mu.Lock()
		defer mu.Unlock()
		tried = append(tried, address)
		client, server := net.Pipe()
		t.Cleanup(func() { client.Close(); server.Close() })
		return client, nil
	}
	for n := 0; n < 4; n++ {
		if _, n, err := d.dial(testContext(t), "edge:8080", 0); err != nil || n != 3 {
			t.Fatal(err)
		}
	}
	want := []string{"192.0.2.1:8080", "192.0.2.2:8080", "192.0.2.3:8080", "192.0.2.1:8080"}
	if !reflect.DeepEqual(tried, want) {
		t.Errorf("%v", tried)
	}
}

func TestABriefAttemptIsCutOffAndTheNextOneContinues(t *testing.T) {
	d := newDialer(&Options{})
	d.lookup = func(context.Context, string) ([]netip.Addr, error) {
		return ips("192.0.2.1", "192.0.2.2"), nil
	}
	var mu sync.Mutex
	var tried []string
	d.connect = func(ctx context.Context, address string) (net.Conn, error) {
		mu.Lock()
		tried = append(tried, address)
		mu.Unlock()
		<-ctx.Done()
		return nil, ctx.Err()
	}
	for n := 0; n < 2; n++ {
		_, _, err := d.dial(testContext(t), "edge:8080", 20*time.Millisecond)
		if !wasCutOff(&ConnectError{Address: "edge:8080", Err: err}) {
			t.Fatal(err)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if want := []string{"192.0.2.1:8080", "192.0.2.2:8080"}; !reflect.DeepEqual(tried, want) {
		t.Errorf("%v", tried)
	}
}

func TestOnlyTheLimitOfABriefAttemptCutsItOff(t *testing.T) {
	refused := errors.New("refused")
	d := newDialer(&Options{Dial: func(ctx context.Context, _ string) (net.Conn, error) {
		return nil, refused
	}})
	if _, _, err := d.dial(testContext(t), "edge", time.Second); err != refused {
		t.Error(err)
	}
	d.custom = func(ctx context.Context, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if _, _, err := d.dial(testContext(t), "edge", time.Millisecond); err != errCutOff {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, _, err := d.dial(ctx, "edge", time.Hour); err != context.Canceled {
		t.Error(err)
	}
}

// authority is a certificate authority for a test.
type authority struct {
	t           *testing.T
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	caFile      string
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t, caFile: filepath.Join(t.TempDir(), "ca.pem")}
	a.key = newKey(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.certificate, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	writePEM(t, a.caFile, "CERTIFICATE", der)
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func writePEM(t *testing.T, path, kind string, der []byte) {
	t.Helper()
	text := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// issue writes a certificate and its key to files.
func (a *authority) issue(name string) (certFile, keyFile string) {
	directory := a.t.TempDir()
	certFile, keyFile = filepath.Join(directory, "cert.pem"), filepath.Join(directory, "key.pem")
	key := newKey(a.t)
	template := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name},
		NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, &key.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	writePEM(a.t, certFile, "CERTIFICATE", der)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	writePEM(a.t, keyFile, "PRIVATE KEY", keyDER)
	return certFile, keyFile
}

func (a *authority) server() *tls.Config {
	certificate, err := tls.LoadX509KeyPair(a.issue("edge"))
	if err != nil {
		a.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(a.certificate)
	return &tls.Config{Certificates: []tls.Certificate{certificate}, ClientCAs: pool}
}

func TestTLSWithClientCertificates(t *testing.T) {
	a := newAuthority(t)
	config := a.server()
	config.ClientAuth = tls.RequireAndVerifyClientCert
	edge := newLiveEdge(t, "e", config)
	o := options(edge)
	certFile, keyFile := a.issue("client")
	var err error
	if o.TLS, err = LoadTLS(a.caFile, certFile, keyFile); err != nil {
		t.Fatal(err)
	}
	c := connect(t, o)
	edge.session().tick(1, 3)
	expect(t, c, 1, 3)
	// Without a certificate, the edge refuses the client.
	if o.TLS, err = LoadTLS(a.caFile, "", ""); err != nil {
		t.Fatal(err)
	}
	if _, err := Connect(testContext(t), o); err == nil {
		t.Error("connected without a certificate")
	}
}

func TestTLSRefusesWhatItCannotTrust(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	edge := newLiveEdge(t, "e", a.server())
	o := options(edge)
	o.TLS, _ = LoadTLS(other.caFile, "", "")
	var untrusted x509.UnknownAuthorityError
	if _, err := Connect(testContext(t), o); !errors.As(err, &untrusted) {
		t.Errorf("another authority: %v", err)
	}
	o.TLS, _ = LoadTLS(a.caFile, "", "")
	o.TLS.ServerName = "other.example"
	var misnamed x509.HostnameError
	if _, err := Connect(testContext(t), o); !errors.As(err, &misnamed) {
		t.Errorf("another name: %v", err)
	}
	old := a.server()
	old.MaxVersion = tls.VersionTLS12
	edge = newLiveEdge(t, "old", old)
	o = options(edge)
	o.TLS = &tls.Config{RootCAs: old.ClientCAs, MinVersion: tls.VersionTLS12}
	_, err := Connect(testContext(t), o)
	if err == nil || !strings.Contains(err.Error(), "protocol version") {
		t.Errorf("TLS 1.2: %v", err)
	}
}

func TestFilesForTLSThatCannotBeUsedAreNamed(t *testing.T) {
	a := newAuthority(t)
	certFile, keyFile := a.issue("client")
	_, otherKey := a.issue("other")
	missing := filepath.Join(t.TempDir(), "missing.pem")
	for _, c := range []struct{ ca, cert, key, want string }{
		{missing, "", "", "missing.pem"},
		{keyFile, "", "", "no certificate"},
		{"", certFile, "", "both files"},
		{"", certFile, missing, "missing.pem"},
		{"", certFile, otherKey, "private key does not match"},
	} {
		if _, err := LoadTLS(c.ca, c.cert, c.key); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, but expected something with %q", err, c.want)
		}
	}
}
