package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/wasme-io/wasme-operator/internal/module"
)

const (
	// checkInterval is the time between two attempts of Check, and askTimeout that of one.
	checkInterval = 500 * time.Millisecond
	askTimeout    = 5 * time.Second
)

// noModule is the answer to a path that is not that of a module. Check knows the server by it.
var noModule = "modules are at " + module.Path("<64 lower case hexadecimal digits>")

// Check asks for the module server at a URL until it answers, as sidecars would reach it.
// When ctx ends first, it returns why the last attempt failed. It asks for no module, so
// that no request counts as failed.
func Check(ctx context.Context, url string) error {
	last := errors.New("there was no time to ask")
	err := wait.PollUntilContextCancel(ctx, checkInterval, true, func(ctx context.Context) (bool, error) {
		last = ask(ctx, url)
		return last == nil, nil
	})
	if err != nil {
		return fmt.Errorf("the module server does not answer at %s: %w", url, last)
	}
	return nil
}

func ask(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, int64(len(noModule)+1)))
	if err != nil {
		return err
	}
	if strings.TrimSpace(string(text)) != noModule {
		return fmt.Errorf("something else answers there, with status %d", response.StatusCode)
	}
	return nil
}
