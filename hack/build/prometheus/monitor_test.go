package build

import (
	"os"
	"slices"
	"testing"

	"go.yaml.in/yaml/v3"
)

const config = "../../../config/"

type labelled struct {
	MatchLabels map[string]string `yaml:"matchLabels"`
}

type port struct {
	Name string
	Port string
}

// Neither the PodMonitor nor the NetworkPolicy fails when it names no port.
func TestWhatIsScrapedIsAPortOfTheManager(t *testing.T) {
	var deployment struct {
		Spec struct {
			Template struct {
				Metadata struct{ Labels map[string]string }
				Spec     struct{ Containers []struct{ Ports []port } }
			}
		}
	}
	var monitor struct {
		Spec struct {
			Selector  labelled
			Endpoints []struct {
				Port        string
				HonorLabels bool `yaml:"honorLabels"`
			} `yaml:"podMetricsEndpoints"`
		}
	}
	var policy struct {
		Spec struct {
			PodSelector labelled `yaml:"podSelector"`
			Ingress     []struct{ Ports []port }
		}
	}
	read(t, config+"manager/deployment.yaml", &deployment)
	read(t, config+"prometheus/monitor.yaml", &monitor)
	read(t, config+"prometheus/network_policy.yaml", &policy)
	pod := deployment.Spec.Template
	for _, selector := range []labelled{monitor.Spec.Selector, policy.Spec.PodSelector} {
		for key, value := range selector.MatchLabels {
			if pod.Metadata.Labels[key] != value {
				t.Errorf("the manager's pods have not the label %s: %s", key, value)
			}
		}
	}
	for _, name := range []string{monitor.Spec.Endpoints[0].Port, policy.Spec.Ingress[0].Ports[0].Port} {
		if !slices.ContainsFunc(pod.Spec.Containers[0].Ports, func(p port) bool { return p.Name == name }) {
			t.Errorf("the manager has no port %q", name)
		}
	}
	if !monitor.Spec.Endpoints[0].HonorLabels {
		t.Error("namespace would be the manager's: the alerts read the FilterDeployment's")
	}
}

func read(t *testing.T, path string, into any) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(text, into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}
