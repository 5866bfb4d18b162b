package render

import (
	"testing"

	. "github.com/onsi/gomega"
)

func TestTheFingerprintIsThatOfTheMesh(t *testing.T) {
	g := NewWithT(t)
	g.Expect(testMesh.Fingerprint()).To(HaveLen(fingerprintLength))
	g.Expect(testMesh.Fingerprint()).To(Equal(testMesh.Fingerprint()))
	for name, change := range map[string]func(*Mesh){
		"cluster":       func(m *Mesh) { m.ClusterID = "another" },
		"module server": func(m *Mesh) { m.ModuleServerURL += "2" },
	} {
		other := testMesh
		change(&other)
		g.Expect(other.Fingerprint()).NotTo(Equal(testMesh.Fingerprint()), name)
	}
}

func TestEachSampleIsAnOutput(t *testing.T) {
	for _, s := range samples() {
		rendered := 0
		for _, spec := range s.render(testMesh) {
			if spec[0] == '{' {
				rendered++
			}
		}
		if rendered < 2 {
			t.Errorf("%+v is %d outputs", s, rendered)
		}
	}
}
