package main

import (
	"fmt"
	"strings"

	"github.com/wasme-io/wasme-operator/internal/preflight/host"
)

// hostModule is a name under which modules import host functions.
type hostModule struct {
	Name      string
	Functions []host.Function
}

// readHostFunctions returns the functions of the preflight's host, by the name under which
// modules import them.
func readHostFunctions() []hostModule {
	var modules []hostModule
	for _, f := range host.Functions() {
		place := -1
		for i := range modules {
			if modules[i].Name == f.Module {
				place = i
			}
		}
		if place < 0 {
			modules = append(modules, hostModule{Name: f.Module})
			place = len(modules) - 1
		}
		modules[place].Functions = append(modules[place].Functions, f)
	}
	return modules
}

// describeFunction returns the entry of a function in a list.
func describeFunction(f host.Function) string {
	text := fmt.Sprintf("- `%s`", f.Name)
	if len(f.ABIs) > 0 {
		text += fmt.Sprintf(" (%s)", strings.Join(f.ABIs, ", "))
	}
	text += ": " + f.Does
	if f.Differs != "" {
		text += " *Unlike Envoy:* " + f.Differs
	}
	return text
}
