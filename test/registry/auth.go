// Licensed under the Apache License, Version 2.0; see LICENSE.

package registry

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// tokenPath is where the registry hands out tokens unless WithTokenRealm says otherwise.
const tokenPath = "/token"

type auth struct {
	scheme  string              // "", "Basic" or "Bearer"
	users   map[string]string   // name to password
	private map[string][]string // repository to the users who may read it
	realm   string              // of the token server; empty: this registry
	tokens  map[string]string   // token to user
}

// WithBasicAuth makes the registry refuse everyone but these users, named with
// their passwords, by HTTP basic authentication.
func WithBasicAuth(users map[string]string) Option {
	return func(r *Registry) { r.auth.scheme, r.auth.users = "Basic", users }
}

// WithBearerAuth makes the registry ask for a token, which it hands to these
// users, named with their passwords, at its own /token.
func WithBearerAuth(users map[string]string) Option {
	return func(r *Registry) { r.auth.scheme, r.auth.users = "Bearer", users }
}

// WithTokenRealm makes a registry WithBearerAuth send its clients to this URL
// for tokens instead of its own /token: for clients that must refuse to go there.
func WithTokenRealm(url string) Option {
	return func(r *Registry) { r.auth.realm = url }
}

// Restrict allows only these users to reach a repository. Without a call, every
// user the registry knows may.
func (r *Registry) Restrict(repository string, users ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.auth.private[repository] = users
}

// SetPassword adds a user or changes its password; tokens handed out before stay valid.
func (r *Registry) SetPassword(user, password string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.auth.users == nil {
		r.auth.users = map[string]string{}
	}
	r.auth.users[user] = password
}

// ExpireTokens makes the tokens handed out before invalid.
func (r *Registry) ExpireTokens() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.auth.tokens)
}

// authenticate wraps the registry in the check that its options ask for.
func (r *Registry) authenticate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		scheme := r.auth.scheme
		user, known := r.user(req)
		allowed := known && r.mayRead(user, req.URL.Path)
		r.mu.Unlock()
		switch {
		case scheme == "":
			next.ServeHTTP(w, req)
		case scheme == "Bearer" && req.URL.Path == tokenPath:
			r.handOutToken(w, req)
		case !known:
			w.Header().Set("WWW-Authenticate", r.challenge(req))
			refuse(w, http.StatusUnauthorized, "UNAUTHORIZED")
		case !allowed:
			refuse(w, http.StatusForbidden, "DENIED")
		default:
			next.ServeHTTP(w, req)
		}
	})
}

// user names who sends a request; the caller holds the lock.
func (r *Registry) user(req *http.Request) (string, bool) {
	if r.auth.scheme == "Bearer" && req.URL.Path != tokenPath {
		token, _ := strings.CutPrefix(req.Header.Get("Authorization"), "Bearer ")
		user, known := r.auth.tokens[token]
		return user, known
	}
	user, password, given := req.BasicAuth()
	expected, known := r.auth.users[user]
	return user, given && known && password == expected
}

// mayRead reports whether a user may reach a path; the caller holds the lock.
func (r *Registry) mayRead(user, path string) bool {
	for repository, users := range r.auth.private {
		if strings.HasPrefix(path, "/v2/"+repository+"/") && !slices.Contains(users, user) {
			return false
		}
	}
	return true
}

func (r *Registry) challenge(req *http.Request) string {
	if r.auth.scheme == "Basic" {
		return `Basic realm="registry"`
	}
	realm := r.auth.realm
	if realm == "" {
		realm = r.URL() + tokenPath
	}
	challenge := fmt.Sprintf("Bearer realm=%q,service=%q", realm, r.address)
	if repository := repositoryOf(req.URL.Path); repository != "" {
		challenge += fmt.Sprintf(",scope=%q", "repository:"+repository+":pull")
	}
	return challenge
}

// repositoryOf cuts the repository out of /v2/<repository>/(manifests|blobs|tags)/...
func repositoryOf(path string) string {
	rest, _ := strings.CutPrefix(path, "/v2/")
	for _, kind := range []string{"/manifests/", "/blobs/", "/tags/"} {
		if repository, _, found := strings.Cut(rest, kind); found {
			return repository
		}
	}
	return ""
}

// handOutToken answers a token server's request; credentials decide whose token it is.
func (r *Registry) handOutToken(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	user, known := r.user(req)
	token := rand.Text()
	if known {
		r.auth.tokens[token] = user
	}
	r.mu.Unlock()
	if !known {
		refuse(w, http.StatusUnauthorized, "UNAUTHORIZED")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"token": token, "expires_in": 300}) // the client is gone: there is no one to tell
}

// refuse answers in the error format of the OCI distribution specification.
func refuse(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{ // as above
		"errors": []map[string]string{{"code": code, "message": http.StatusText(status)}},
	})
}
