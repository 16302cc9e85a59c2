package tickstorm

import (
	"context"
	"net"
	"sync"
	"time"

	"tickstorm.dev/client/internal/clock"
	"tickstorm.dev/client/internal/wire"
)

const (
	// readLen is the space to read into, enough for some hundreds of ticks.
	readLen = 16_384
	// arrivedQuiet is how long nothing must arrive on the old connection for it to have brought all
	// that had arrived when a move is about to be made.
	arrivedQuiet = 2 * time.Millisecond
	// arrivedMax bounds how long that is awaited.
	arrivedMax = 100 * time.Millisecond
	// sleepMax bounds the sleep right before a tick is released, which is more exact than a timer.
	sleepMax = 1500 * time.Microsecond
)

// driver performs the actions of a subscription. One goroutine runs the subscription, and each
// connection has one goroutine that makes it and reads from it, and one that writes to it.
type driver struct {
	options *Options
	dialer  *dialer
	events  chan Event
	modes   chan Mode
	// connected receives what Connect returns.
	connected chan firstConnection
	dialled   chan dialled
	written   chan written
	done      chan struct{}

	// mu guards subscription for authorityTime, and result.
	mu           sync.Mutex
	subscription *subscription
	conns        map[int]*connection
	wasConnected bool
	closed       bool
}

type firstConnection struct {
	edge  Reconnected
	start int64
}

// dialled is the outcome of an attempt to connect.
type dialled struct {
	id   int
	conn net.Conn
	who  login
	// ips is how many IP addresses the name has.
	ips int
	err failure
}

// written is the outcome of writing.
type written struct {
	id  int
	err error
}

// arrived is what a connection brought, or its end.
type arrived struct {
	bytes []byte
	at    instant
	err   error
}

// connection is a connection, or an attempt to make one.
type connection struct {
	cancel   context.CancelFunc
	conn     net.Conn
	arrivals chan arrived
	writes   chan func() []byte
	closed   chan struct{}
}

func newDriver(o *Options) *driver {
	s := newSubscription(o.settings(), newRandom())
	s.est.suspensionUncertain = !clock.SuspensionCertain
	return &driver{
		options:      o,
		dialer:       newDialer(o),
		events:       make(chan Event),
		modes:        make(chan Mode),
		connected:    make(chan firstConnection, 1),
		dialled:      make(chan dialled),
		written:      make(chan written),
		done:         make(chan struct{}),
		subscription: s,
		conns:        map[int]*connection{},
	}
}

// run runs the subscription until it is over or ctx is done.
func (d *driver) run(ctx context.Context) {
	defer close(d.done)
	defer close(d.events)
	defer d.closeAll()
	d.handle(ctx, d.subscription.begin)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		event, wait, over := d.plan()
		if over {
			return
		}
		if !timer.Stop() {
			select {
			case <-timer.C:
			default:
			}
		}
		timer.Reset(wait)
		if !d.turn(ctx, event, timer.C) {
			d.mu.Lock()
			d.closed = true
			d.mu.Unlock()
			return
		}
	}
}

// plan returns the event to hand on, if there is one, and how long to wait at most. If a tick is
// released within moments, it sleeps until then.
func (d *driver) plan() (event Event, wait time.Duration, over bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.subscription
	if s.isOver() {
		return nil, 0, true
	}
	if len(s.queue) > 0 {
		event = s.queue[0]
	}
	at, exact := s.next()
	wait = maxOf(at-clock.Now(), 0)
	if !exact || event != nil {
		return event, wait, false
	}
	if wait > sleepMax {
		return nil, wait - sleepMax, false
	}
	d.mu.Unlock()
	clock.SleepShort(wait)
	d.mu.Lock()
	return nil, 0, false
}

// turn waits for one thing to happen, and handles it. It returns false if ctx is done.
func (d *driver) turn(ctx context.Context, event Event, timer <-chan time.Time) bool {
	s := d.subscription
	var events chan<- Event
	if event != nil {
		events = d.events
	}
	current, attempt := d.arrivals(s.link), d.arrivals(s.attempt)
	if !s.reads() {
		current = nil
	}
	select {
	case <-ctx.Done():
		return false
	case events <- event:
		d.handle(ctx, s.handleTaken)
	case <-timer:
		d.handle(ctx, s.handleTimer)
	case mode := <-d.modes:
		d.handle(ctx, func(at moment) { s.setMode(at, mode) })
	case o := <-d.dialled:
		d.handleDialled(ctx, o)
	case w := <-d.written:
		d.handle(ctx, func(at moment) { s.handleWritten(at, w.id, w.err) })
	case a := <-current:
		d.handleArrived(ctx, s.link.id, a)
	case a := <-attempt:
		id := s.attempt.id
		d.finishOld(ctx)
		d.handleArrived(ctx, id, a)
	}
	return true
}

// finishOld hands over what has already arrived on the connection in use, before what an attempt to
// move brought.
func (d *driver) finishOld(ctx context.Context) {
	s := d.subscription
	giveUp := clock.Now() + arrivedMax
	for s.link != nil && s.attempt != nil && s.reads() && clock.Now() < giveUp {
		quiet := time.NewTimer(arrivedQuiet)
		select {
		case a := <-d.arrivals(s.link):
			quiet.Stop()
			d.handleArrived(ctx, s.link.id, a)
		case <-quiet.C:
			return
		}
	}
}

func (d *driver) arrivals(l *link) <-chan arrived {
	if l == nil || l.ended || d.conns[l.id] == nil {
		return nil
	}
	return d.conns[l.id].arrivals
}

// handle lets the subscription handle something, and performs what it asks for.
func (d *driver) handle(ctx context.Context, handle func(moment)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	handle(readClocks())
	for _, action := range d.subscription.takeActions() {
		switch action := action.(type) {
		case dialAction:
			d.dial(ctx, action)
		case writeAction:
			bytes := action.bytes
			d.write(action.link, func() []byte { return bytes })
		case heartbeatAction:
			d.write(action.link, func() []byte {
				return wire.AppendHeartbeat(nil, int64(clock.Now()/time.Microsecond))
			})
		case closeAction:
			d.close(action.link)
		}
	}
	if s := d.subscription; s.link != nil && !d.wasConnected {
		d.wasConnected = true
		d.connected <- firstConnection{
			edge: Reconnected{
				Address:      s.settings.addresses[s.link.address],
				EdgeID:       s.link.welcome.edgeID,
				ConnectionID: s.link.welcome.connectionID,
			},
			start: s.link.start,
		}
	}
}

func (d *driver) handleArrived(ctx context.Context, id int, a arrived) {
	d.handle(ctx, func(at moment) {
		if a.err != nil {
			d.subscription.handleClosed(at, id, a.err)
			return
		}
		d.subscription.handleRead(at, id, a.bytes, a.at)
	})
}

// dial starts to connect. The credentials are fetched first: an edge waits only a few seconds for
// AUTH, and if they cannot be fetched, no connection is needed.
func (d *driver) dial(ctx context.Context, action dialAction) {
	ctx, cancel := context.WithCancel(ctx)
	c := &connection{
		cancel:   cancel,
		arrivals: make(chan arrived),
		writes:   make(chan func() []byte, 1),
		closed:   make(chan struct{}),
	}
	d.conns[action.link] = c
	address := d.options.Addresses[action.address]
	go func() {
		o := dialled{id: action.link}
		var err error
		if o.who, err = d.options.Credentials.login(ctx); err != nil {
			o.err = &CredentialsError{Err: err}
		} else if o.conn, o.ips, err = d.dialer.dial(ctx, address, action.limit); err != nil {
			o.conn, o.err = nil, &ConnectError{Address: address, Err: err}
		}
		select {
		case d.dialled <- o:
		case <-c.closed:
			if o.conn != nil {
				o.conn.Close()
			}
		}
	}()
}

func (d *driver) handleDialled(ctx context.Context, o dialled) {
	if c := d.conns[o.id]; c != nil && o.conn != nil {
		c.conn = o.conn
		go c.read()
		go c.write(o.id, d.written)
	} else if o.conn != nil {
		o.conn.Close()
	}
	d.handle(ctx, func(at moment) { d.subscription.handleDialled(at, o.id, o.who, o.ips, o.err) })
}

// write hands bytes to the connection's writer, which is idle.
func (d *driver) write(id int, bytes func() []byte) {
	if c := d.conns[id]; c != nil {
		c.writes <- bytes
	}
}

func (d *driver) close(id int) {
	c := d.conns[id]
	if c == nil {
		return
	}
	delete(d.conns, id)
	c.cancel()
	close(c.closed)
	if c.conn != nil {
		// Closing a connection over TLS may wait for the other side.
		go c.conn.Close()
	}
}

func (d *driver) closeAll() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for id := range d.conns {
		d.close(id)
	}
}

// read reads until the connection ends. The time of each read is taken at once, because samples of
// the time depend on it.
func (c *connection) read() {
	for {
		buffer := make([]byte, readLen)
		n, err := c.conn.Read(buffer)
		at := clock.Now()
		if n > 0 && !c.deliver(arrived{bytes: buffer[:n], at: at}) {
			return
		}
		if err != nil {
			c.deliver(arrived{err: err, at: at})
			return
		}
	}
}

func (c *connection) deliver(a arrived) bool {
	select {
	case c.arrivals <- a:
		return true
	case <-c.closed:
		return false
	}
}

// write writes until the connection is closed.
func (c *connection) write(id int, outcomes chan<- written) {
	for {
		select {
		case <-c.closed:
			return
		case bytes := <-c.writes:
			_, err := c.conn.Write(bytes())
			select {
			case outcomes <- written{id, err}:
			case <-c.closed:
				return
			}
		}
	}
}

// result returns why the client has ended.
func (d *driver) result() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed || d.subscription.err == nil {
		return ErrClosed
	}
	return d.subscription.err
}

// lastFailure returns why the last attempt of the first connection failed, or nil.
func (d *driver) lastFailure() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if f := d.subscription.first; f != nil && f.failed != nil {
		return f.failed
	}
	return nil
}

func (d *driver) authorityTime() (Estimate, bool) {
	at := readClocks()
	d.mu.Lock()
	defer d.mu.Unlock()
	est := d.subscription.est
	if est.isVoid(at.suspended) {
		return Estimate{}, false
	}
	now, ok := est.estimate(at.now)
	if !ok {
		return Estimate{}, false
	}
	return *now.public(), true
}

// readClocks looks at the clocks.
func readClocks() moment {
	reading := clock.Read()
	return moment{now: reading.Now, suspended: reading.Suspended}
}
