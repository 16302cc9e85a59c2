package tickstorm

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tickstorm.dev/client/internal/wire"
)

// patience bounds every wait of these tests. The machine may be busy.
const patience = 60 * time.Second

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// liveEdge is an edge on a real socket that does what a test says.
type liveEdge struct {
	t        *testing.T
	listener net.Listener
	edgeID   string
	// onAuth returns the error code for an AUTH, or nothing.
	onAuth func(username, password, token string) string
	// sessions receives each subscription.
	sessions chan *liveSession

	mu    sync.Mutex
	conns []net.Conn
}

// liveSession is one subscribed connection.
type liveSession struct {
	conn    net.Conn
	mode    Mode
	resume  *int64
	mu      *sync.Mutex
	pinged  chan struct{}
	started int64
}

const liveStart = 1_800_000_000_000

func newLiveEdge(t *testing.T, edgeID string, config *tls.Config) *liveEdge {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if config != nil {
		listener = tls.NewListener(listener, config)
	}
	e := &liveEdge{t: t, listener: listener, edgeID: edgeID, sessions: make(chan *liveSession, 16)}
	t.Cleanup(e.stop)
	go e.accept()
	return e
}

func (e *liveEdge) address() string { return e.listener.Addr().String() }

func (e *liveEdge) accept() {
	for {
		conn, err := e.listener.Accept()
		if err != nil {
			return
		}
		e.mu.Lock()
		e.conns = append(e.conns, conn)
		e.mu.Unlock()
		go e.serve(conn)
	}
}

// stop closes everything.
func (e *liveEdge) stop() {
	e.listener.Close()
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, conn := range e.conns {
		conn.Close()
	}
}

func (e *liveEdge) serve(conn net.Conn) {
	var reader wire.Decoder
	var writing sync.Mutex
	var session *liveSession
	pinged := make(chan struct{}, 1000)
	write := func(bytes []byte) {
		writing.Lock()
		defer writing.Unlock()
		conn.Write(bytes)
	}
	buffer := make([]byte, 4096)
	for {
		frame, ok, err := reader.Next()
		if err != nil {
			e.t.Errorf("the client wrote a bad frame: %v", err)
			return
		}
		if !ok {
			n, err := conn.Read(buffer)
			if err != nil {
				return
			}
			reader.Feed(buffer[:n])
			continue
		}
		switch frame.Type {
		case wire.TypeAuth:
			fields := texts(frame.Payload)
			if e.onAuth != nil {
				code := e.onAuth(string(fields[1]), string(fields[2]), string(fields[5]))
				if code != "" {
					write(errorFrame(code, 0))
					conn.Close()
					return
				}
			}
			write(ackOfAuth(e.edgeID, 1, nil))
		case wire.TypeSubscribe:
			fields := numbers(frame.Payload)
			session = &liveSession{conn: conn, mode: Mode(fields[1]), mu: &writing, pinged: pinged,
				started: liveStart}
			if point, ok := fields[5]; ok {
				resume := int64(point)
				session.resume, session.started = &resume, resume
			}
			write(ackOfSubscribe(session.started))
			e.sessions <- session
		case wire.TypeHeartbeat:
			write(pongFrame(int64(numbers(frame.Payload)[1]), 0, 1<<32-1))
			select {
			case pinged <- struct{}{}:
			default:
			}
		}
	}
}

// session returns the next subscription.
func (e *liveEdge) session() *liveSession {
	e.t.Helper()
	select {
	case s := <-e.sessions:
		return s
	case <-time.After(patience):
		e.t.Fatalf("%s: no client subscribes", e.edgeID)
		return nil
	}
}

func (s *liveSession) write(bytes []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conn.Write(bytes)
}

// tick sends the ticks from one to another, the n-th seconds after the start.
func (s *liveSession) tick(from, to int64) {
	for n := from; n <= to; n++ {
		s.write(batchFrame(1, wire.Tick{Mode: int32(s.mode), EpochMs: liveStart + 1000*n}))
	}
}

func options(edges ...*liveEdge) Options {
	o := Options{Credentials: Password("ada", "open sesame")}
	for _, e := range edges {
		o.Addresses = append(o.Addresses, e.address())
	}
	return o
}

func connect(t *testing.T, o Options) *Client {
	t.Helper()
	c, err := Connect(testContext(t), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// expect reads ticks, and checks that they are those from one to another.
func expect(t *testing.T, c *Client, from, to int64) {
	t.Helper()
	for n := from; n <= to; n++ {
		if !c.Next(testContext(t)) {
			t.Fatal(c.Err())
		}
		if got := (c.Tick().EpochMs - liveStart) / 1000; got != n {
			t.Fatalf("tick %d, but expected %d", got, n)
		}
	}
}

func TestTicksComeByNextAndByAChannel(t *testing.T) {
	edge := newLiveEdge(t, "e", nil)
	c := connect(t, options(edge))
	edge.session().tick(1, 6)
	expect(t, c, 1, 3)
	ctx, cancel := context.WithCancel(testContext(t))
	ticks := c.Ticks(ctx)
	for n := int64(4); n <= 5; n++ {
		if tick := <-ticks; tick.EpochMs != liveStart+1000*n {
			t.Fatalf("%v", tick)
		}
	}
	// A tick that nobody has taken from the channel is the next one.
	cancel()
	for range ticks {
		t.Fatal("a tick after the end of the context")
	}
	if !errors.Is(c.Err(), context.Canceled) {
		t.Fatal(c.Err())
	}
	expect(t, c, 6, 6)
	if c.EdgeID() != "e" || c.Address() != edge.address() || c.StartEpochMs() != liveStart {
		t.Errorf("%v, start %d", c, c.StartEpochMs())
	}
}

func TestChannelsOfTicksFollowEachOther(t *testing.T) {
	edge := newLiveEdge(t, "e", nil)
	c := connect(t, options(edge))
	const count = 300
	edge.session().tick(1, count)
	last := int64(liveStart)
	for n := 0; n < count; n++ {
		ctx, cancel := context.WithCancel(testContext(t))
		tick := <-c.Ticks(ctx)
		if tick.EpochMs != last+1000 {
			t.Fatalf("%d follows %d", tick.EpochMs, last)
		}
		last = tick.EpochMs
		// The next channel is requested while this one may not be closed yet.
		cancel()
	}
}

func TestCloseEndsAChannelOfTicksThatNobodyReads(t *testing.T) {
	edge := newLiveEdge(t, "e", nil)
	c := connect(t, options(edge))
	edge.session().tick(1, 6)
	ticks := c.Ticks(context.Background())
	<-ticks
	waiting := c.Ticks(context.Background())
	c.Close()
	// The second channel follows the first one, whose next tick is never received.
	select {
	case tick, ok := <-waiting:
		if ok {
			t.Errorf("%v after Close", tick)
		}
	case <-time.After(patience):
		t.Fatal("the first channel is still served")
	}
	if !errors.Is(c.Err(), ErrClosed) {
		t.Error(c.Err())
	}
}

func TestTheLastTickIsReadAfterTheEndOfTheConnection(t *testing.T) {
	for n := 0; n < 20; n++ {
		edge := newLiveEdge(t, "e", nil)
		o := options(edge)
		o.NoReconnect = true
		c := connect(t, o)
		session := edge.session()
		ticks := c.Ticks(testContext(t))
		session.tick(1, 1)
		session.write(errorFrame("INTERNAL", 0))
		<-c.done
		if tick, ok := <-ticks; !ok || tick.EpochMs != liveStart+1000 {
			t.Fatalf("%v, %v", tick, c.Err())
		}
		var refusal *ServerError
		if _, ok := <-ticks; ok || !errors.As(c.Err(), &refusal) {
			t.Fatal(c.Err())
		}
	}
}

func TestTheEndOfAContextLosesNothing(t *testing.T) {
	edge := newLiveEdge(t, "e", nil)
	c := connect(t, options(edge))
	session := edge.session()
	for n := int64(1); n <= 20; n++ {
		ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
		if c.Next(ctx) {
			t.Fatal("a tick that was not sent")
		}
		cancel()
		session.tick(n, n)
		expect(t, c, n, n)
	}
}

func TestCloseEndsEverything(t *testing.T) {
	before := runtime.NumGoroutine()
	edge := newLiveEdge(t, "e", nil)
	c := connect(t, options(edge))
	edge.session()
	waiting := make(chan error)
	go func() {
		_, err := c.NextEvent(context.Background())
		waiting <- err
	}()
	c.Close()
	c.Close()
	if err := <-waiting; !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if err := c.Subscribe(ModeMinute); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	edge.stop()
	deadline := time.Now().Add(patience)
	for runtime.NumGoroutine() > before {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<16)
			t.Fatalf("goroutines remain:\n%s", stacks[:runtime.Stack(stacks, true)])
		}
		runtime.Gosched()
	}
}

func TestTheClientResumesAtAnotherEdge(t *testing.T) {
	a, b := newLiveEdge(t, "a", nil), newLiveEdge(t, "b", nil)
	o := options(a, b)
	var mu sync.Mutex
	var events []Event
	o.OnEvent = func(e Event) {
		mu.Lock()
		defer mu.Unlock()
		events = append(events, e)
	}
	c := connect(t, o)
	session := a.session()
	session.tick(1, 2)
	expect(t, c, 1, 2)
	session.conn.Close()
	session = b.session()
	if session.resume == nil || *session.resume != liveStart+2000 {
		t.Fatalf("resumes after %s", shown(session.resume))
	}
	session.tick(3, 3)
	// Ticks are missing here, which the client reports.
	session.tick(9, 9)
	expect(t, c, 3, 3)
	expect(t, c, 9, 9)
	mu.Lock()
	defer mu.Unlock()
	if len(events) != 3 {
		t.Fatalf("%v", events)
	}
	if r, ok := events[0].(Reconnecting); !ok || !r.Resumes || r.Err == nil {
		t.Errorf("%+v", events[0])
	}
	if r, ok := events[1].(Reconnected); !ok || r.EdgeID != "b" || r.Address != b.address() {
		t.Errorf("%+v", events[1])
	}
	if want := (Gap{ModeSecond, liveStart + 3000, liveStart + 9000}); events[2] != want {
		t.Errorf("%+v", events[2])
	}
}

func TestAMoveMakesBeforeItBreaks(t *testing.T) {
	a, b := newLiveEdge(t, "a", nil), newLiveEdge(t, "b", nil)
	c := connect(t, options(a, b))
	old := a.session()
	old.tick(1, 2)
	old.write(goingAwayFrame(1))
	session := b.session()
	if session.resume == nil {
		t.Fatal("no resume point")
	}
	// Ticks that come again are dropped.
	session.tick(*session.resume/1000-liveStart/1000+1, 4)
	expect(t, c, 1, 4)
	if c.EdgeID() != "b" {
		t.Errorf("%v", c)
	}
}

func TestTheModeChangesOnTheSameConnection(t *testing.T) {
	edge := newLiveEdge(t, "e", nil)
	c := connect(t, options(edge))
	edge.session().tick(1, 59)
	expect(t, c, 1, 59)
	if err := c.Subscribe(ModeMinute); err != nil {
		t.Fatal(err)
	}
	session := edge.session()
	if session.mode != ModeMinute || session.resume == nil || *session.resume != liveStart+59_000 {
		t.Fatalf("%v after %s", session.mode, shown(session.resume))
	}
	session.write(batchFrame(1, wire.Tick{Mode: 1, EpochMs: liveStart + 60_000}))
	if !c.Next(testContext(t)) || c.Tick().Mode != ModeMinute {
		t.Fatalf("%v, %v", c.Tick(), c.Err())
	}
}

func TestASlowReaderIsKeptAliveAndLosesNothing(t *testing.T) {
	edge := newLiveEdge(t, "e", nil)
	c := connect(t, options(edge))
	session := edge.session()
	const count = 20_000
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		session.tick(1, count)
	}()
	// The client stops reading at some point, and still sends HEARTBEATs.
	for n := 0; n < 12; n++ {
		select {
		case <-session.pinged:
		case <-time.After(patience):
			t.Fatal("no HEARTBEAT")
		}
	}
	expect(t, c, 1, count)
	<-sent
}

func TestSecretsAreAskedForBeforeEachAuth(t *testing.T) {
	path := filepath.Join(t.TempDir(), "password")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	edge := newLiveEdge(t, "e", nil)
	passwords := make(chan string, 8)
	edge.onAuth = func(username, password, token string) string {
		passwords <- username + ":" + password + ":" + token
		return ""
	}
	write("first\n")
	o := options(edge)
	o.Credentials = PasswordFile("ada", path)
	c := connect(t, o)
	write("second\r\n")
	edge.session().conn.Close()
	edge.session().tick(1, 1)
	expect(t, c, 1, 1)
	if first, second := <-passwords, <-passwords; first != "ada:first:" || second != "ada:second:" {
		t.Errorf("%q, %q", first, second)
	}
	o.Credentials = TokenFunc(func(context.Context) (string, error) { return "t0ken", nil })
	connect(t, o)
	if got := <-passwords; got != "::t0ken" {
		t.Errorf("%q", got)
	}
}

func TestConnectTellsWhyItFails(t *testing.T) {
	edge := newLiveEdge(t, "e", nil)
	edge.onAuth = func(string, string, string) string { return "AUTH_FAILED" }
	_, err := Connect(testContext(t), options(edge))
	var refusal *ServerError
	if !errors.As(err, &refusal) || refusal.Code != CodeAuthFailed ||
		!strings.Contains(err.Error(), edge.address()) {
		t.Error(err)
	}
	gone := newLiveEdge(t, "gone", nil)
	gone.stop()
	_, err = Connect(testContext(t), options(gone))
	var unreachable *ConnectError
	if !errors.As(err, &unreachable) || unreachable.Address != gone.address() {
		t.Error(err)
	}
	o := options(edge)
	o.Credentials = PasswordFile("ada", filepath.Join(t.TempDir(), "missing"))
	_, err = Connect(testContext(t), o)
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "missing") {
		t.Error(err)
	}
	o = options(edge)
	o.Dial = func(ctx context.Context, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	if _, err = Connect(ctx, o); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

func TestConnectThatIsGivenUpTellsWhyTheLastAttemptFailed(t *testing.T) {
	edge := newLiveEdge(t, "e", nil)
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	refused := make(chan struct{}, 100)
	edge.onAuth = func(string, string, string) string {
		refused <- struct{}{}
		return "NO_TIME"
	}
	go func() {
		// The second refusal shows that the client has handled the first one.
		<-refused
		<-refused
		cancel()
	}()
	_, err := Connect(ctx, options(edge))
	var refusal *ServerError
	if !errors.Is(err, context.Canceled) || !errors.As(err, &refusal) ||
		refusal.Code != CodeNoTime || !strings.Contains(err.Error(), edge.address()) {
		t.Error(err)
	}
}

func TestCredentialsAreFetchedBeforeConnecting(t *testing.T) {
	edge := newLiveEdge(t, "e", nil)
	var dials int32
	o := options(edge)
	o.Dial = func(ctx context.Context, address string) (net.Conn, error) {
		atomic.AddInt32(&dials, 1)
		return new(net.Dialer).DialContext(ctx, "tcp", address)
	}
	o.Credentials = PasswordFunc("ada", func(context.Context) (string, error) {
		if n := atomic.LoadInt32(&dials); n != 0 {
			t.Errorf("%d connections before the password is known", n)
		}
		return "sesame", nil
	})
	connect(t, o)
	edge.session()
	atomic.StoreInt32(&dials, 0)
	missing := errors.New("no password")
	o.Credentials = PasswordFunc("ada", func(context.Context) (string, error) { return "", missing })
	var failed *CredentialsError
	_, err := Connect(testContext(t), o)
	if !errors.As(err, &failed) || !errors.Is(err, missing) || atomic.LoadInt32(&dials) != 0 {
		t.Errorf("%v; %d connections", err, atomic.LoadInt32(&dials))
	}
}

func TestWithoutReconnectTheEndOfTheConnectionIsTheEnd(t *testing.T) {
	edge := newLiveEdge(t, "e", nil)
	o := options(edge)
	o.NoReconnect = true
	c := connect(t, o)
	session := edge.session()
	session.tick(1, 1)
	session.write(errorFrame("INTERNAL", 0))
	expect(t, c, 1, 1)
	var refusal *ServerError
	if c.Next(testContext(t)) || !errors.As(c.Err(), &refusal) || refusal.Code != CodeInternal {
		t.Error(c.Err())
	}
}
