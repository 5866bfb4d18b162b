package version

import (
	"runtime"
	"runtime/debug"
	"testing"
)

func TestWhatAProgramKnowsOfItself(t *testing.T) {
	for name, tc := range map[string]struct {
		build debug.BuildInfo
		want  Info
	}{
		"a release": {
			debug.BuildInfo{Main: debug.Module{Version: "v1.2.3"}, Settings: []debug.BuildSetting{
				{Key: "GOARCH", Value: "amd64"},
				{Key: "vcs.revision", Value: "014f31c"},
				{Key: "vcs.time", Value: "2026-11-28T03:34:00Z"},
			}},
			Info{Version: "v1.2.3", Revision: "014f31c", Date: "2026-11-28T03:34:00Z"},
		},
		"a build outside a clone": {debug.BuildInfo{Main: debug.Module{Version: "(devel)"}}, Info{Version: "(devel)"}},
		"nothing":                 {debug.BuildInfo{}, Info{Version: "unknown"}},
	} {
		t.Run(name, func(t *testing.T) {
			tc.want.Go, tc.want.Platform = runtime.Version(), runtime.GOOS+"/"+runtime.GOARCH
			if got := of(&tc.build); got != tc.want {
				t.Errorf("got %+v, want %+v", got, tc.want)
			}
		})
	}
}

func TestABuildIsOneLine(t *testing.T) {
	build := Info{Version: "v1.2.3", Revision: "014f31c", Date: "2026-11-28T03:34:00Z", Go: "go1.26.8", Platform: "linux/arm64"}
	if got, want := build.String(), "v1.2.3 014f31c 2026-11-28T03:34:00Z go1.26.8 linux/arm64"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := (Info{Version: "(devel)", Go: "go1.26.8", Platform: "linux/arm64"}).String(), "(devel) go1.26.8 linux/arm64"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
