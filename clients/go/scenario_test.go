package tickstorm

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// scenarioMax bounds a scenario, which takes up to 40 s, or 70 s if a refused client must wait.
const scenarioMax = 5 * time.Minute

// TestScenarios lets the client follow each scenario of `tickstorm dev`, at its time and ahead.
// TICKSTORM names the program. If it was not built, the test is skipped, but not in CI.
func TestScenarios(t *testing.T) {
	if testing.Short() {
		t.Skip("takes more than a minute")
	}
	program := os.Getenv("TICKSTORM")
	if program == "" {
		program = filepath.Join("..", "..", "target", "debug", "tickstorm")
	}
	if _, err := os.Stat(program); err != nil {
		if os.Getenv("CI") != "" || os.Getenv("TICKSTORM") != "" {
			t.Fatalf("the program for scenarios is missing: %v", err)
		}
		t.Skipf("%v; build it with `cargo build -p tickstorm`, or name it in TICKSTORM", err)
	}
	names := scenarioNames(t, program)
	var running sync.WaitGroup
	results := make([]string, 2*len(names))
	for i := range results {
		s := scenario{program: program, name: names[i/2], ahead: i%2 == 1}
		running.Add(1)
		go func(result *string) {
			defer running.Done()
			*result = s.run()
		}(&results[i])
	}
	running.Wait()
	for i, result := range results {
		if result != "" {
			t.Errorf("%s (ahead: %v): %s", names[i/2], i%2 == 1, result)
		}
	}
}

// scenarioNames asks the program for its scenarios, so that none is forgotten.
func scenarioNames(t *testing.T, program string) []string {
	help, err := exec.Command(program, "dev", "--help").Output()
	if err != nil {
		t.Fatal(err)
	}
	_, list, found := strings.Cut(string(help), "--scenario <NAME>")
	if list, _, _ = strings.Cut(list, "\n      --"); !found {
		t.Fatal("the program has no scenarios")
	}
	var names []string
	for _, match := range regexp.MustCompile(`(?m)^ +- ([a-z-]+):`).FindAllStringSubmatch(list, -1) {
		if match[1] != "all" {
			names = append(names, match[1])
		}
	}
	if len(names) < 12 {
		t.Fatalf("only %d scenarios: %v", len(names), names)
	}
	return names
}

type scenario struct {
	program, name string
	ahead         bool
}

// run plays a scenario, and returns what went wrong.
func (s scenario) run() string {
	ctx, cancel := context.WithTimeout(context.Background(), scenarioMax)
	defer cancel()
	command := exec.CommandContext(ctx, s.program, "dev", "--scenario", s.name, "--json")
	command.Env = append(os.Environ(), "LISTEN_ADDR=127.0.0.1:0", "STREAM_USER=stream_user",
		"STREAM_PASS=stream_pass")
	output, err := command.StdoutPipe()
	if err != nil {
		return err.Error()
	}
	if err := command.Start(); err != nil {
		return err.Error()
	}
	var lines []string
	started := false
	followed := make(chan string, 1)
	following, stop := context.WithCancel(ctx)
	defer stop()
	for scanner := bufio.NewScanner(output); scanner.Scan(); {
		lines = append(lines, scanner.Text())
		var event struct{ Event, Addr string }
		if json.Unmarshal(scanner.Bytes(), &event) == nil && event.Event == "listening" {
			started = true
			go func() { followed <- s.follow(following, event.Addr) }()
		}
	}
	err = command.Wait()
	stop()
	result := "it printed no address"
	if started {
		result = <-followed
	}
	if err != nil {
		result = fmt.Sprintf("%s: %v\n%s", result, err, strings.Join(lines, "\n"))
	}
	return result
}

// follow follows the ticks of a scenario until its end, and returns what went wrong.
func (s scenario) follow(ctx context.Context, address string) string {
	c, err := Connect(ctx, Options{
		Addresses:   []string{address},
		Credentials: Password("stream_user", "stream_pass"),
		Ahead:       s.ahead,
	})
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	last, count, early := int64(0), 0, ""
	for {
		event, err := c.NextEvent(ctx)
		if err != nil {
			if count == 0 {
				return "no tick came"
			}
			return early
		}
		switch event := event.(type) {
		case Tick:
			if last != 0 && event.EpochMs != last+1000 {
				return fmt.Sprintf("%v follows %d", event, last)
			}
			// After a step, a REPLAY tick shows that the time of the tick before it has passed, though
			// the client has not learned of the step yet.
			if early != "" && event.Quality != QualityReplay {
				return early
			}
			early = ""
			late, known := event.Late()
			if s.ahead && known && event.Quality != QualityReplay && late < -event.Received.Error {
				early = fmt.Sprintf("%v was released %v before its time", event, -late)
			}
			last = event.EpochMs
			count++
		case Gap:
			return fmt.Sprintf("%+v", event)
		case Reconnecting:
			if !event.Resumes {
				last = 0
			}
		}
	}
}
