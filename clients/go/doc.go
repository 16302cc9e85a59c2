// Package tickstorm is a client of TickStorm, which pushes a tick at the start of each second or
// minute, at that instant and from one authority.
//
// A Client is one subscription. It authenticates, sends heartbeats, comes back when a connection
// ends, resumes where it was, and moves to another edge when its edge is shut down, so that no tick
// is missing or doubled. It needs nothing but the standard library, and Go 1.19.
//
//	c, err := tickstorm.Connect(ctx, tickstorm.Options{
//		Addresses:   []string{"edge-0:8080", "edge-1:8080"},
//		Credentials: tickstorm.PasswordFile("stream_user", "/run/secrets/password"),
//	})
//	if err != nil {
//		return err
//	}
//	defer c.Close()
//	for c.Next(ctx) {
//		fmt.Println(c.Tick().Time())
//	}
//	return c.Err()
//
// # Reading
//
// There are three ways to read: Next and Tick as above, a channel of ticks by Ticks, and NextEvent,
// which also returns what else happens: a Gap if ticks are lost, Reconnecting, Reconnected and
// Moved. With the other two, these go to Options.OnEvent.
//
// If the reader is slow, a thousand events are queued. Then the connection is not read, but kept
// alive, and the edge decides what happens to a slow client. If it closes the connection, the ticks
// that it did not send follow over the next one.
//
// # Exact ticks
//
// An edge with 100,000 clients sends a tick to one after the other. With Options.Ahead, ticks
// arrive early, and the client releases each one at its time. It learns the time from the edge,
// with an error bound: AuthorityTime and Tick.Received.
//
// # After a crash
//
// Save Tick.EpochMs together with what you did at that tick, and resume after it with
// Options.ResumeAfter. Edges can send the ticks of the last ten minutes again, unless they are
// configured otherwise.
//
// The protocol is described in docs/protocol.md of the TickStorm repository.
package tickstorm
