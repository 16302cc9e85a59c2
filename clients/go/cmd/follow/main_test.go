package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	tickstorm "tickstorm.dev/client"
)

func TestArguments(t *testing.T) {
	path := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(path, []byte("sesame\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	options, err := parse([]string{"--addr", " a:1, b:2", "--user", "ada", "--password-file", path,
		"--mode", "minute", "--ahead"}, &strings.Builder{})
	if err != nil || strings.Join(options.Addresses, "|") != "a:1|b:2" ||
		options.Mode != tickstorm.ModeMinute || !options.Ahead ||
		options.Credentials.String() != `password of "ada"` {
		t.Errorf("%+v, %v", options, err)
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, "--password-file is required"},
		{[]string{"--password-file", path, "now"}, `"now"`},
		{[]string{"--password-file", path, "--mode", "hour"}, "second or minute"},
		{[]string{"--password-file", path, "--ca-file", path}, "no certificate"},
		{[]string{"--addr", "edge", "--password-file", path}, "host:port"},
	} {
		var out, log strings.Builder
		err := run(context.Background(), c.args, strings.NewReader(""), &out, &log)
		if err == nil || !strings.Contains(err.Error(), c.want) || out.Len() > 0 {
			t.Errorf("%v: %v, but expected something with %q", c.args, err, c.want)
		}
	}
}
