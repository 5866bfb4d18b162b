// Licensed under the Apache License, Version 2.0; see LICENSE.

package mesh

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// RefusedUpdates counts the filter configurations that the sidecar's Envoy got
// and refused since it started, by its statistic config_fail of extension
// configuration discovery.
func (r *Running) RefusedUpdates(ctx context.Context) (int, error) {
	return r.counters(ctx, "extension_config_discovery.*config_fail")
}

// RefusedListeners counts the updates of listeners that the sidecar's Envoy got
// and refused since it started.
func (r *Running) RefusedListeners(ctx context.Context) (int, error) {
	return r.counters(ctx, "listener_manager.lds.update_rejected")
}

// counters is the sum of the Envoy's counters whose names a regular expression matches.
func (r *Running) counters(ctx context.Context, names string) (int, error) {
	url := r.AdminURL + "/stats?filter=" + names
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return 0, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	sum := 0
	lines := bufio.NewScanner(response.Body)
	for lines.Scan() {
		_, value, _ := strings.Cut(lines.Text(), ": ")
		count, err := strconv.Atoi(value)
		if err != nil {
			return 0, fmt.Errorf("reading %s: %w", url, err)
		}
		sum += count
	}
	return sum, lines.Err()
}
