package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/wasme-io/wasme-operator/internal/cli"
)

const (
	crdPath     = "config/crd/bases/wasme.io_filterdeployments.yaml"
	metricsPage = "docs/metrics.md"
	flagsPage   = "docs/flags.md"
	valuesPath  = "charts/wasme-operator/values.yaml"
)

// names holds what the pages may name.
type names struct {
	// flags has the default of each of the manager's flags.
	flags map[string]string
	// metrics are those of docs/metrics.md, which a test of the controllers holds to the registry.
	metrics []string
	// fields are the paths of the CRD's fields.
	fields []string
	// words are the texts of the product's code, of the CRD and of the manifests that are one word.
	words   map[string]bool
	targets []string
	// values are the paths of the chart's values.
	values map[string]bool
	// wasmeFlags are those of all commands of wasme.
	wasmeFlags map[string]bool
}

// readFlags reads the flags of a command of wasme, and of those below it.
func (n names) readFlags(c *cobra.Command) {
	c.Flags().VisitAll(func(flag *pflag.Flag) { n.wasmeFlags[flag.Name] = true })
	for _, sub := range c.Commands() {
		n.readFlags(sub)
	}
}

// foreignWords are names of Kubernetes, Istio and other programs.
var foreignWords = strings.Fields(`
	OOMKilled InProgress Current ServerSideApply EnvoyFilters ControllerRevisions OCIRepository HelmRelease
	appProtocol dependsOn emptyDir dockerconfigjson honorLabels hostNetwork matchLabels userVolume userVolumeMount args
	controllerGroup controllerKind newTag allowVolumeExpansion`)

func readNames(t *testing.T) names {
	t.Helper()
	known := names{flags: map[string]string{}, words: map[string]bool{}, values: map[string]bool{}, wasmeFlags: map[string]bool{}}
	known.readFlags(cli.New(genericiooptions.NewTestIOStreamsDiscard()))
	for section := range strings.SplitSeq(read(t, filepath.Join(root, flagsPage)), "\n## ") {
		if flag := regexp.MustCompile("^`--(.+)`").FindStringSubmatch(section); flag != nil {
			known.flags[flag[1]] = ""
			if value := regexp.MustCompile("(?m)^Default: `(.+?)`").FindStringSubmatch(section); value != nil {
				known.flags[flag[1]] = value[1]
			}
		}
	}
	for _, row := range regexp.MustCompile("(?m)^\\| `(\\w+)` \\|").FindAllStringSubmatch(read(t, filepath.Join(root, metricsPage)), -1) {
		known.metrics = append(known.metrics, row[1])
	}
	resource, err := readResource(filepath.Join(root, crdPath))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range append(resource.Spec, resource.Status...) {
		known.fields = append(known.fields, f.Path)
		for part := range strings.SplitSeq(f.Path, ".") {
			known.words[strings.TrimSuffix(part, "[]")] = true
		}
	}
	for _, target := range regexp.MustCompile(`(?m)^([a-z-]+):`).FindAllStringSubmatch(read(t, filepath.Join(root, "Makefile")), -1) {
		known.targets = append(known.targets, target[1])
	}
	values, err := readValues(filepath.Join(root, valuesPath))
	if err != nil {
		t.Fatal(err)
	}
	for _, value := range values {
		known.values[value.Path] = true
	}
	known.readWords(t)
	return known
}

func (n names) readWords(t *testing.T) {
	t.Helper()
	for _, l := range productLiterals(t) {
		n.words[l.text] = true
	}
	for _, path := range slices.Concat(filesUnder(t, "config", ".yaml", ".lua"), []string{valuesPath}) {
		for _, word := range regexp.MustCompile(`\w+`).FindAllString(read(t, filepath.Join(root, path)), -1) {
			n.words[word] = true
		}
	}
	for _, word := range foreignWords {
		n.words[word] = true
	}
}

var (
	flagSpan   = regexp.MustCompile(`^(?:manager )?--([a-z-]+)(?:=(.*))?$`)
	flagInText = regexp.MustCompile(`(?:value: |bin/manager.* )--([a-z-]+)`)
	metricSpan = regexp.MustCompile(`wasme_\w+\w`)
	fieldSpan  = regexp.MustCompile(`^(spec|status|filter|deployment|imagePullOptions|vm)(\.[\w<>\[\]]+)+`)
	// wordSpan is a reason, a kind, a field: capitals show that it is a name.
	wordSpan  = regexp.MustCompile(`^[A-Z]?[a-z]+([A-Z][a-z]+)+$|^[A-Z][a-z]+$`)
	valueSpan = regexp.MustCompile(`^(?:--set )?((?:flags|crds|guard|rbac|image|moduleStore|serviceAccount|priorityClass|prometheus)\.\w{3,})(?:[=:]|$)`)
	fileSpan  = regexp.MustCompile(`^(api|charts|cmd|config|controllers|docs|hack|internal|test)/[\w./*-]+$`)
	makeSpan  = regexp.MustCompile(`^\$? ?(?:[A-Z]+=\S+ )?make ([a-z0-9 -]+)`)
)

// kubectlFlags are flags of other programs that appear without their command.
var kubectlFlags = []string{"help", "from-file", "patch-file", "show-managed-fields", "force-conflicts", "server-side", "take-ownership", "version", "set", "reuse-values",
	"reset-then-reuse-values"}

// unknown returns what is wrong with a name in code, or nothing.
func (n names) unknown(span string) string {
	if found := flagSpan.FindStringSubmatch(span); found != nil {
		_, known := n.flags[found[1]]
		if !known && !n.wasmeFlags[found[1]] && !slices.Contains(kubectlFlags, found[1]) {
			return "neither the manager nor wasme has a flag --" + found[1]
		}
	}
	for _, metric := range metricSpan.FindAllString(span, -1) {
		if !slices.Contains(n.metrics, metric) {
			return "there is no metric " + metric
		}
	}
	if found := fieldSpan.FindString(span); found != "" && !n.hasField(found) {
		return "the CRD has no field " + found
	}
	if found := valueSpan.FindStringSubmatch(span); found != nil && !n.values[found[1]] {
		return "the chart has no value " + found[1]
	}
	if wordSpan.MatchString(span) && !n.hasWord(span) {
		return "no source has the name " + span
	}
	if fileSpan.MatchString(span) {
		if found, err := filepath.Glob(filepath.Join(root, span)); err != nil || len(found) == 0 {
			return "there is no file " + span
		}
	}
	if found := makeSpan.FindStringSubmatch(span); found != nil {
		for target := range strings.FieldsSeq(found[1]) {
			if !slices.Contains(n.targets, target) {
				return "the Makefile has no target " + target
			}
		}
	}
	return ""
}

// hasField reports whether the path of a field is known; it may leave out its beginning.
func (n names) hasField(path string) bool {
	path = regexp.MustCompile(`<\w+>`).ReplaceAllString(path, "<key>")
	return slices.ContainsFunc(n.fields, func(known string) bool {
		return known == path || strings.HasSuffix(known, "."+path)
	})
}

// hasWord reports whether a source has the name, or its singular.
func (n names) hasWord(word string) bool {
	return n.words[word] || n.words[strings.TrimSuffix(word, "s")]
}

func TestNamesInCodeAreThoseOfTheSources(t *testing.T) {
	known := readNames(t)
	for _, p := range writtenPages(t) {
		for _, span := range p.spans() {
			if problem := known.unknown(span.text); problem != "" {
				t.Error(span.problem("%s", problem))
			}
			if key, value, found := strings.Cut(span.text, ": "); found && wordSpan.MatchString(key) {
				report(t, problemsOf(span, known.unknown(key), known.unknown(value)))
			}
		}
		for _, line := range slices.Concat(p.lines("console"), p.lines("yaml")) {
			for _, flag := range flagInText.FindAllStringSubmatch(line.text, -1) {
				report(t, problemsOf(line, known.unknown("--"+flag[1])))
			}
			if makeSpan.MatchString(line.text) {
				report(t, problemsOf(line, known.unknown(line.text)))
			}
		}
	}
}

func problemsOf(q quote, texts ...string) []string {
	var problems []string
	for _, text := range texts {
		if text != "" {
			problems = append(problems, q.problem("%s", text))
		}
	}
	return problems
}

// callers are folders whose flags are those of the programs that they start.
var callers = []string{"internal/cli/envoy/", "internal/cli/toolchain/"}

// flagInSource is a flag of several words in a message or in a manifest.
var flagInSource = regexp.MustCompile(`(?:^|[\s"(])--([a-z]+(?:-[a-z]+)+)`)

func TestFlagsInMessagesAndManifestsExist(t *testing.T) {
	texts := productLiterals(t)
	for _, path := range filesUnder(t, "config", ".yaml") {
		texts = append(texts, literal{path, read(t, filepath.Join(root, path))})
	}
	known := readNames(t)
	found := 0
	for _, l := range texts {
		if slices.ContainsFunc(callers, func(folder string) bool { return strings.HasPrefix(l.place, folder) }) {
			continue
		}
		for _, flag := range flagInSource.FindAllStringSubmatch(l.text, -1) {
			found++
			if problem := known.unknown("--" + flag[1]); problem != "" {
				t.Errorf("%s: %s", l.place, problem)
			}
		}
	}
	if found == 0 {
		t.Error("no message names a flag")
	}
}

func TestUnknownNamesAreFound(t *testing.T) {
	known := readNames(t)
	for _, right := range []string{
		"--cluster-id", "--cluster-id=east", "--show-managed-fields", "manager --help", "wasme_output_writes_total",
		"spec.filter.image", "status.workloads.<name>.state", "vm.env", "status.conditions", "FailOpen", "ModuleResolved",
		"config/default", "internal/render/testdata/*.out.yaml", "make test-unit", "make generate manifests", "istio-proxy",
		"flags.clusterId", "crds.install: false", "--set guard.enabled=false",
	} {
		if problem := known.unknown(right); problem != "" {
			t.Errorf("%s: %s", right, problem)
		}
	}
	for _, wrong := range []string{
		"--cluster", "--clusterid=east", "wasme_output_write_total", "spec.filter.imag", "status.workloads.<name>.stat",
		"FailOpened", "ModuleFound", "failedStrategy", "config/defaults", "internal/render/testdata/*.none", "make test-units",
		"flags.clusterID", "crds.installed: false", "--set guard.enable=false",
	} {
		if known.unknown(wrong) == "" {
			t.Errorf("%s is accepted", wrong)
		}
	}
}

// boundedBy is an amount with the flag that sets it: `4 MiB (`--max-manifest-bytes`)`.
var boundedBy = regexp.MustCompile("(\\w[\\w,]*) (MiB|GiB|minutes|files)\\s+\\(`--([a-z-]+)`")

var numerals = map[string]string{"two": "2", "five": "5", "ten": "10"}

// wrongDefaults returns a problem for each amount that is not the default of the flag beside it.
func (p page) wrongDefaults(flags map[string]string) []string {
	var problems []string
	for _, at := range boundedBy.FindAllSubmatchIndex(p.source, -1) {
		amount, unit, flag := string(p.source[at[2]:at[3]]), string(p.source[at[4]:at[5]]), string(p.source[at[6]:at[7]])
		amount = strings.ReplaceAll(amount, ",", "")
		if numeral, found := numerals[amount]; found {
			amount = numeral
		}
		said := amount + " " + unit
		if is := humanDefault(flags[flag], unit); is != said {
			problems = append(problems, quote{page: p.path, line: p.lineAt(at[0])}.problem("the default of --%s is %s, not %s", flag, is, said))
		}
	}
	return problems
}

func humanDefault(value, unit string) string {
	switch unit {
	case "minutes":
		return strings.TrimSuffix(value, "m0s") + " minutes"
	case "files":
		return value + " files"
	}
	return size(value)
}

func TestAmountsAreTheDefaultsOfTheirFlags(t *testing.T) {
	flags := readNames(t).flags
	for _, p := range writtenPages(t) {
		report(t, p.wrongDefaults(flags))
	}
	wrong := parsePage("X.md", "up to 5 MiB (`--max-manifest-bytes`), 4 MiB (`--max-manifest-bytes`), every six minutes\n(`--image-poll-interval`)")
	if problems := wrong.wrongDefaults(flags); len(problems) != 2 {
		t.Errorf("%q", problems)
	}
}

func TestEveryReasonIsInTroubleshooting(t *testing.T) {
	conditions, err := readConditions(filepath.Join(root, "api/v1"))
	if err != nil {
		t.Fatal(err)
	}
	text := read(t, filepath.Join(root, "docs/troubleshooting.md"))
	for _, c := range conditions {
		for _, r := range c.Reasons {
			if c.Type != r.Name && !strings.Contains(text, "`"+r.Name+"`") {
				t.Errorf("docs/troubleshooting.md does not say what to do about %s", r.Name)
			}
		}
	}
}

// TestEveryEventIsDocumented holds the table of events in docs/conditions.md to
// the constants that are reasons of events and not of conditions.
func TestEveryEventIsDocumented(t *testing.T) {
	var declared []string
	for _, folder := range []string{"controllers", "internal"} {
		for _, path := range filesUnder(t, folder, ".go") {
			declared = append(declared, eventReasons(t, filepath.Join(root, path))...)
		}
	}
	slices.Sort(declared)
	var documented []string
	for _, row := range regexp.MustCompile("(?m)^\\| `(\\w+)` \\| (?:Normal|Warning) \\|").FindAllStringSubmatch(read(t, filepath.Join(root, "docs/conditions.md")), -1) {
		documented = append(documented, row[1])
	}
	slices.Sort(documented)
	if !slices.Equal(declared, documented) || len(declared) == 0 {
		t.Errorf("the events of docs/conditions.md are %v, and the sources have %v", documented, declared)
	}
}

// eventReasons returns the values of a file's constants that are named Event… or event….
func eventReasons(t *testing.T, path string) []string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	var reasons []string
	ast.Inspect(file, func(node ast.Node) bool {
		spec, ok := node.(*ast.ValueSpec)
		if ok && regexp.MustCompile(`^[eE]vent[A-Z]`).MatchString(spec.Names[0].Name) {
			if value, ok := stringValue(spec); ok && wordSpan.MatchString(value) {
				reasons = append(reasons, value)
			}
		}
		return true
	})
	return reasons
}
