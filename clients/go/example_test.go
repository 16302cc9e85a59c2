package tickstorm_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"time"

	tickstorm "tickstorm.dev/client"
)

// Print each second as it begins.
func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := tickstorm.Connect(ctx, tickstorm.Options{
		Addresses:   []string{"127.0.0.1:8080"},
		Credentials: tickstorm.Password("stream_user", "stream_pass"),
	})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	for c.Next(ctx) {
		fmt.Println(c.Tick().Time())
	}
	log.Print(c.Err())
}

// Receive minutes by a channel, beside other events of a program.
func ExampleClient_Ticks() {
	ctx := context.Background()
	c, err := tickstorm.Connect(ctx, tickstorm.Options{
		Addresses:   []string{"edge-0:8080", "edge-1:8080"},
		Credentials: tickstorm.TokenFile("/run/secrets/token"),
		Mode:        tickstorm.ModeMinute,
		OnEvent:     func(e tickstorm.Event) { log.Printf("%T %+v", e, e) },
	})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	orders := make(chan string)
	for ticks := c.Ticks(ctx); ; {
		select {
		case tick, ok := <-ticks:
			if !ok {
				log.Fatal(c.Err())
			}
			fmt.Println("close the candle of", tick.Time())
		case order := <-orders:
			fmt.Println(order)
		}
	}
}

// See everything that happens, in order.
func ExampleClient_NextEvent() {
	ctx := context.Background()
	c, err := tickstorm.Connect(ctx, tickstorm.Options{
		Addresses:   []string{"edge:8080"},
		Credentials: tickstorm.Password("stream_user", os.Getenv("STREAM_PASS")),
	})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	for {
		event, err := c.NextEvent(ctx)
		if err != nil {
			log.Fatal(err)
		}
		switch event := event.(type) {
		case tickstorm.Tick:
			fmt.Println(event)
		case tickstorm.Gap:
			fmt.Println("lost: from", event.AfterEpochMs, "to", event.BeforeEpochMs)
		case tickstorm.Reconnecting:
			fmt.Println(event.Err, "- again in", event.After)
		case tickstorm.Reconnected, tickstorm.Moved:
			fmt.Println("now at", c.Address())
		}
	}
}

// Release ticks exactly at their time, over TLS with a client certificate.
func ExampleLoadTLS() {
	config, err := tickstorm.LoadTLS("ca.pem", "client.pem", "client.key")
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	c, err := tickstorm.Connect(ctx, tickstorm.Options{
		Addresses:   []string{"edge.example.com:8080"},
		Credentials: tickstorm.PasswordFile("stream_user", "/run/secrets/password"),
		TLS:         config,
		Ahead:       true,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	for c.Next(ctx) {
		if late, known := c.Tick().Late(); known {
			fmt.Println(c.Tick(), late, "late, give or take", c.Tick().Received.Error)
		}
	}
}

func ExampleTick() {
	tick := tickstorm.Tick{Mode: tickstorm.ModeMinute, EpochMs: 1_800_000_060_000}
	fmt.Println(tick)
	fmt.Println(tick.Time())
	// Output:
	// MINUTE 2027-01-15T08:01:00Z NORMAL
	// 2027-01-15 08:01:00 +0000 UTC
}

func ExampleConnect_badOptions() {
	_, err := tickstorm.Connect(context.Background(), tickstorm.Options{
		Addresses:   []string{"edge-0:http"},
		Credentials: tickstorm.Token("s3cret"),
	})
	fmt.Println(err)
	// Output:
	// tickstorm: the port of the address "edge-0:http" is not valid; it must be from 1 to 65535
}

func ExampleCredentials_String() {
	credentials := tickstorm.Password("stream_user", "stream_pass")
	fmt.Println(credentials)
	fmt.Printf("%+v\n", tickstorm.Options{Credentials: credentials}.Credentials)
	// Output:
	// password of "stream_user"
	// password of "stream_user"
}

// What went wrong is a value of one of the error types.
func ExampleServerError() {
	err := error(&tickstorm.ServerError{Code: tickstorm.CodeAuthFailed, Message: "wrong password"})
	var refusal *tickstorm.ServerError
	if errors.As(err, &refusal) && refusal.Code == tickstorm.CodeAuthFailed {
		fmt.Println(err)
	}
	// Output:
	// the edge ended the connection: AUTH_FAILED: "wrong password"
}
