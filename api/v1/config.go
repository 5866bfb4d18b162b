package v1

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
)

// MaxConfigurationBytes is the size of the largest filter configuration that is
// accepted. Every output repeats it, and etcd holds objects of up to 1.5 MiB.
const MaxConfigurationBytes = 256 << 10

// The types of google.protobuf.Any that a configuration can have, as protobuf's
// JSON mapping writes them.
const (
	StringValueType = "type.googleapis.com/google.protobuf.StringValue"
	BytesValueType  = "type.googleapis.com/google.protobuf.BytesValue"
	StructType      = "type.googleapis.com/google.protobuf.Struct"
)

const acceptedTypes = StringValueType + ", " + BytesValueType + " or " + StructType

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
// those of a string, StringValue or BytesValue as they are, and those of an object
// or a Struct as compact JSON. It returns nil when there is no configuration. The
// error says what is wrong and what is accepted instead.
func (c *Configuration) Value() ([]byte, error) {
	if c == nil || len(c.Raw) == 0 {
		return nil, nil
	}
	value, err := configurationValue(c.Raw)
	if err != nil {
		return nil, err
	}
	if len(value) > MaxConfigurationBytes {
		return nil, fmt.Errorf("the configuration has %d bytes: at most %d are accepted", len(value), MaxConfigurationBytes)
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
		return nil, errors.New("the configuration has none of the accepted forms: use a string, an object, or a google.protobuf.Any that holds a StringValue, a BytesValue or a Struct")
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

var errNotBase64 = errors.New("the value of the BytesValue cannot be decoded: use a string in standard base64")

func anyValue(typeURL, value json.RawMessage) ([]byte, error) {
	var name string
	if err := json.Unmarshal(typeURL, &name); err != nil {
		return nil, errors.New("the configuration's @type is not a string: use " + acceptedTypes)
	}
	if len(value) == 0 {
		value = json.RawMessage("null")
	}
	switch name {
	case StringValueType:
		var text string
		if err := json.Unmarshal(value, &text); err != nil {
			return nil, errors.New("the value of the StringValue is not a string: use one")
		}
		return []byte(text), nil
	case BytesValueType:
		var encoded string
		if err := json.Unmarshal(value, &encoded); err != nil {
			return nil, errNotBase64
		}
		content, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil {
			return nil, errNotBase64
		}
		return content, nil
	case StructType:
		if value[0] != '{' {
			return nil, errors.New("the value of the Struct is not an object: use one")
		}
		return canonical(value)
	default:
		return nil, fmt.Errorf("the configuration's @type %q is not accepted: use %s", name, acceptedTypes)
	}
}

// canonical returns JSON in one form, whatever encoders it has passed: compact,
// with the keys in order, the numbers as they were written, and nothing escaped
// that need not be.
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
