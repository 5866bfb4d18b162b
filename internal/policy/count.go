package policy

import (
	"crypto/x509"
	"slices"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

// proven is that a key or an identity has signed, which counts for one signer.
type proven struct {
	// by is the key, or the issuer and the subject.
	by   string
	form wasmev1.SignatureForm
}

// countAnyOf returns how many of anyOf have signed, each with a key or an identity of its
// own, and notes who. One that several entries describe counts for the entry for which
// most are counted (the largest matching of entries and what has signed).
func (r imageRule) countAnyOf(shown evidence, found *Judgement) int {
	signed := make([][]proven, len(r.anyOf))
	for i, one := range r.anyOf {
		signed[i] = one.proofs(shown)
	}
	entryOf := map[string]int{}
	for entry := range r.anyOf {
		assign(signed, entryOf, entry, map[string]bool{})
	}
	for entry, one := range r.anyOf {
		for _, proof := range signed[entry] {
			if assigned, is := entryOf[proof.by]; is && assigned == entry {
				found.note(one, proof.form)
			}
		}
	}
	return len(entryOf)
}

// assign finds a key or identity for an entry, and another one for the entry that had it.
func assign(signed [][]proven, entryOf map[string]int, entry int, tried map[string]bool) bool {
	for _, proof := range signed[entry] {
		if tried[proof.by] {
			continue
		}
		tried[proof.by] = true
		if former, taken := entryOf[proof.by]; !taken || assign(signed, entryOf, former, tried) {
			entryOf[proof.by] = entry
			return true
		}
	}
	return false
}

// proofs returns the keys or identities of a signer that have signed, each once.
func (s signer) proofs(shown evidence) []proven {
	var all []proven
	for _, one := range shown.claims {
		form, signed := s.made(one, shown.image)
		if !signed {
			continue
		}
		by := one.who.Issuer + " " + one.who.Subject
		if s.key != nil {
			der, _ := x509.MarshalPKIXPublicKey(s.key) // as it was parsed
			by = string(der)
		}
		if !slices.ContainsFunc(all, func(p proven) bool { return p.by == by }) {
			all = append(all, proven{by, form})
		}
	}
	return all
}
