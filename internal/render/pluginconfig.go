package render

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"google.golang.org/protobuf/types/known/structpb"
)

var (
	errNotObject   = errors.New("a configuration that is not a JSON object: write it as one")
	errEmptyObject = errors.New("an empty object: leave config out")
)

// pluginConfig returns the configuration as the object that a WasmPlugin or a
// TrafficExtension can hold. The module reads its JSON. It returns nil for an empty
// configuration, because a module cannot tell that from none. The error says what
// cannot be carried, and the fix.
func (f Filter) pluginConfig() (*structpb.Struct, error) {
	if len(f.Configuration) == 0 {
		return nil, nil
	}
	decoder := json.NewDecoder(bytes.NewReader(f.Configuration))
	decoder.UseNumber()
	var object map[string]any
	if err := decoder.Decode(&object); err != nil || object == nil {
		return nil, errNotObject
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errNotObject
	}
	if len(object) == 0 {
		return nil, errEmptyObject
	}
	if err := checkNumbers(object); err != nil {
		return nil, err
	}
	return structpb.NewStruct(object)
}

// checkNumbers refuses numbers that a float64 rounds, because a Struct holds every
// number as a float64.
func checkNumbers(value any) error {
	switch value := value.(type) {
	case json.Number:
		if !exact(value) {
			return fmt.Errorf("the number %s, which 64-bit floating point rounds: write it as a string", shortened(value))
		}
	case []any:
		for _, item := range value {
			if err := checkNumbers(item); err != nil {
				return err
			}
		}
	case map[string]any:
		for _, item := range value {
			if err := checkNumbers(item); err != nil {
				return err
			}
		}
	}
	return nil
}

// exact reports whether a number comes out of a float64 as it went in, that is
// whether the shortest decimal that reads as this float64 has the same value.
func exact(number json.Number) bool {
	float, err := number.Float64()
	if err != nil {
		return false
	}
	digits, exponent := decimal(number.String())
	shortest, shortestExponent := decimal(strconv.FormatFloat(float, 'e', -1, 64))
	return digits == shortest && exponent == shortestExponent
}

// decimal returns the absolute value of a JSON number as its significant digits and
// the power of ten that multiplies them.
func decimal(text string) (digits string, exponent int) {
	mantissa, power, _ := strings.Cut(strings.ToLower(strings.TrimPrefix(text, "-")), "e")
	whole, fraction, _ := strings.Cut(mantissa, ".")
	all := strings.TrimLeft(whole+fraction, "0")
	digits = strings.TrimRight(all, "0")
	if digits == "" {
		return "", 0
	}
	exponent, _ = strconv.Atoi(power) // no power is 0; one out of range differs from that of any float64
	return digits, exponent - len(fraction) + len(all) - len(digits)
}

// shortened returns a number that keeps a message readable.
func shortened(number json.Number) string {
	const longest = 32
	if len(number) > longest {
		return number.String()[:longest] + "…"
	}
	return number.String()
}
