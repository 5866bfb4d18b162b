package main

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// managerFlag is a flag of the manager, as the manager's own help shows it.
type managerFlag struct {
	Name string
	// Default is empty where the flag's zero value is its default.
	Default string
	Usage   string
}

var (
	// flagName starts a flag in the output of Go's flag package.
	flagName = regexp.MustCompile(`^  -(\S+)`)
	// flagDefault ends a usage; strings are quoted, other values are not.
	flagDefault = regexp.MustCompile(` \(default "?(.*?)"?\)$`)
)

// readFlags reads what `manager --help` prints.
func readFlags(help string) ([]managerFlag, error) {
	var flags []managerFlag
	for line := range strings.Lines(help) {
		line = strings.TrimRight(line, "\n")
		switch started := flagName.FindStringSubmatch(line); {
		case started != nil:
			flags = append(flags, managerFlag{Name: started[1]})
		case len(flags) > 0:
			last := &flags[len(flags)-1]
			last.Usage = strings.TrimSpace(last.Usage + " " + strings.TrimSpace(line))
		}
	}
	for i, f := range flags {
		if f.Usage == "" {
			return nil, fmt.Errorf("the flag -%s has no usage", f.Name)
		}
		if found := flagDefault.FindStringSubmatch(f.Usage); found != nil {
			flags[i].Default = found[1]
			flags[i].Usage = strings.TrimSuffix(f.Usage, found[0])
		}
	}
	if len(flags) == 0 {
		return nil, errors.New("the manager's help shows no flag")
	}
	return flags, nil
}

// size returns a number of bytes in MiB or GiB, or nothing if the text is not a
// whole number of these.
func size(text string) string {
	bytes, err := strconv.ParseInt(text, 10, 64)
	switch {
	case err != nil || bytes == 0 || bytes%(1<<20) != 0:
		return ""
	case bytes%(1<<30) == 0:
		return fmt.Sprintf("%d GiB", bytes>>30)
	}
	return fmt.Sprintf("%d MiB", bytes>>20)
}
