package main

import (
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"
)

const (
	rolePath         = "config/rbac/role.yaml"
	policiesRolePath = "config/rbac/policies_role.yaml"
	securityPage     = "docs/security.md"
)

// rights maps a resource, with its API group and where it may be used, to its verbs.
type rights map[string]string

func (r rights) add(where, group, resource string, verbs []string) {
	if group == "" {
		group = "core"
	}
	sorted := slices.Sorted(slices.Values(verbs))
	r[fmt.Sprintf("%s of %s, %s", resource, group, where)] = strings.Join(sorted, ", ")
}

// grantedRights reads the roles: a ClusterRole holds everywhere, a Role in its namespace.
func grantedRights(text string) (rights, error) {
	granted := rights{}
	for document := range strings.SplitSeq(text, "\n---\n") {
		var role rbacv1.ClusterRole
		if err := yaml.Unmarshal([]byte(document), &role); err != nil {
			return nil, err
		}
		where := "everywhere"
		if role.Namespace != "" {
			where = "in `" + role.Namespace + "`"
		}
		for _, rule := range role.Rules {
			for _, group := range rule.APIGroups {
				for _, resource := range rule.Resources {
					granted.add(where, group, resource, rule.Verbs)
				}
			}
		}
	}
	return granted, nil
}

var (
	rightsRow = regexp.MustCompile("(?m)^\\| ((?:`[a-z/]+`,? ?)+) \\| `?([a-z0-9.]+)`? \\| (everywhere|in `[a-z-]+`) \\| ([a-z, ]+) \\|")
	inCode    = regexp.MustCompile("`([a-z/]+)`")
)

// documentedRights reads a table whose rows begin with resources, API group, place and verbs.
func documentedRights(text string) rights {
	documented := rights{}
	for _, row := range rightsRow.FindAllStringSubmatch(text, -1) {
		for _, resource := range inCode.FindAllStringSubmatch(row[1], -1) {
			documented.add(row[3], row[2], resource[1], strings.Split(row[4], ", "))
		}
	}
	return documented
}

func compareRights(granted, documented rights) []string {
	var problems []string
	for right, verbs := range granted {
		if documented[right] != verbs {
			problems = append(problems, fmt.Sprintf("%s: %s has %q, and %s %q", right, rolePath, verbs, securityPage, documented[right]))
		}
	}
	for right := range documented {
		if _, found := granted[right]; !found {
			problems = append(problems, fmt.Sprintf("%s: only %s has it", right, securityPage))
		}
	}
	slices.Sort(problems)
	return problems
}

func TestSecurityHasEveryRightOfTheOperator(t *testing.T) {
	granted, err := grantedRights(read(t, filepath.Join(root, rolePath)) + "\n---\n" + read(t, filepath.Join(root, policiesRolePath)))
	if err != nil || len(granted) == 0 {
		t.Fatal(granted, err)
	}
	report(t, compareRights(granted, documentedRights(read(t, filepath.Join(root, securityPage)))))
}

func TestRightsThatDifferAreFound(t *testing.T) {
	granted, err := grantedRights("rules: [{apiGroups: [''], resources: [pods], verbs: [watch, list]}]\n---\nmetadata: {namespace: a-b}\nrules: [{apiGroups: [apps], resources: [x/y, z], verbs: [get]}]\n")
	if err != nil {
		t.Fatal(err)
	}
	rows := "| `pods` | core | everywhere | list, watch | why |\n| `x/y`, `z` | `apps` | in `a-b` | get | why |\n"
	if problems := compareRights(granted, documentedRights(rows)); len(problems) > 0 {
		t.Fatal(problems)
	}
	for name, wrong := range map[string]string{
		"verb missing":     strings.Replace(rows, "list, watch", "list", 1),
		"verb too many":    strings.Replace(rows, "| get |", "| get, list |", 1),
		"resource missing": strings.Replace(rows, ", `z`", "", 1),
		"another place":    strings.Replace(rows, "in `a-b`", "everywhere", 1),
		"another group":    strings.Replace(rows, "core", "apps", 1),
		"right too many":   rows + "| `secrets` | core | everywhere | get | why |\n",
	} {
		if problems := compareRights(granted, documentedRights(wrong)); len(problems) == 0 {
			t.Errorf("%s: accepted; granted %v", name, slices.Collect(maps.Keys(granted)))
		}
	}
}
