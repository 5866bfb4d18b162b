// Package pull reads modules from image registries and web servers into a
// store, within limits.
//
// A Request says where a module is and how it is reached (request.go); its
// Credential comes from a pull Secret (credential.go). A Client opens requests:
// OpenImage gives an Image (image.go), OpenURL gives a URL (url.go). Neither
// connects to anything before it is asked to. A server that limits requests says for
// how long (limit.go); Clients do not retry.
//
// Whatever a registry sends is hostile until its digest is checked. No
// connection reaches a denied network, whatever name or redirect leads there
// (dial.go), redirects and bodies are bounded (guard.go), and errors are told in
// our words, never in the remote's (classify.go).
package pull
