package tickstorm

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// ErrClosed is the result of using a Client after Close.
var ErrClosed = errors.New("tickstorm: the client is closed")

// Client is a subscription, which may span many connections. Its methods may be called by several
// goroutines, but ticks and events must be read by one at a time, and in one way: by Next and Tick,
// by NextEvent, or by Ticks.
type Client struct {
	options Options
	driver  *driver
	cancel  context.CancelFunc
	events  <-chan Event
	done    <-chan struct{}
	// closing is closed by Close.
	closing <-chan struct{}
	// reading holds a value while a goroutine of Ticks reads, so that the next one follows it.
	reading chan struct{}

	mu      sync.Mutex
	pending Event
	tick    Tick
	err     error
	edge    Reconnected
	start   int64
}

// Connect connects to an edge, authenticates and subscribes. Each address is tried, without a
// pause; if none of them accepts this client, Connect returns the reason and the address. However,
// if an edge does not know the time yet, Connect tries again until an edge does, or ctx is done.
// Later connections are made without limit, each announced by Reconnecting, unless
// Options.NoReconnect is set.
//
// errors.As finds the reason, such as a *ServerError. If ctx ended Connect, errors.Is finds the
// error of ctx, and errors.As the reason why the last attempt failed, if one did.
//
// ctx only limits Connect. Call Close when the client is no longer needed.
func Connect(ctx context.Context, options Options) (*Client, error) {
	if err := options.check(); err != nil {
		return nil, err
	}
	running, cancel := context.WithCancel(context.Background())
	d := newDriver(&options)
	go d.run(running)
	c := &Client{
		options: options, driver: d, cancel: cancel, events: d.events, done: d.done,
		closing: running.Done(), reading: make(chan struct{}, 1),
	}
	select {
	case first := <-d.connected:
		c.edge, c.start = first.edge, first.start
		return c, nil
	case <-d.done:
		cancel()
		return nil, d.result()
	case <-ctx.Done():
		c.Close()
		return nil, &contextError{ended: ctx.Err(), last: d.lastFailure()}
	}
}

// Next waits for the next tick, which Tick then returns. It returns false if ctx is done, or if the
// client has ended; Err tells why. Nothing is lost if ctx ends: Next can be called again. Other
// events go to Options.OnEvent.
func (c *Client) Next(ctx context.Context) bool {
	for {
		event, err := c.NextEvent(ctx)
		if err != nil {
			c.fail(err)
			return false
		}
		if tick, ok := event.(Tick); ok {
			c.mu.Lock()
			c.tick, c.err = tick, nil
			c.mu.Unlock()
			return true
		}
		if c.options.OnEvent != nil {
			c.options.OnEvent(event)
		}
	}
}

// fail records what Err returns.
func (c *Client) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
}

// Tick returns the tick for which Next waited.
func (c *Client) Tick() Tick {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.tick
}

// Err returns why Next returned false, or why the channel of Ticks was closed: the error of the
// context, ErrClosed or, with Options.NoReconnect, the error that ended the connection.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// NextEvent waits for the next event of any kind. It fails if ctx is done, after Close with
// ErrClosed, and with Options.NoReconnect with the error that ended the connection. Nothing is lost
// if ctx ends: NextEvent can be called again.
func (c *Client) NextEvent(ctx context.Context) (Event, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c.mu.Lock()
	event := c.pending
	c.pending = nil
	c.mu.Unlock()
	if event == nil {
		select {
		case received, ok := <-c.events:
			if !ok {
				return nil, c.driver.result()
			}
			event = received
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	c.note(event)
	return event, nil
}

// note keeps the names of the edge that the last event came from.
func (c *Client) note(event Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch event := event.(type) {
	case Reconnected:
		c.edge = event
	case Moved:
		c.edge = Reconnected(event)
	}
}

// Ticks returns a channel of ticks. It is closed when ctx is done, or when the client has ended;
// Err tells why. Other events go to Options.OnEvent. If the reader is slow, a thousand events are
// queued, and then the connection is not read.
//
// Nothing is lost if ctx ends: the next channel of Ticks continues where this one ended. Before you
// call Next or NextEvent, read this channel until it is closed.
func (c *Client) Ticks(ctx context.Context) <-chan Tick {
	ticks := make(chan Tick)
	go func() {
		defer close(ticks)
		select {
		case c.reading <- struct{}{}:
			defer func() { <-c.reading }()
		case <-ctx.Done():
			c.fail(ctx.Err())
			return
		}
		for c.Next(ctx) {
			tick := c.Tick()
			select {
			case ticks <- tick:
			case <-ctx.Done():
				// The tick was not received, so it is the next one.
				c.mu.Lock()
				c.pending, c.err = tick, ctx.Err()
				c.mu.Unlock()
				return
			case <-c.closing:
				c.fail(ErrClosed)
				return
			}
		}
	}()
	return ticks
}

// Subscribe changes the mode of the subscription, over the connection that there is. It returns at
// once. The ticks of the old mode end, and those of the new one begin, when an edge acknowledges
// that. No tick is missing or repeated: after SECOND ticks, the MINUTE ticks after the last of them
// follow; after MINUTE ticks, the SECOND ticks from the present on. These take the place of MINUTE
// ticks that are held because they were sent ahead.
func (c *Client) Subscribe(mode Mode) error {
	if !mode.isKnown() {
		return fmt.Errorf("tickstorm: the mode is %d; it must be ModeSecond or ModeMinute", mode)
	}
	select {
	case c.driver.modes <- mode:
		return nil
	case <-c.done:
		return c.driver.result()
	}
}

// AuthorityTime returns authority time now. It returns false if no edge has sent it for 30 s, or
// since this machine was suspended or stalled.
func (c *Client) AuthorityTime() (Estimate, bool) { return c.driver.authorityTime() }

// StartEpochMs returns the point after which the ticks of the first subscription start, as a Unix
// time in milliseconds. Until a tick has arrived, a later subscription resumes from this point.
func (c *Client) StartEpochMs() int64 { return c.start }

// Address returns the address of the edge that the last event came from, one of those in Options.
func (c *Client) Address() string { return c.currentEdge().Address }

// EdgeID returns the name of the edge that the last event came from, as the edge gives it. It may
// contain any characters.
func (c *Client) EdgeID() string { return c.currentEdge().EdgeID }

// ConnectionID returns the name of the connection that the last event came over, by which the
// edge's operator finds it. It is empty if the edge gave it none.
func (c *Client) ConnectionID() string { return c.currentEdge().ConnectionID }

func (c *Client) currentEdge() Reconnected {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.edge
}

// Close ends the client, and waits until it handles nothing more. It does not wait for the
// goroutines that close the connection, call functions of Options, or serve Ticks. Those end by
// themselves, as soon as the functions return. Calling Close again does nothing.
func (c *Client) Close() error {
	c.cancel()
	<-c.done
	return nil
}

// String names the edge. It shows no secret.
func (c *Client) String() string {
	edge := c.currentEdge()
	return fmt.Sprintf("tickstorm client of %q at %q", edge.EdgeID, edge.Address)
}

// GoString is the same as String.
func (c *Client) GoString() string { return c.String() }
