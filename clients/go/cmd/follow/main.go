// Command follow prints one line of JSON for each tick, and changes the mode when it reads the line
// "mode second" or "mode minute". It ends at the end of its input.
//
//	follow --addr edge-0:8080,edge-1:8080 --user stream_user --password-file password
//
// Everything else that happens is written to standard error. The password file is read again before
// each connection is made.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	tickstorm "tickstorm.dev/client"
)

// line is what is printed for a tick.
type line struct {
	EpochMs int64  `json:"epoch_ms"`
	Mode    string `json:"mode"`
	Quality string `json:"quality"`
	// LateUs is how late the tick was, in microseconds, if that is known.
	LateUs *int64 `json:"late_us,omitempty"`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "follow:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, in io.Reader, out, log io.Writer) error {
	options, err := parse(args, log)
	if err != nil {
		return err
	}
	options.OnEvent = func(e tickstorm.Event) { fmt.Fprintf(log, "%T%+v\n", e, e) }
	client, err := tickstorm.Connect(ctx, options)
	if err != nil {
		return err
	}
	defer client.Close()
	fmt.Fprintf(log, "connected to %q at %s\n", client.EdgeID(), client.Address())
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go obey(client, in, log, cancel)
	encoder := json.NewEncoder(out)
	for client.Next(ctx) {
		tick := client.Tick()
		printed := line{
			EpochMs: tick.EpochMs,
			Mode:    strings.ToLower(tick.Mode.String()),
			Quality: tick.Quality.String(),
		}
		if late, ok := tick.Late(); ok {
			us := late.Microseconds()
			printed.LateUs = &us
		}
		if err := encoder.Encode(printed); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	return client.Err()
}

func parse(args []string, log io.Writer) (tickstorm.Options, error) {
	flags := flag.NewFlagSet("follow", flag.ContinueOnError)
	flags.SetOutput(log)
	addr := flags.String("addr", "127.0.0.1:8080", "the edges' `addresses`, separated by commas")
	user := flags.String("user", "stream_user", "the `name` to authenticate with")
	passwordFile := flags.String("password-file", "", "the `file` with the password, or the token "+
		"if --user is empty")
	mode := flags.String("mode", "second", "second or minute")
	ahead := flags.Bool("ahead", false, "receive ticks ahead of their time, and release them at it")
	useTLS := flags.Bool("tls", false, "connect over TLS")
	caFile := flags.String("ca-file", "", "trust the authorities in this PEM `file`")
	certFile := flags.String("cert-file", "", "present the certificate in this PEM `file`")
	keyFile := flags.String("key-file", "", "the `file` with its private key")
	if err := flags.Parse(args); err != nil {
		return tickstorm.Options{}, err
	}
	if flags.NArg() > 0 {
		return tickstorm.Options{}, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if *passwordFile == "" {
		return tickstorm.Options{}, errors.New("--password-file is required")
	}
	options := tickstorm.Options{
		Addresses:   addresses(*addr),
		Credentials: tickstorm.PasswordFile(*user, *passwordFile),
		Ahead:       *ahead,
		ClientID:    "follow",
	}
	if *user == "" {
		options.Credentials = tickstorm.TokenFile(*passwordFile)
	}
	var err error
	if options.Mode, err = tickstorm.ParseMode(*mode); err != nil {
		return options, err
	}
	if *useTLS || *caFile != "" || *certFile != "" {
		options.TLS, err = tickstorm.LoadTLS(*caFile, *certFile, *keyFile)
	}
	return options, err
}

// addresses splits a list at its commas. Spaces around an address are no part of it.
func addresses(list string) []string {
	found := strings.Split(list, ",")
	for i, address := range found {
		found[i] = strings.TrimSpace(address)
	}
	return found
}

// obey changes the mode as the lines of its input say, and ends the program at their end.
func obey(client *tickstorm.Client, in io.Reader, log io.Writer, end func()) {
	defer end()
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) != 2 || words[0] != "mode" {
			fmt.Fprintf(log, "unknown command %q; use \"mode second\" or \"mode minute\"\n", lines.Text())
			continue
		}
		mode, err := tickstorm.ParseMode(words[1])
		if err == nil {
			err = client.Subscribe(mode)
		}
		if err != nil {
			fmt.Fprintln(log, err)
		}
	}
}
