package main

import (
	"regexp"
	"strings"
	"testing"
)

var (
	logCommand = regexp.MustCompile("kubectl logs [^|`\n]*")
	// selects is a flag with which kubectl prints the last 10 lines of each pod, unless --tail says otherwise.
	selects = regexp.MustCompile(`\s(-l|--selector)[ =]`)
)

// logProblems returns what is wrong with the commands of a page that print logs.
func logProblems(p page) []string {
	var problems []string
	for i, line := range strings.Split(string(p.source), "\n") {
		command := logCommand.FindString(line)
		at := quote{page: p.path, line: i + 1}
		if selects.MatchString(command) && !strings.Contains(command, " --tail=") {
			problems = append(problems, at.problem("with a selector, kubectl prints the last 10 lines of each pod: add --tail=-1"))
		}
		if strings.Contains(command, "/wasme-operator") {
			problems = append(problems, at.problem("kubectl prints the log of one replica: use -l app.kubernetes.io/name=wasme-operator --tail=-1"))
		}
		if strings.Contains(command, " --prefix") && strings.Contains(line, "| jq") {
			problems = append(problems, at.problem("a line with a prefix is not JSON: jq needs it without --prefix"))
		}
	}
	return problems
}

func TestCommandsPrintWholeLogs(t *testing.T) {
	commands := 0
	for _, p := range writtenPages(t) {
		commands += len(logCommand.FindAll(p.source, -1))
		for _, problem := range logProblems(p) {
			t.Error(problem)
		}
	}
	if commands == 0 {
		t.Error("no page has such a command")
	}
}

func TestCommandsThatPrintPartOfALogAreFound(t *testing.T) {
	for line, want := range map[string]int{
		"kubectl logs -n wasme-system -l app.kubernetes.io/name=wasme-operator --tail=-1 --prefix": 0,
		"kubectl logs -n wasme-system -l app.kubernetes.io/name=wasme-operator --since=15m":        1,
		"kubectl logs --selector=app=istiod -n istio-system | tail --lines=5":                      1,
		"kubectl logs -n wasme-system deploy/wasme-operator --tail=-1":                             1,
		"kubectl logs -n wasme-system statefulset/wasme-operator":                                  1,
		"kubectl logs -l app=istiod --tail=-1 --prefix | jq .msg":                                  1,
		"kubectl logs -l app=istiod --tail=-1 | jq .msg":                                           0,
		"kubectl logs -n wasme-system wasme-operator-test":                                         0,
	} {
		if got := logProblems(parsePage("page.md", line)); len(got) != want {
			t.Errorf("%s: %q", line, got)
		}
	}
}
