package rooms

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// maxLines is where a file has become two files.
const maxLines = 500

var (
	// Spelled apart so that this file does not find itself.
	later = regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|X` + `XX)\b`)
	sleep = regexp.MustCompile(`\btime\.Sl` + `eep\(`)
	skip  = regexp.MustCompile(`\b[tb]\.Sk` + `ip(f|Now)?\(`)
)

func goFiles(t *testing.T) []string {
	t.Helper()
	cmd := exec.Command("git", "ls-files", "--cached", "--others", "--exclude-standard", "*.go")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("git ls-files: %v", err)
	}
	return strings.Fields(string(out))
}

func TestFiles(t *testing.T) {
	for _, name := range goFiles(t) {
		f, err := os.Open(filepath.Join(root, name))
		if os.IsNotExist(err) {
			continue // removed, and not committed yet
		}
		if err != nil {
			t.Fatal(err)
		}
		isTest := strings.HasSuffix(name, "_test.go")
		lines := 0
		sc := bufio.NewScanner(f)
		sc.Buffer(nil, 1<<20)
		for sc.Scan() {
			lines++
			text := sc.Text()
			if later.MatchString(text) {
				t.Errorf("%s:%d: unfinished work belongs in an issue: %s", name, lines, strings.TrimSpace(text))
			}
			if isTest && sleep.MatchString(text) {
				t.Errorf("%s:%d: a test waits for a condition, never for a time", name, lines)
			}
			if isTest && skip.MatchString(text) {
				t.Errorf("%s:%d: a missing tool is a failure, not a reason to skip", name, lines)
			}
		}
		if err := sc.Err(); err != nil {
			t.Errorf("read %s: %v", name, err)
		}
		_ = f.Close()
		if lines > maxLines {
			t.Errorf("%s has %d lines: make it two files", name, lines)
		}
	}
}
