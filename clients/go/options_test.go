package tickstorm

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestOptionsThatCannotWorkAreRefusedAndSayWhatIsAllowed(t *testing.T) {
	for _, c := range []struct {
		spoil func(*Options)
		want  []string
	}{
		{func(o *Options) { o.Addresses = nil }, []string{"Addresses is empty", "host:port"}},
		{func(o *Options) { o.Addresses = []string{"edge"} }, []string{`"edge"`, "host:port"}},
		{func(o *Options) { o.Addresses = []string{":8080"} }, []string{`":8080"`, "host:port"}},
		{func(o *Options) { o.Addresses = []string{"edge:http"} }, []string{`"edge:http"`, "1 to 65535"}},
		{func(o *Options) { o.Addresses = []string{"edge:0"} }, []string{`"edge:0"`, "1 to 65535"}},
		{func(o *Options) { o.Addresses = []string{"edge:65536"} }, []string{"1 to 65535"}},
		{func(o *Options) { o.Addresses = []string{"::1:8080:1"} }, []string{"[2001:db8::1]:8080"}},
		{func(o *Options) { o.Credentials = Credentials{} }, []string{"Credentials", "PasswordFile"}},
		{func(o *Options) { o.Credentials = Password("", "x") }, []string{"username is empty"}},
		{func(o *Options) { o.Credentials = Password("\xff", "x") }, []string{"UTF-8"}},
		{func(o *Options) { o.Mode = 2 }, []string{"Mode is", "ModeSecond or ModeMinute"}},
		{func(o *Options) { o.ClientID = strings.Repeat("x", 1001) }, []string{"1001", "at most 1000"}},
		{func(o *Options) { o.TLS = &tls.Config{MaxVersion: tls.VersionTLS12} }, []string{"TLS 1.3"}},
	} {
		o := Options{Addresses: []string{"127.0.0.1:1"}, Credentials: Token("t")}
		c.spoil(&o)
		_, err := Connect(context.Background(), o)
		for _, want := range c.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v, but expected something with %q", err, want)
			}
		}
	}
	if _, err := ParseMode("hour"); err == nil || !strings.Contains(err.Error(), "second or minute") {
		t.Error(err)
	}
}

func TestNothingThatIsPrintedShowsASecret(t *testing.T) {
	const secret = "open sesame"
	for _, credentials := range []Credentials{Password("ada", secret), Token(secret)} {
		o := Options{Addresses: []string{"edge:8080"}, Credentials: credentials}
		nested := struct {
			options Options
			pointer *Options
		}{o, &o}
		c := &Client{options: o}
		d := newDriver(&o)
		for _, value := range []any{o, &o, credentials, &credentials, nested, &nested, c, d,
			d.dialer, d.options, d.subscription} {
			for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
				if shown := fmt.Sprintf(format, value); strings.Contains(shown, "sesame") {
					t.Errorf("%T printed by %s shows the secret", value, format)
				}
			}
		}
		shown, err := json.Marshal(credentials)
		if err == nil && strings.Contains(string(shown), "sesame") {
			t.Error("JSON shows the secret")
		}
	}
	if shown := fmt.Sprint(Password("ada", secret)); !strings.Contains(shown, "ada") {
		t.Errorf("%q does not name the user", shown)
	}
}

func TestASecretThatCannotBeSentIsAnErrorThatDoesNotShowIt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "password")
	for _, c := range []struct{ content, want string }{
		{"", "is empty"},
		{"\n", "is empty"},
		{strings.Repeat("sesame", 200), "at most 1000"},
		{strings.Repeat("sesame", 1000), "at most 4096"},
		{"sesame\xff", "UTF-8"},
	} {
		if err := os.WriteFile(path, []byte(c.content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := PasswordFile("ada", path).login(context.Background())
		shown := fmt.Sprint(err)
		if !strings.Contains(shown, c.want) || strings.Contains(shown, "sesame") {
			t.Errorf("%v, but expected something with %q", err, c.want)
		}
	}
}

func TestErrorsOfAnEdgeCannotControlATerminal(t *testing.T) {
	err := &ServerError{Code: "\x1b[2J", Message: "\x1b[31mred\n", ConnectionID: "4821-k7m2q9xd"}
	shown := err.Error()
	if strings.ContainsAny(shown, "\x1b\n") || !strings.Contains(shown, "4821-k7m2q9xd") {
		t.Errorf("%q", shown)
	}
	known := (&ServerError{Code: CodeAuthFailed, Message: "no"}).Error()
	if known != `the edge ended the connection: AUTH_FAILED: "no"` {
		t.Errorf("%q", known)
	}
}

func TestTimesAndNames(t *testing.T) {
	tick := Tick{Mode: ModeMinute, EpochMs: 1_800_000_060_000, Quality: QualityReplay}
	if shown := tick.String(); shown != "MINUTE 2027-01-15T08:01:00Z REPLAY" {
		t.Error(shown)
	}
	if _, known := tick.Late(); known {
		t.Error("the lateness is known")
	}
	for _, c := range []struct{ after, next int64 }{
		{0, 60_000}, {59_999, 60_000}, {60_000, 120_000}, {-1, 0}, {-60_000, 0}, {-60_001, -60_000},
		{1<<63 - 1, 1<<63 - 1},
	} {
		if got := ModeMinute.nextAfter(c.after); got != c.next {
			t.Errorf("the first minute after %d is %d", c.after, got)
		}
	}
	var unwrapped error = &ConnectError{Err: os.ErrDeadlineExceeded}
	if !errors.Is(unwrapped, os.ErrDeadlineExceeded) {
		t.Error("the cause is lost")
	}
}
