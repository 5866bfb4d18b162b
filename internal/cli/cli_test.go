package cli_test

import (
	"encoding/json"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/wasme-io/wasme-operator/internal/cli"
	"github.com/wasme-io/wasme-operator/test/moduletest"
)

func TestAsAPluginItIsKubectlWasme(t *testing.T) {
	arguments := os.Args
	t.Cleanup(func() { os.Args = arguments })
	for program, says := range map[string]string{"/usr/bin/wasme": "  wasme [command]", "/usr/bin/kubectl-wasme": "  kubectl wasme [command]"} {
		os.Args = []string{program}
		if help := done(t, "--help"); !strings.Contains(help, says) {
			t.Errorf("%s: %s", program, help)
		}
	}
}

func TestEveryCommandHasAnExample(t *testing.T) {
	for _, command := range commands(t) {
		if command.Runnable() && !command.HasSubCommands() && !command.HasExample() && !generated[command.Name()] {
			t.Errorf("%s has no example", command.CommandPath())
		}
	}
}

func TestItKnowsItsVersion(t *testing.T) {
	var shown struct{ Version, GoVersion, Platform string }
	moduletest.Must(t, json.Unmarshal([]byte(done(t, "version", "-o", "json")), &shown))
	if shown.Version == "" || shown.GoVersion != runtime.Version() || shown.Platform != runtime.GOOS+"/"+runtime.GOARCH {
		t.Errorf("%+v", shown)
	}
}

func TestImagesOfTheStoreAreCompleted(t *testing.T) {
	atHome(t)
	done(t, "build", "precompiled", write(t, "filter.wasm", quiet), "-t", "registry.example.com/filters/hello:v1")
	for _, command := range []string{"push", "tag", "save", "inspect", "test", "bench"} {
		if offered := done(t, "__complete", command, "registry.example"); !strings.HasPrefix(offered, "registry.example.com/filters/hello:v1\n") {
			t.Errorf("%s: %s", command, offered)
		}
	}
}

// generated are the commands that cobra adds.
var generated = map[string]bool{"help": true, "bash": true, "fish": true, "powershell": true, "zsh": true}

// commands returns all commands.
func commands(t *testing.T) []*cobra.Command {
	t.Helper()
	var all []*cobra.Command
	var add func(c *cobra.Command)
	add = func(c *cobra.Command) {
		all = append(all, c)
		for _, sub := range c.Commands() {
			add(sub)
		}
	}
	add(cli.New(genericiooptions.NewTestIOStreamsDiscard()))
	return all
}
