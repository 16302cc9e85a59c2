package tickstorm

import (
	"bytes"
	"context"
	crand "crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand"
	"net"
	"os"
	"strconv"
	"unicode/utf8"

	"tickstorm.dev/client/internal/wire"
)

// secretFileMax bounds what is read of a file for a password or token.
const secretFileMax = wire.ClientPayloadMax

// Options says how to reach an edge, and what to ask it for. Only Addresses and Credentials are
// required.
type Options struct {
	// Addresses are the edges' addresses, as host:port. After each failure, the client tries the
	// next one, and after the last one the first again.
	Addresses []string
	// Credentials are what to authenticate with.
	Credentials Credentials
	// Mode says which ticks to subscribe to at first. The default is ModeSecond.
	Mode Mode
	// Ahead subscribes ahead: ticks arrive 800 ms before their time (unless the edge is configured
	// otherwise), and the client releases each one when its own estimate of authority time reaches
	// it. How late a tick is then depends on that estimate and on this machine's timers, and not on
	// the network.
	Ahead bool
	// ExactTime samples authority time every 2 s instead of every two thirds of the edge's heartbeat
	// interval. Ahead implies it.
	ExactTime bool
	// ResumeAfter resumes an earlier subscription: it asks for the ticks after this Unix time in
	// milliseconds. Those whose time has come arrive first, as REPLAY. nil means none, and the
	// subscription starts now.
	ResumeAfter *int64
	// TLS connects over TLS 1.3. nil means plain TCP, over which passwords travel as they are.
	// LoadTLS makes one from files. The name to expect in the edge's certificate is ServerName, or
	// else the host of the address.
	TLS *tls.Config
	// ClientID identifies this client to the edge's operator. The edge cuts it to 64 characters.
	ClientID string
	// OnEvent is called with each event that is not a Tick, in order with the ticks, if ticks are
	// read by Next or Ticks. It is called by the goroutine that reads them.
	OnEvent func(Event)
	// NoReconnect makes the end of the first connection the end of the client.
	NoReconnect bool
	// NoMove makes the client ignore that its edge asks it to move, for a client that may only have
	// one connection. It then gets its ticks some seconds late when the edge closes the connection.
	NoMove bool
	// Dial replaces the client's own way of connecting to an address over TCP, for instance by a
	// tunnel. TLS, if any, runs over the connection that it returns. It must end when its context
	// does, which is after 11 s at the latest.
	Dial func(ctx context.Context, address string) (net.Conn, error)
}

// Credentials are what a client authenticates with. They never show a secret when printed.
type Credentials struct {
	kind     string
	username string
	// secret is a function so that no way of printing this value shows the secret.
	secret func(context.Context) (string, error)
}

const (
	kindPassword = "password"
	kindToken    = "token"
)

// Password authenticates with a username and password.
func Password(username, password string) Credentials {
	return PasswordFunc(username, func(context.Context) (string, error) { return password, nil })
}

// PasswordFile authenticates with a username and the password in a file, without the newline at its
// end. The file is read again before each connection is made.
func PasswordFile(username, path string) Credentials {
	return PasswordFunc(username, fromFile(path))
}

// PasswordFunc authenticates with a username and the password that a function returns. It is called
// before each connection is made, and must end when its context does, which is after 10 s at the
// latest.
func PasswordFunc(username string, password func(context.Context) (string, error)) Credentials {
	return Credentials{kind: kindPassword, username: username, secret: password}
}

// Token authenticates with a token.
func Token(token string) Credentials {
	return TokenFunc(func(context.Context) (string, error) { return token, nil })
}

// TokenFile authenticates with the token in a file, without the newline at its end. The file is
// read again before each connection is made.
func TokenFile(path string) Credentials { return TokenFunc(fromFile(path)) }

// TokenFunc authenticates with the token that a function returns. It is called before each
// connection is made, and must end when its context does, which is after 10 s at the latest.
func TokenFunc(token func(context.Context) (string, error)) Credentials {
	return Credentials{kind: kindToken, secret: token}
}

// String names the kind of credentials and the user, and no secret.
func (c Credentials) String() string {
	switch c.kind {
	case kindPassword:
		return fmt.Sprintf("password of %q", c.username)
	case kindToken:
		return kindToken
	}
	return "none"
}

// GoString names the kind of credentials and the user, and no secret.
func (c Credentials) GoString() string { return "tickstorm.Credentials(" + c.String() + ")" }

// login gets the secret.
func (c Credentials) login(ctx context.Context) (login, error) {
	ctx, cancel := context.WithTimeout(ctx, authTimeout)
	defer cancel()
	secret, err := c.secret(ctx)
	if err != nil {
		return login{}, err
	}
	who := login{username: c.username}
	if c.kind == kindToken {
		who.token = secret
	} else {
		who.password = secret
	}
	return who, checkText("the "+c.kind, secret, 1)
}

func fromFile(path string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) {
		content, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		if len(content) > secretFileMax {
			return "", fmt.Errorf("%s has %d bytes, but at most %d are allowed",
				path, len(content), secretFileMax)
		}
		content = bytes.TrimSuffix(content, []byte("\n"))
		content = bytes.TrimSuffix(content, []byte("\r"))
		if len(content) == 0 {
			return "", fmt.Errorf("%s is empty", path)
		}
		return string(content), nil
	}
}

// textMax bounds each text in AUTH, so that all of them together fit into a frame.
const textMax = 1_000

// checkText checks a text that AUTH will contain. The error does not show the text.
func checkText(what, text string, atLeast int) error {
	switch {
	case len(text) < atLeast:
		return fmt.Errorf("%s is empty", what)
	case len(text) > textMax:
		return fmt.Errorf("%s has %d bytes, but at most %d are allowed", what, len(text), textMax)
	case !utf8.ValidString(text):
		return fmt.Errorf("%s is not valid UTF-8", what)
	}
	return nil
}

// check returns what is wrong with the options, and what is allowed.
func (o *Options) check() error {
	if len(o.Addresses) == 0 {
		return errors.New("tickstorm: Options.Addresses is empty; name at least one edge as host:port")
	}
	for _, address := range o.Addresses {
		if err := checkAddress(address); err != nil {
			return err
		}
	}
	if o.Credentials.secret == nil {
		return errors.New("tickstorm: Options.Credentials is not set; use Password, PasswordFile, " +
			"PasswordFunc, Token, TokenFile or TokenFunc")
	}
	if o.Credentials.kind == kindPassword {
		if err := checkText("the username", o.Credentials.username, 1); err != nil {
			return fmt.Errorf("tickstorm: Options.Credentials: %w", err)
		}
	}
	if !o.Mode.isKnown() {
		return fmt.Errorf("tickstorm: Options.Mode is %d; it must be ModeSecond or ModeMinute", o.Mode)
	}
	if err := checkText("the id", o.ClientID, 0); err != nil {
		return fmt.Errorf("tickstorm: Options.ClientID: %w", err)
	}
	if o.TLS != nil && o.TLS.MaxVersion != 0 && o.TLS.MaxVersion < tls.VersionTLS13 {
		return errors.New("tickstorm: Options.TLS.MaxVersion excludes TLS 1.3, the only version that " +
			"edges speak; leave it 0")
	}
	return nil
}

func checkAddress(address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil || host == "" {
		return fmt.Errorf("tickstorm: the address %q is not valid; it must be host:port, such as "+
			"edge-0.example.com:8080, 192.0.2.1:8080 or [2001:db8::1]:8080", address)
	}
	if number, err := strconv.ParseUint(port, 10, 16); err != nil || number == 0 {
		return fmt.Errorf("tickstorm: the port of the address %q is not valid; "+
			"it must be from 1 to 65535", address)
	}
	return nil
}

func (o *Options) settings() settings {
	return settings{
		addresses:   append([]string(nil), o.Addresses...),
		mode:        o.Mode,
		ahead:       o.Ahead,
		exact:       o.ExactTime,
		resumeAfter: o.ResumeAfter,
		clientID:    o.ClientID,
		reconnects:  !o.NoReconnect,
		moves:       !o.NoMove,
	}
}

// newRandom returns a source of random numbers of its own, since the default source of Go 1.19 is
// the same in every process.
func newRandom() func() uint32 {
	var seed [8]byte
	if _, err := crand.Read(seed[:]); err != nil {
		// Systems that Go supports have random numbers.
		panic("crypto/rand: " + err.Error())
	}
	return rand.New(rand.NewSource(int64(binary.LittleEndian.Uint64(seed[:])))).Uint32
}
