package rollout

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/wasme-io/wasme-operator/internal/render"
)

// Before all pods of the first workload serve with a revision that they tried, some of them
// may, for the bake time: the canaries. A module that crashes on requests then meets those
// first. An EnvoyFilter can name single pods.

// CanaryAnnotation holds `<revision> <RFC 3339 time> <pod>,<pod>…`: which pods run the
// revision that the others have in their staging slots, and since when; it is empty while
// none does.
const CanaryAnnotation = "wasme.io/canary"

// Canary is what single pods of a workload run.
type Canary struct {
	// Revision is the hash of what they run.
	Revision string
	Since    time.Time
	Pods     []string
}

func canaryOf(annotation string) Canary {
	parts := strings.Fields(annotation)
	if len(parts) != 3 {
		return Canary{}
	}
	since, err := time.Parse(time.RFC3339, parts[1])
	if err != nil {
		return Canary{}
	}
	return Canary{Revision: parts[0], Since: since, Pods: strings.Split(parts[2], ",")}
}

// Annotation returns the canary as an output keeps it; empty for none.
func (c Canary) Annotation() string {
	if c.Revision == "" {
		return ""
	}
	return fmt.Sprintf("%s %s %s", c.Revision, c.Since.UTC().Format(time.RFC3339), strings.Join(c.Pods, ","))
}

// runs reports whether a pod is one of those that run it.
func (c Canary) runs(pod string) bool { return slices.Contains(c.Pods, pod) }

// takesCanaries reports whether single pods of a workload are to run the revision in force
// first.
func (p *Plan) takesCanaries(s *State, w *Workload) bool {
	return *p.Rollout.Step <= 1 && s.Strategy.CanaryPods > 0 && w.sidecars() > s.Strategy.CanaryPods && p.isStaged(s, w)
}

// canaries returns those of a workload: the ones that it has, if any of them is left, or
// others, which run what they are to run.
func (p *Plan) canaries(s *State, w *Workload) Canary {
	has := w.was.Canary
	left := slices.ContainsFunc(w.pods, func(pod Pod) bool { return has.runs(pod.Name) }) || slices.ContainsFunc(w.unready, func(pod Unready) bool { return has.runs(pod.Name) })
	if has.Revision == p.InForce.Hash && left {
		return has
	}
	chosen := Canary{Revision: p.InForce.Hash, Since: s.Now}
	for _, proven := range []bool{true, false} {
		for _, pod := range w.pods {
			runs := w.Holds == nil || pod.Seen.On(w.plugin(w.Holds)).Proven()
			if pod.Sidecar && runs == proven && len(chosen.Pods) < s.Strategy.CanaryPods {
				chosen.Pods = append(chosen.Pods, pod.Name)
			}
		}
	}
	return chosen
}

// inCanaries is where a canary's failure was: workload, pods, failure.
const inCanaries = "%s, in the pods that ran it first (%s): %s"

// judgeCanaries looks at the pods that run the revision since an earlier pass.
func (p *Plan) judgeCanaries(s *State) judgement {
	var found judgement
	for i := range p.Workloads {
		w := &p.Workloads[i]
		if !p.takesCanaries(s, w) {
			continue
		}
		canary := p.canaries(s, w)
		if has := w.was.Canary; has.Revision != canary.Revision || !has.Since.Equal(canary.Since) {
			found.loading = true
			continue
		}
		plugin := render.CanaryPluginName(w.owner, w.Target, p.InForce.Hash)
		proofs := filtered(w.proofsOf(plugin, s.Now.Sub(canary.Since), s.Now), func(proof Proof) bool { return canary.runs(proof.name) })
		if len(proofs) == 0 {
			gone := filtered(w.unready, func(pod Unready) bool { return canary.runs(pod.Name) })
			p.judgeUnready(s, w, canary.Since, gone, ", where it was tried in single pods", &found)
			continue
		}
		found.pods += len(proofs)
		v := loadedVerdict(proofs, p.InForce.OutputKind())
		switch {
		case p.undecided(v, proofs):
			found.loading = true
		case slices.Contains(BadReasons, v.Reason) || p.silenced(v, proofs):
			found.blame(v.Reason, inCanaries, w.Key(), strings.Join(canary.Pods, ", "), v.Message)
		default:
			p.judgeTraffic(s, w, canary, &found)
		}
	}
	return found
}
