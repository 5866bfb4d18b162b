package v1

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
)

// MaxConfigurationBytes is the largest filter configuration that is accepted:
// every output repeats it and etcd holds objects up to 1.5 MiB.
const MaxConfigurationBytes = 256 << 10

// The forms of google.protobuf.Any that a configuration may take, as the
// protobuf JSON mapping writes them.
const (
	StringValueType = "type.googleapis.com/google.protobuf.StringValue"
	BytesValueType  = "type.googleapis.com/google.protobuf.BytesValue"
	StructType      = "type.googleapis.com/google.protobuf.Struct"
)

// Configuration is what a filter is configured with, as the user wrote it in
// JSON: a string, an object, or a google.protobuf.Any in its JSON form holding
// a StringValue, a BytesValue or a Struct.
//
// +kubebuilder:validation:Schemaless
// +kubebuilder:pruning:PreserveUnknownFields
type Configuration struct {
	// Raw is the JSON text; empty or null for a filter without configuration.
	Raw json.RawMessage `json:"-"`
}

// MarshalJSON writes the configuration as it was read.
func (c Configuration) MarshalJSON() ([]byte, error) {
	if len(c.Raw) == 0 {
		return []byte("null"), nil
	}
	return c.Raw, nil
}

// UnmarshalJSON keeps the JSON text; Value reads it.
func (c *Configuration) UnmarshalJSON(text []byte) error {
	c.Raw = nil
	if !bytes.Equal(text, []byte("null")) {
		c.Raw = bytes.Clone(text)
	}
	return nil
}

// Value returns the bytes that the module reads as its plugin configuration:
// those of a string, StringValue or BytesValue as they are, those of an object
// or a Struct as compact JSON. It is nil without a configuration. The error
// names what is wrong and the forms that are accepted.
func (c *Configuration) Value() ([]byte, error) {
	if c == nil || len(c.Raw) == 0 {
		return nil, nil
	}
	value, err := configurationValue(c.Raw)
	if err != nil {
		return nil, err
	}
	if len(value) > MaxConfigurationBytes {
		return nil, fmt.Errorf("the configuration has %d bytes; at most %d are accepted", len(value), MaxConfigurationBytes)
	}
	return value, nil
}

func configurationValue(raw json.RawMessage) ([]byte, error) {
	switch raw[0] {
	case '"':
		var text string
		err := json.Unmarshal(raw, &text)
		return []byte(text), err
	case '{':
		return objectValue(raw)
	default:
		return nil, errors.New("the configuration must be a string, an object, or a google.protobuf.Any holding a StringValue, a BytesValue or a Struct")
	}
}

func objectValue(raw json.RawMessage) ([]byte, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	typeURL, isAny := fields["@type"]
	if !isAny {
		return canonical(raw)
	}
	return anyValue(typeURL, fields["value"])
}

var errNoBase64 = errors.New("the value of a BytesValue must be a string in standard base64")

func anyValue(typeURL, value json.RawMessage) ([]byte, error) {
	var name string
	if err := json.Unmarshal(typeURL, &name); err != nil {
		return nil, fmt.Errorf("the configuration's @type must be a string: %w", err)
	}
	if len(value) == 0 {
		value = json.RawMessage("null")
	}
	switch name {
	case StringValueType:
		var text string
		if err := json.Unmarshal(value, &text); err != nil {
			return nil, errors.New("the value of a StringValue must be a string")
		}
		return []byte(text), nil
	case BytesValueType:
		var encoded string
		if err := json.Unmarshal(value, &encoded); err != nil {
			return nil, errNoBase64
		}
		content, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil {
			return nil, errNoBase64
		}
		return content, nil
	case StructType:
		if value[0] != '{' {
			return nil, errors.New("the value of a Struct must be an object")
		}
		return canonical(value)
	default:
		return nil, fmt.Errorf("the configuration's @type %q is not accepted; use %s, %s or %s", name, StringValueType, BytesValueType, StructType)
	}
}

// canonical writes JSON in one form whatever way it came through encoders:
// compact, keys in order, numbers as they were written, nothing escaped that
// need not be.
func canonical(raw json.RawMessage) ([]byte, error) {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(value)
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), err
}
