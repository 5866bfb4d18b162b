package envoy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// Patch returns a bootstrap file of Envoy, in YAML or JSON, with a filter before the router of
// each HTTP connection manager of its static listeners. The result is YAML without the
// comments. The error says what the bootstrap lacks.
func Patch(bootstrap []byte, filter Filter) ([]byte, error) {
	root, err := parse(bootstrap)
	if err != nil {
		return nil, err
	}
	if _, err := insert(root, filter, nil); err != nil {
		return nil, err
	}
	return marshal(root)
}

// parse reads a bootstrap. Numbers stay as they are written: a float64 rounds large ones.
func parse(bootstrap []byte) (object, error) {
	content, err := yaml.YAMLToJSON(bootstrap)
	if err != nil {
		return nil, fmt.Errorf("reading the bootstrap: %w: write YAML or JSON", err)
	}
	decoder := json.NewDecoder(bytes.NewReader(content))
	decoder.UseNumber()
	var root object
	if err := decoder.Decode(&root); err != nil || root == nil {
		return nil, errors.New("reading the bootstrap: it is not an object: write one with static_resources")
	}
	return root, nil
}

// insert puts the filter before the router of each connection manager, and adds an access log
// to it unless that is nil. It returns the name of the first listener that it changed, which
// gets one if it has none.
func insert(bootstrap object, filter Filter, accessLog object) (listener string, err error) {
	for _, l := range objects(member(bootstrap, "static_resources"), "listeners") {
		managers := connectionManagers(l)
		for _, manager := range managers {
			if err := insertInto(manager, filter, accessLog); err != nil {
				return "", fmt.Errorf("the listener %s of the bootstrap: %w", describe(l), err)
			}
		}
		if listener == "" && len(managers) > 0 {
			listener = named(l)
		}
	}
	if listener == "" {
		return "", errors.New("the bootstrap has no HTTP connection manager in a static listener: add one to static_resources.listeners")
	}
	return listener, nil
}

func insertInto(manager object, filter Filter, accessLog object) error {
	key := spelling(manager, "http_filters")
	filters, _ := manager[key].(list)
	router := slices.IndexFunc(filters, isRouter)
	if router < 0 {
		return errors.New("its HTTP connection manager has no router: add envoy.filters.http.router as the last of its http_filters")
	}
	manager[key] = slices.Insert(slices.Clone(filters), router, any(filter.entry))
	if accessLog != nil {
		key := spelling(manager, "access_log")
		logs, _ := manager[key].(list)
		manager[key] = append(slices.Clone(logs), any(accessLog))
	}
	return nil
}

func isRouter(filter any) bool {
	entry, _ := filter.(object)
	return hasType(entry, routerType)
}

func connectionManagers(listener object) []object {
	chains := objects(listener, "filter_chains")
	if fallback := member(listener, "default_filter_chain"); fallback != nil {
		chains = append(chains, fallback)
	}
	var managers []object
	for _, chain := range chains {
		for _, filter := range objects(chain, "filters") {
			if hasType(filter, connectionManagerType) {
				managers = append(managers, member(filter, "typed_config"))
			}
		}
	}
	return managers
}

func hasType(extension object, name string) bool {
	return member(extension, "typed_config")["@type"] == typePrefix+name
}

// named returns the name of a listener, which gets one if it has none.
func named(listener object) string {
	if name, _ := listener["name"].(string); name != "" {
		return name
	}
	listener["name"] = listenerName
	return listenerName
}

func describe(listener object) string {
	if name, _ := listener["name"].(string); name != "" {
		return name
	}
	return "without a name"
}

// member returns an object within another; nil when there is none.
func member(of object, name string) object {
	inner, _ := of[spelling(of, name)].(object)
	return inner
}

// objects returns those in a list within an object.
func objects(of object, name string) []object {
	entries, _ := of[spelling(of, name)].(list)
	var found []object
	for _, entry := range entries {
		if inner, isObject := entry.(object); isObject {
			found = append(found, inner)
		}
	}
	return found
}

// spelling returns the key of a field as an object has it: in JSON, protobuf's names may also
// be in lowerCamelCase.
func spelling(of object, name string) string {
	words := strings.Split(name, "_")
	for i, word := range words[1:] {
		words[i+1] = strings.ToUpper(word[:1]) + word[1:]
	}
	if camel := strings.Join(words, ""); of[camel] != nil {
		return camel
	}
	return name
}
