package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/cli-runtime/pkg/genericiooptions"
)

func TestRecordRefusesACommandLineThatIsWrong(t *testing.T) {
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "none"))
	for name, c := range map[string]struct {
		args string
		code int
		want string
	}{
		"no file":         {"deploy/app", exitUsage, "there is no file to write to: set -o FILE"},
		"no time":         {"deploy/app -o f --for 0s", exitUsage, "--for is 0s: set a duration such as 30s"},
		"no requests":     {"deploy/app -o f --max 0", exitUsage, "--max is 0: set a number from 1 to 10000"},
		"too many":        {"deploy/app -o f --max 10001", exitUsage, "--max is 10001: set a number from 1 to 10000"},
		"an unknown flag": {"deploy/app --wrong", exitUsage, "unknown flag: --wrong: see wasme record --help"},
		"no kubeconfig":   {"deploy/app -o f", exitFailed, "no cluster is configured"},
	} {
		t.Run(name, func(t *testing.T) {
			streams, _, _, stderr := genericiooptions.NewTestIOStreams()
			if code := Run(t.Context(), append([]string{"record"}, strings.Fields(c.args)...), streams); code != c.code || !strings.Contains(stderr.String(), c.want) {
				t.Errorf("%d, %s", code, stderr)
			}
		})
	}
}

func TestAFileIsThereAsAWholeOrNotAtAll(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, "recorded.har")
	for _, content := range []string{"first", "second"} {
		file, err := newAtomicFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := file.WriteString(content); err != nil {
			t.Fatal(err)
		}
		if err := file.commit(); err != nil {
			t.Fatal(err)
		}
		file.discard()
		if got, err := os.ReadFile(path); string(got) != content || err != nil {
			t.Errorf("%q, %v", got, err)
		}
	}
	file, err := newAtomicFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteString("half"); err != nil {
		t.Fatal(err)
	}
	file.discard()
	if got, err := os.ReadFile(path); string(got) != "second" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if entries, err := os.ReadDir(folder); len(entries) != 1 || err != nil {
		t.Errorf("%v, %v", entries, err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

func TestAFileThatCannotBeWrittenIsKnownAtOnce(t *testing.T) {
	if _, err := newAtomicFile(filepath.Join(t.TempDir(), "missing", "f")); err == nil || !strings.HasPrefix(err.Error(), "writing ") {
		t.Error(err)
	}
}
