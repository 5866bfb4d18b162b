package v1_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

func TestConfigurationValue(t *testing.T) {
	atLimit := strings.Repeat("a", wasmev1.MaxConfigurationBytes)
	for _, c := range []struct {
		name string
		json string
		want string
	}{
		{"string", `"world"`, "world"},
		{"string with escapes", `"a\n\"b\" \u00e4"`, "a\n\"b\" ä"},
		{"string that looks like JSON", `"{\"name\":\"hello\"}"`, `{"name":"hello"}`},
		{"empty string", `""`, ""},
		{"string of the largest size", `"` + atLimit + `"`, atLimit},
		{"object", `{"b": [1, 2.50, null], "a": {"c": "<&>"}}`, `{"a":{"c":"<&>"},"b":[1,2.50,null]}`},
		{"object as the API server escapes it", `{"c":"\u003c\u0026\u003e"}`, `{"c":"<&>"}`},
		{"object with a long number", `{"n": 12345678901234567890}`, `{"n":12345678901234567890}`},
		{"empty object", `{}`, `{}`},
		{"object with a value but no @type", `{"value": "world"}`, `{"value":"world"}`},
		{"StringValue", anyOf(wasmev1.StringValueType, `"world"`), "world"},
		{"StringValue, empty", anyOf(wasmev1.StringValueType, `""`), ""},
		{"StringValue without value", `{"@type": "` + wasmev1.StringValueType + `"}`, ""},
		{"BytesValue", anyOf(wasmev1.BytesValueType, `"AAEC/w=="`), "\x00\x01\x02\xff"},
		{"BytesValue without value", `{"@type": "` + wasmev1.BytesValueType + `"}`, ""},
		{"Struct", anyOf(wasmev1.StructType, `{"a": {"b": 1}}`), `{"a":{"b":1}}`},
		{"Struct, empty", anyOf(wasmev1.StructType, `{}`), `{}`},
		{"null", `null`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := parse(t, c.json).Value()
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != c.want {
				t.Errorf("got %.100q, want %.100q", got, c.want)
			}
		})
	}
}

func TestConfigurationValueRefuses(t *testing.T) {
	overLimit := strings.Repeat("a", wasmev1.MaxConfigurationBytes+1)
	const forms = "none of the accepted forms: use a string, an object, or a google.protobuf.Any"
	for _, c := range []struct {
		name string
		json string
		want string
	}{
		{"integer", `1`, forms},
		{"negative number", `-1`, forms},
		{"fraction", `0.5`, forms},
		{"true", `true`, forms},
		{"false", `false`, forms},
		{"array", `["world"]`, forms},
		{"empty array", `[]`, forms},
		{"unknown @type", anyOf("type.googleapis.com/google.protobuf.Int32Value", `1`), "is not accepted: use"},
		{"empty @type", anyOf("", `1`), "is not accepted: use"},
		{"@type that is no string", `{"@type": 1}`, "@type is not a string"},
		{"StringValue holding a number", anyOf(wasmev1.StringValueType, `1`), "StringValue is not a string"},
		{"StringValue holding an object", anyOf(wasmev1.StringValueType, `{}`), "StringValue is not a string"},
		{"BytesValue that is no base64", anyOf(wasmev1.BytesValueType, `"w%rld"`), "standard base64"},
		{"BytesValue without padding", anyOf(wasmev1.BytesValueType, `"AAEC/w"`), "standard base64"},
		{"BytesValue holding a list", anyOf(wasmev1.BytesValueType, `[1, 2]`), "standard base64"},
		{"Struct holding a string", anyOf(wasmev1.StructType, `"world"`), "Struct is not an object"},
		{"Struct without value", `{"@type": "` + wasmev1.StructType + `"}`, "Struct is not an object"},
		{"string too large", `"` + overLimit + `"`, "at most 262144 are accepted"},
		{"few characters, too many bytes", `"` + strings.Repeat("ä", wasmev1.MaxConfigurationBytes/2+1) + `"`, "at most 262144 are accepted"},
		{"object too large", `{"a": "` + overLimit + `"}`, "at most 262144 are accepted"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := parse(t, c.json).Value()
			if err == nil {
				t.Fatalf("accepted as %.100q", got)
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("the error %q does not say %q", err, c.want)
			}
		})
	}
}

func TestConfigurationAbsent(t *testing.T) {
	var absent *wasmev1.Configuration
	for _, c := range []*wasmev1.Configuration{absent, {}} {
		if value, err := c.Value(); value != nil || err != nil {
			t.Errorf("got %q, %v for %v", value, err, c)
		}
	}
}

// What a user wrote stays as it is through a read and a write of the object.
func TestConfigurationRoundTrip(t *testing.T) {
	for _, text := range []string{
		`{"image":"i","config":"world"}`,
		`{"image":"i","config":{"a":12345678901234567890,"b":[]}}`,
		`{"image":"i","config":{"@type":"` + wasmev1.StringValueType + `","value":"world"}}`,
		`{"image":"i"}`,
	} {
		var filter wasmev1.FilterSpec
		if err := json.Unmarshal([]byte(text), &filter); err != nil {
			t.Fatal(err)
		}
		got, err := json.Marshal(filter.DeepCopy())
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != text {
			t.Errorf("got %s, want %s", got, text)
		}
	}
}

func FuzzConfiguration(f *testing.F) {
	for _, seed := range []string{
		`"world"`, `{}`, `{"a":1}`, `null`, `1`, `[true]`, ` "x" `,
		anyOf(wasmev1.StringValueType, `"world"`), anyOf(wasmev1.BytesValueType, `"AA=="`),
		anyOf(wasmev1.StructType, `{"a":"b"}`), `{"@type":"x","@type":null}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var config wasmev1.Configuration
		if json.Unmarshal(text, &config) != nil {
			return
		}
		value, err := config.Value()
		if len(value) > wasmev1.MaxConfigurationBytes {
			t.Errorf("a value of %d bytes", len(value))
		}
		var written bytes.Buffer
		encoder := json.NewEncoder(&written)
		encoder.SetEscapeHTML(false)
		if err := encoder.Encode(config); err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		var again wasmev1.Configuration
		if err := json.Unmarshal(written.Bytes(), &again); err != nil {
			t.Fatal(err)
		}
		valueAgain, errAgain := again.Value()
		if string(valueAgain) != string(value) || (errAgain == nil) != (err == nil) {
			t.Errorf("%q (%v) became %q (%v)", value, err, valueAgain, errAgain)
		}
	})
}

func anyOf(typeURL, value string) string {
	return fmt.Sprintf(`{"@type": %q, "value": %s}`, typeURL, value)
}

func parse(t *testing.T, text string) *wasmev1.Configuration {
	t.Helper()
	var config wasmev1.Configuration
	if err := json.Unmarshal([]byte(text), &config); err != nil {
		t.Fatal(err)
	}
	return &config
}
