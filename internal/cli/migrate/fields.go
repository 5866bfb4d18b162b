package migrate

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// document collects what is wrong with an object that is read.
type document struct{ problems []error }

// refuse says that a field of the object cannot be expressed, or cannot be read.
func (d *document) refuse(field, format string, args ...any) {
	d.problems = append(d.problems, fmt.Errorf("%s: "+format, append([]any{field}, args...)...))
}

// fields are those of a message of Envoy's API that nobody has read yet. Their names may be
// those of protobuf (root_id) or of its JSON (rootId).
type fields struct {
	of     *document
	path   string
	values map[string]any
}

// take returns a field by its name in protobuf, and reports whether it is there.
func (f *fields) take(name string) (any, bool) {
	for _, written := range []string{name, camelCase(name)} {
		if value, found := f.values[written]; found && value != nil {
			delete(f.values, written)
			return value, true
		}
	}
	return nil, false
}

// camelCase returns the name of a field in protobuf's JSON.
func camelCase(name string) string {
	parts := strings.Split(name, "_")
	for i, part := range parts[1:] {
		if part != "" {
			parts[i+1] = strings.ToUpper(part[:1]) + part[1:]
		}
	}
	return strings.Join(parts, "")
}

// text returns a string; empty for none.
func (f *fields) text(name string) string {
	value, found := f.take(name)
	text, is := value.(string)
	if found && !is {
		f.of.refuse(f.field(name), "it is no string: correct it")
	}
	return text
}

// isTrue reports whether a switch is on.
func (f *fields) isTrue(name string) bool {
	value, _ := f.take(name)
	return value == true
}

// object returns a message, which has no fields when it is not there.
func (f *fields) object(name string) *fields {
	value, found := f.take(name)
	values, is := value.(map[string]any)
	if found && !is {
		f.of.refuse(f.field(name), "it is no object: correct it")
	}
	return &fields{of: f.of, path: f.field(name), values: values}
}

// ignore leaves out fields that mean nothing for a FilterDeployment.
func (f *fields) ignore(names ...string) {
	for _, name := range names {
		f.take(name)
	}
}

// end refuses the fields that nobody has read, unless they have their default.
func (f *fields) end() {
	for _, name := range slices.Sorted(maps.Keys(f.values)) {
		if !isDefault(f.values[name]) {
			f.of.refuse(f.field(name), "a FilterDeployment has no such setting: remove it from the object if the filter does not need it")
		}
	}
}

func (f *fields) field(name string) string { return strings.TrimPrefix(f.path+"."+name, ".") }

// isDefault reports whether a value says nothing: false, 0, an empty string, list or object.
func isDefault(value any) bool {
	if value == nil {
		return true
	}
	v := reflect.ValueOf(value)
	if v.Kind() == reflect.Map || v.Kind() == reflect.Slice {
		return v.Len() == 0
	}
	return v.IsZero()
}
