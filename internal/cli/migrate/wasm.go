package migrate

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

// What marks a Wasm filter in Envoy's API.
const (
	wasmType = "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm"
	// wasmName is the name that such filters have where nothing else says what they are.
	wasmName = "envoy.filters.http.wasm"
	// structType ends both names of the message that wraps another one as a Struct.
	structType = ".TypedStruct"
	// v8 is the runtime of FilterDeployments.
	v8 = "envoy.wasm.runtime.v8"
	// istioVariable begins the names of variables that Istio's agent reads and removes.
	istioVariable = "ISTIO_META_"
)

// isWasm reports whether an HTTP filter or an extension configuration is a Wasm filter.
func isWasm(value map[string]any) bool {
	raw, err := json.Marshal(value)
	return err == nil && (value["name"] == wasmName || strings.Contains(string(raw), wasmType))
}

// wasmFilter returns the message Wasm of an HTTP filter or an extension configuration, with
// typed_config in its own form or wrapped, or with the config of Istio up to 1.6.
func wasmFilter(value *fields) *fields {
	typed := value.object("typed_config")
	if len(typed.values) == 0 {
		return value.object("config")
	}
	if kind := typed.text("@type"); !strings.HasSuffix(kind, structType) {
		return typed
	}
	typed.ignore("type_url")
	inner := typed.object("value")
	typed.end()
	return inner
}

// readWasm reads the message Wasm (envoy/extensions/filters/http/wasm/v3/wasm.proto).
func readWasm(wasm *fields) filter {
	f := readPlugin(wasm.object("config"))
	wasm.end()
	return f
}

// readPlugin reads a PluginConfig (envoy/extensions/wasm/v3/wasm.proto).
func readPlugin(config *fields) filter {
	f := filter{plugin: config.text("name")}
	f.spec.RootID = config.text("root_id")
	f.spec.FailStrategy = failStrategy(config)
	f.spec.Config = configuration(config)
	if reload := config.object("reload_config"); len(reload.values) > 0 {
		f.notes = append(f.notes, "the operator sets how long proxies wait after a crash (reload_config)")
	}
	f.readVM(config.object("vm_config"))
	config.end()
	return f
}

// failStrategy reads what a proxy does while the filter cannot run; Envoy's default is to
// deny requests.
func failStrategy(config *fields) wasmev1.FailStrategy {
	open := config.isTrue("fail_open")
	switch policy := config.text("failure_policy"); policy {
	case "FAIL_RELOAD":
		return wasmev1.FailReload
	case "FAIL_OPEN":
		return wasmev1.FailOpen
	case "FAIL_CLOSED":
		return wasmev1.FailClosed
	case "", "UNSPECIFIED":
	default:
		config.of.refuse(config.field("failure_policy"), "%q is not known: use FAIL_RELOAD, FAIL_CLOSED or FAIL_OPEN", policy)
	}
	if open {
		return wasmev1.FailOpen
	}
	return wasmev1.FailClosed
}

// configuration reads an Any, or the string of Istio up to 1.6. A StringValue becomes a
// plain string, which the module reads in the same way.
func configuration(config *fields) *wasmev1.Configuration {
	value, found := config.take("configuration")
	if !found {
		return nil
	}
	if wrapped, is := value.(map[string]any); is && wrapped["@type"] == wasmev1.StringValueType {
		if text, is := wrapped["value"].(string); is {
			value = text
		}
	}
	return jsonOf(value)
}

// jsonOf returns a configuration; nil for an empty string, which a module cannot tell from none.
func jsonOf(value any) *wasmev1.Configuration {
	raw, err := json.Marshal(value)
	if err != nil || value == "" {
		return nil
	}
	return &wasmev1.Configuration{Raw: raw}
}

// readVM reads a VmConfig. The name of the VM and what its code cache does are the operator's.
func (f *filter) readVM(vm *fields) {
	vm.ignore("vm_id", "allow_precompiled", "nack_on_code_cache_miss")
	if runtime := vm.text("runtime"); runtime != "" && runtime != v8 {
		vm.of.refuse(vm.field("runtime"), "%q is not the runtime of FilterDeployments, which is %s: have the filter run there first", runtime, v8)
	}
	f.readCode(vm.object("code"))
	f.readEnvironment(vm.object("environment_variables"))
	vm.end()
}

// readCode reads an AsyncDataSource.
func (f *filter) readCode(code *fields) {
	local, remote := code.object("local"), code.object("remote")
	code.end()
	if len(local.values) == 0 {
		uri := remote.object("http_uri")
		f.from(uri.text("uri"), remote.text("sha256"))
		return
	}
	if file := local.text("filename"); file != "" {
		f.file(file)
		return
	}
	f.unknown = "the module is inside the object: put it into an image (wasme build precompiled, wasme push), and " + needsImage
}

// readEnvironment reads the variables of the VM, in the order of their names.
func (f *filter) readEnvironment(variables *fields) {
	values := variables.object("key_values")
	for _, name := range slices.Sorted(maps.Keys(values.values)) {
		f.addVariable(variables.of, values.path, wasmev1.EnvVar{Name: name, Value: new(values.text(name))})
	}
	keys, _ := variables.take("host_env_keys")
	list, _ := keys.([]any)
	for _, key := range list {
		name, _ := key.(string)
		f.addVariable(variables.of, variables.field("host_env_keys"), fromHost(name))
	}
	variables.end()
}

func fromHost(name string) wasmev1.EnvVar {
	return wasmev1.EnvVar{Name: name, ValueFrom: &wasmev1.EnvVarSource{Host: &wasmev1.HostVariable{}}}
}

func (f *filter) addVariable(of *document, path string, variable wasmev1.EnvVar) {
	if strings.HasPrefix(variable.Name, istioVariable) {
		of.refuse(path, "%s is for Istio's agent, and no module sees it: remove it", variable.Name)
		return
	}
	if f.spec.VM == nil {
		f.spec.VM = &wasmev1.VMSpec{}
	}
	f.spec.VM.Env = append(f.spec.VM.Env, variable)
}
