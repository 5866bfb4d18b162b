// Command mutate breaks packages in small ways, one at a time, and runs each
// package's own tests: a break that they do not notice is printed, with its
// place. It fails when the tests of a package notice fewer than 85 % of its
// mutants. The packages' files are not touched: the compiler reads a broken file
// through an overlay.
//
// In reading order: mutants.go finds what can be broken; run.go builds and tests
// one mutant; this file goes through the packages and reports.
//
// Why it is not gremlins: version 0.6 skips the conditions of a switch's cases,
// counts a mutant that does not compile as noticed, and neither drops a condition
// or a statement nor leaves out a field.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"time"
)

// least is the share of a package's mutants that its tests must notice, in percent.
const least = 85

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "mutate:", err)
		os.Exit(1)
	}
}

func run(patterns []string) error {
	if len(patterns) == 0 {
		return errors.New("usage: mutate PACKAGE..., such as ./internal/render")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	packages, err := listPackages(ctx, patterns)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "mutate-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var summary bytes.Buffer
	enough := true
	for _, pkg := range packages {
		began := time.Now()
		counts, err := mutatePackage(ctx, pkg, dir)
		if err != nil {
			return fmt.Errorf("%s: %w", pkg.ImportPath, err)
		}
		fmt.Fprintf(&summary, "%s: %s, in %s\n", pkg.ImportPath, counts, time.Since(began).Round(time.Second))
		enough = enough && counts.share() >= least
	}
	if _, err := io.Copy(os.Stdout, &summary); err != nil {
		return err
	}
	if !enough {
		return fmt.Errorf("the tests of a package notice fewer than %d %% of its mutants", least)
	}
	return nil
}

// goPackage is what `go list` says of a package.
type goPackage struct {
	Dir, ImportPath string
	GoFiles         []string
}

func listPackages(ctx context.Context, patterns []string) ([]goPackage, error) {
	list := exec.CommandContext(ctx, "go", append([]string{"list", "-json=Dir,ImportPath,GoFiles", "--"}, patterns...)...) //nolint:gosec // the patterns are those of whoever runs this
	list.Stderr = os.Stderr
	text, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("listing the packages: %w", err)
	}
	var packages []goPackage
	for decoder := json.NewDecoder(bytes.NewReader(text)); decoder.More(); {
		var pkg goPackage
		if err := decoder.Decode(&pkg); err != nil {
			return nil, fmt.Errorf("reading the list of packages: %w", err)
		}
		packages = append(packages, pkg)
	}
	return packages, nil
}

// mutatePackage tests all mutants of a package and prints those that its tests
// do not notice.
func mutatePackage(ctx context.Context, pkg goPackage, dir string) (counts, error) {
	mutants, err := packageMutants(pkg)
	if err != nil {
		return counts{}, err
	}
	fmt.Printf("%s: %d mutants\n", pkg.ImportPath, len(mutants))
	tester, err := newTester(ctx, pkg, dir)
	if err != nil {
		return counts{}, err
	}
	results, err := tester.testAll(ctx, mutants)
	if err != nil {
		return counts{}, err
	}
	var counted counts
	for i, result := range results {
		counted[result]++
		if result == survived {
			fmt.Println(" ", mutants[i])
		}
	}
	return counted, nil
}

func packageMutants(pkg goPackage) ([]mutant, error) {
	var mutants []mutant
	for _, name := range pkg.GoFiles {
		path := filepath.Join(pkg.Dir, name)
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		found, err := fileMutants(path, text)
		if err != nil {
			return nil, err
		}
		mutants = append(mutants, found...)
	}
	return mutants, nil
}

// counts are the mutants by result.
type counts [results]int

// share is the part that the tests noticed of what compiles, in percent.
func (c counts) share() float64 {
	noticed := c[killed] + c[timedOut]
	if noticed+c[survived] == 0 {
		return 100
	}
	return 100 * float64(noticed) / float64(noticed+c[survived])
}

func (c counts) String() string {
	return fmt.Sprintf("%.1f %% noticed: %d by a failure, %d by a test that did not end; %d not noticed (%d did not compile)",
		c.share(), c[killed], c[timedOut], c[survived], c[notViable])
}
