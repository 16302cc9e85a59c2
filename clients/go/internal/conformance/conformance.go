// Package conformance loads the vectors in the repository's directory conformance, for tests.
package conformance

import (
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

// format is the format of the vectors that the tests know.
const format = 1

// Load decodes a file of vectors into value. Outside the repository, where the module alone has no
// vectors, the test is skipped; inside it, a missing file fails it. TICKSTORM_CONFORMANCE names
// another directory.
func Load(t testing.TB, name string, value any) {
	t.Helper()
	_, source, _, _ := runtime.Caller(0)
	repository := filepath.Join(filepath.Dir(source), "..", "..", "..", "..")
	directory := os.Getenv("TICKSTORM_CONFORMANCE")
	if directory == "" {
		directory = filepath.Join(repository, "conformance")
	}
	content, err := os.ReadFile(filepath.Join(directory, name))
	if err != nil {
		_, outside := os.Stat(filepath.Join(repository, "docs", "protocol.md"))
		if outside != nil && os.Getenv("CI") == "" {
			t.Skipf("outside the repository, there are no vectors: %v", err)
		}
		t.Fatalf("cannot read the vectors: %v", err)
	}
	var header struct{ Format int }
	if err := json.Unmarshal(content, &header); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if header.Format != format {
		t.Fatalf("%s has format %d, but these tests know format %d", name, header.Format, format)
	}
	if err := json.Unmarshal(content, value); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}
