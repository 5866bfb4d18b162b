package render

import (
	"encoding/json"
	"errors"
	"math/big"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestExactNumbers(t *testing.T) {
	for text, want := range map[string]bool{
		"0": true, "-0": true, "0.000": true, "0e99": true, "1": true, "-1": true, "10": true,
		"0.1": true, "1.50": true, "1e3": true, "1E+3": true, "100e-2": true, "12.5e-1": true,
		"9007199254740992": true, "9007199254740993": false, "-9007199254740993": false,
		"1000000000000000000000": true, "123456789012345678": false,
		"1e308": true, "1e309": false, "1e-324": false, "5e-324": true, "1e-999999999999999999999": false,
		"1e999999999999999999999": false, "0.1000000000000000055": false, "3.141592653589793": true, "3.1415926535897932": false,
	} {
		if got := exact(json.Number(text)); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
}

// Whatever is called exact is what the decimals of its float64 say.
func FuzzExact(f *testing.F) {
	for _, seed := range []string{"0", "-12.50e3", "9007199254740993", "1e-7", "0.3"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 64 || !json.Valid([]byte(text)) || !strings.ContainsAny(text[:1], "-0123456789") {
			t.Skip()
		}
		float, err := strconv.ParseFloat(text, 64)
		_, power, _ := strings.Cut(strings.ToLower(text), "e")
		if exponent, _ := strconv.Atoi(power); err != nil || exponent > 999 || exponent < -999 {
			t.Skip() // too large to be written out
		}
		value, _ := new(big.Rat).SetString(text)
		shortest, _ := new(big.Rat).SetString(strconv.FormatFloat(float, 'g', -1, 64))
		if want := value.Cmp(shortest) == 0; exact(json.Number(text)) != want {
			t.Errorf("%s: want %v", text, want)
		}
	})
}

func TestALongNumberIsShortenedInTheMessage(t *testing.T) {
	filter := Filter{Configuration: []byte(`{"a": ` + strings.Repeat("1", 1000) + `}`)}
	if _, err := filter.pluginConfig(); err == nil || len(err.Error()) > 200 {
		t.Error(err)
	}
}

// Whatever a configuration is, it is either refused or arrives as the JSON that it was.
func FuzzPluginConfig(f *testing.F) {
	for _, seed := range []string{`{"a": [1, 0.1, null, {"b": "c"}]}`, `{}`, `null`, `[1]`, `{"a": 1} {}`, `{"a": 9007199254740993}`, "\xff"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		config, err := Filter{Configuration: content}.pluginConfig()
		if err != nil || config == nil {
			if config != nil || err == nil && len(content) > 0 {
				t.Errorf("%q: got %v, %v", content, config, err)
			}
			return
		}
		written, err := config.MarshalJSON()
		if err != nil {
			t.Fatalf("%q cannot be written: %v", content, err)
		}
		var was, is map[string]any
		if err := errors.Join(json.Unmarshal(content, &was), json.Unmarshal(written, &is)); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(was, is); diff != "" {
			t.Errorf("%q became %s:\n%s", content, written, diff)
		}
	})
}
