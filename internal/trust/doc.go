// Package trust verifies the signatures of images, as cosign and GitHub write them: who
// has signed the image with this digest. It knows no registry and no network.
//
//	signature.go  what a registry has beside an image, read into signatures
//	verify.go     whether a signature is for an image, and whose it is
//	roots.go      trusted roots of Sigstore instances
//
// A signature has one of these forms:
//
//   - A manifest whose layers are in cosign's simple signing format, with the signature in
//     the layer's annotations, under the tag sha256-<digest>.sig or as a referrer.
//     https://github.com/sigstore/cosign/blob/main/specs/SIGNATURE_SPEC.md
//   - A Sigstore bundle with an in-toto statement about the image, as a referrer (OCI 1.1)
//     or in the index under the referrers' fallback tag. cosign 3 signs so, and GitHub's
//     attestations are of this form.
//     https://github.com/sigstore/cosign/blob/main/specs/BUNDLE_SPEC.md
package trust
