// Licensed under the Apache License, Version 2.0; see LICENSE.

package mesh

import (
	"context"
	"fmt"
	"io"
	"net/http"
)

// answers returns a check that succeeds once a GET of the URL is answered with 200.
func answers(url string) func(context.Context) error {
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, probeTimeout)
		defer cancel()
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return fmt.Errorf("asking %s: %w", url, err)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return fmt.Errorf("asking %s: %w", url, err)
		}
		defer response.Body.Close()
		if _, err := io.Copy(io.Discard, response.Body); err != nil {
			return fmt.Errorf("asking %s: %w", url, err)
		}
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("asking %s: %s", url, response.Status)
		}
		return nil
	}
}
