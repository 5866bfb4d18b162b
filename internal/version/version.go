// Package version reads what a program knows of how it was built.
package version

import (
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
)

// Info describes a build. The Go command writes it into each program that it builds
// in a clone, so nothing has to be passed to it.
type Info struct {
	// Version is the tag of the commit, or a pseudo-version of a commit without one. It
	// ends in +dirty if files were changed.
	Version string `json:"version"`
	// Revision is the commit.
	Revision string `json:"revision,omitempty"`
	// Date is the time of the commit, as in RFC 3339: that of the build would make each build another one.
	Date     string `json:"date,omitempty"`
	Go       string `json:"goVersion"`
	Platform string `json:"platform"`
}

// Read returns the build of this program.
func Read() Info {
	build, ok := debug.ReadBuildInfo()
	if !ok {
		build = &debug.BuildInfo{}
	}
	return of(build)
}

func of(build *debug.BuildInfo) Info {
	info := Info{Version: build.Main.Version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if info.Version == "" {
		info.Version = "unknown"
	}
	for _, setting := range build.Settings {
		switch setting.Key {
		case "vcs.revision":
			info.Revision = setting.Value
		case "vcs.time":
			info.Date = setting.Value
		}
	}
	return info
}

// String returns the build as one line.
func (i Info) String() string {
	return strings.Join(slices.DeleteFunc([]string{i.Version, i.Revision, i.Date, i.Go, i.Platform}, func(s string) bool { return s == "" }), " ")
}
