package envoy

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
)

// admin is Envoy's administration interface.
type admin struct {
	file    string // where Envoy writes the address (--admin-address-path)
	address string // host:port; empty until it is known
}

// ready reports whether Envoy serves: its listeners are there, and the filter was delivered.
func (a *admin) ready(ctx context.Context) bool {
	if a.address == "" && !a.find() {
		return false
	}
	_, err := a.get(ctx, "/ready")
	return err == nil
}

// find reads the address, which Envoy writes when it has one.
func (a *admin) find() bool {
	content, err := os.ReadFile(a.file)
	if err != nil {
		return false
	}
	a.address = dialable(strings.TrimSpace(string(content)))
	return a.address != ""
}

// dialable returns an address that can be connected to, for one that Envoy listens on: one of
// this machine where that is any. It is empty for what is not host:port.
func dialable(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return ""
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

// deliveries are what became of the filter's resource.
type deliveries struct {
	version   string // of the last one that Envoy took
	reloads   int    // that all workers have, or that were refused
	rejected  int
	malformed int
}

// deliveries returns the counters of ECDS. They begin with the statistics' prefix of a
// connection manager, in some versions of Envoy.
func (a *admin) deliveries(ctx context.Context) (deliveries, error) {
	const scope = "extension_config_discovery.http_filter." + filterName + "."
	content, err := a.get(ctx, "/stats?format=json&filter="+url.QueryEscape(`extension_config_discovery\..*`+filterName+`\.`))
	if err != nil {
		return deliveries{}, err
	}
	var all struct {
		Stats []struct {
			Name  string
			Value json.RawMessage
		}
	}
	if err := json.Unmarshal(content, &all); err != nil {
		return deliveries{}, fmt.Errorf("reading Envoy's statistics: %w", err)
	}
	var seen deliveries
	fields := map[string]any{
		"version_text": &seen.version, "config_reload": &seen.reloads, "update_rejected": &seen.rejected, "update_failure": &seen.malformed,
	}
	for _, stat := range all.Stats {
		_, name, _ := strings.Cut(stat.Name, scope)
		if field, known := fields[name]; known {
			if err := json.Unmarshal(stat.Value, field); err != nil {
				return deliveries{}, fmt.Errorf("reading Envoy's statistic %s: %w", stat.Name, err)
			}
		}
	}
	return seen, nil
}

// listener returns the address of a listener that can be connected to.
func (a *admin) listener(ctx context.Context, name string) (string, error) {
	content, err := a.get(ctx, "/listeners?format=json")
	if err != nil {
		return "", err
	}
	var all struct {
		Listeners []struct {
			Name    string
			Address struct {
				Socket struct {
					Address string
					Port    int `json:"port_value"`
				} `json:"socket_address"`
			} `json:"local_address"`
		} `json:"listener_statuses"`
	}
	if err := json.Unmarshal(content, &all); err != nil {
		return "", fmt.Errorf("reading Envoy's listeners: %w", err)
	}
	for _, l := range all.Listeners {
		if l.Name == name && l.Address.Socket.Port != 0 {
			return dialable(net.JoinHostPort(l.Address.Socket.Address, strconv.Itoa(l.Address.Socket.Port))), nil
		}
	}
	return "", fmt.Errorf("the listener %s has no TCP port: give it a socket_address", name)
}

func (a *admin) get(ctx context.Context, path string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+a.address+path, http.NoBody)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, fmt.Errorf("asking Envoy: %w", err)
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("asking Envoy for %s: %s", path, response.Status)
	}
	return content, err
}
