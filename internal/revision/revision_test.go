package revision_test

import (
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/ownership"
	"github.com/wasme-io/wasme-operator/internal/render"
	"github.com/wasme-io/wasme-operator/internal/revision"
)

var (
	fd    = &wasmev1.FilterDeployment{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "f", UID: "u"}}
	owner = types.NamespacedName{Namespace: "n", Name: "f"}
)

// moduleOf returns a module whose digest has this digit only.
func moduleOf(digit string) wasmev1.ModuleStatus {
	return wasmev1.ModuleStatus{
		Reference: "registry/f:v" + digit, SHA256: strings.Repeat(digit, 64), SizeBytes: new(int64(7)),
		ManifestDigest: "sha256:" + strings.Repeat(digit, 64),
	}
}

// contentOf returns a content whose image and module have this digit.
func contentOf(digit string) revision.Content {
	return revision.Content{Filter: wasmev1.FilterSpec{Image: "registry/f:v" + digit, RootID: "r"}, Module: moduleOf(digit)}
}

func revisionOf(t *testing.T, content revision.Content) revision.Revision {
	t.Helper()
	made, err := revision.New(owner, content)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// kept returns a content as it is kept beside a history.
func kept(t *testing.T, content revision.Content, history ...revision.Revision) revision.Revision {
	t.Helper()
	object, err := revision.Desired(fd, revisionOf(t, content), history)
	if err != nil {
		t.Fatal(err)
	}
	known, err := revision.Decode(object)
	if err != nil {
		t.Fatal(err)
	}
	return known
}

// historyOf returns the history of contents that were kept one after the other,
// the newest first.
func historyOf(t *testing.T, contents ...revision.Content) []revision.Revision {
	t.Helper()
	var history []revision.Revision
	for _, content := range contents {
		history = append([]revision.Revision{kept(t, content, history...)}, history...)
	}
	return history
}

func TestNewHashesWhatProxiesSee(t *testing.T) {
	g := NewWithT(t)
	made := revisionOf(t, contentOf("1"))
	filter, err := render.NewFilter(owner, contentOf("1").Filter, "", moduleOf("1"))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(made).To(Equal(revision.Revision{Content: contentOf("1"), Rendered: filter, Hash: filter.Revision(), Digest: filter.Digest()}))
	sameToProxies := contentOf("1")
	sameToProxies.Filter.Image, sameToProxies.Output = "registry/f:latest", wasmev1.OutputWasmPlugin
	g.Expect(revisionOf(t, sameToProxies).Hash).To(Equal(made.Hash))
	g.Expect(revisionOf(t, contentOf("2")).Hash).NotTo(Equal(made.Hash))
	pulled := contentOf("1")
	pulled.Distribution = wasmev1.DistributionRegistry
	g.Expect(revisionOf(t, pulled).Hash).NotTo(Equal(made.Hash))
}

func TestAHashIsThatOfOneRevision(t *testing.T) {
	g := NewWithT(t)
	history := historyOf(t, contentOf("1"), contentOf("2"))
	asked := revisionOf(t, contentOf("1"))
	g.Expect(revision.CheckUnique(history, asked)).To(Succeed(), "it was asked for before")
	made := revisionOf(t, contentOf("3"))
	g.Expect(revision.CheckUnique(history, made)).To(Succeed())
	made.Hash = asked.Hash // as after some billions of tries
	g.Expect(revision.CheckUnique(history, made)).To(MatchError("another revision of this FilterDeployment has the hash " + asked.Hash + ", too: change anything in spec.filter.config"))
}

func TestNewReportsTheFieldThatIsWrong(t *testing.T) {
	g := NewWithT(t)
	content := contentOf("1")
	content.Filter.RootID = ""
	made, err := revision.New(owner, content)
	g.Expect(err).To(MatchError(render.ErrRootIDMissing))
	g.Expect(made).To(Equal(revision.Revision{}))
}

func TestOutputKind(t *testing.T) {
	g := NewWithT(t)
	g.Expect(revision.Content{}.OutputKind()).To(Equal(wasmev1.OutputEnvoyFilter))
	g.Expect(revision.Content{Output: wasmev1.OutputWasmPlugin}.OutputKind()).To(Equal(wasmev1.OutputWasmPlugin))
}

func TestDecodeReadsWhatDesiredKeeps(t *testing.T) {
	g := NewWithT(t)
	content := contentOf("1")
	content.Output, content.Distribution = wasmev1.OutputTrafficExtension, wasmev1.DistributionRegistry
	asked := revisionOf(t, content)
	object, err := revision.Desired(fd, asked, nil)
	g.Expect(err).NotTo(HaveOccurred())
	known, err := revision.Decode(object)
	g.Expect(err).NotTo(HaveOccurred())
	asked.Object = object
	g.Expect(known).To(Equal(asked))
}

func TestDecodeRefuses(t *testing.T) {
	for _, row := range []struct{ name, data, want string }{
		{"what is malformed", `{"filter":`, "unexpected end of JSON input"},
		{"what is empty", ``, "unexpected end of JSON input"},
		{"what has another form", `{"filter": 7}`, "cannot unmarshal number"},
		{"no content", `{}`, "it names no module"},
		{"a module without digest", `{"filter": {"rootID": "r"}, "module": {"sizeBytes": 7}}`, "it names no module"},
		{"a module without size", `{"filter": {"rootID": "r"}, "module": {"sha256": "1"}}`, "it names no module"},
		{"a filter that cannot be", `{"filter": {"rootID": "r", "patchContext": "sideways"}, "module": {"sha256": "1", "sizeBytes": 7}}`, "spec.filter.patchContext"},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := NewWithT(t)
			known, err := revision.Decode(&appsv1.ControllerRevision{
				ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "f-1"}, Data: runtime.RawExtension{Raw: []byte(row.data)},
			})
			g.Expect(err).To(MatchError(And(HavePrefix("reading ControllerRevision f-1: "), ContainSubstring(row.want))))
			g.Expect(known).To(Equal(revision.Revision{}))
		})
	}
	t.Run("nothing with a module of no bytes", func(t *testing.T) {
		_, err := revision.Decode(&appsv1.ControllerRevision{Data: runtime.RawExtension{
			Raw: []byte(`{"filter": {"rootID": "r"}, "module": {"sha256": "1", "sizeBytes": 0}}`),
		}})
		NewWithT(t).Expect(err).NotTo(HaveOccurred())
	})
}

func TestSortNewestFirst(t *testing.T) {
	object := func(name string, number, created int64) revision.Revision {
		return revision.Revision{Object: &appsv1.ControllerRevision{
			ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.Unix(created, 0)}, Revision: number,
		}}
	}
	history := []revision.Revision{
		object("first", 1, 500), object("b", 2, 100), object("a", 2, 100), object("younger", 2, 200), object("tenth", 10, 50),
	}
	revision.SortNewestFirst(history)
	var names []string
	for _, known := range history {
		names = append(names, known.Object.Name)
	}
	NewWithT(t).Expect(names).To(Equal([]string{"tenth", "younger", "a", "b", "first"}))
}

func TestNewest(t *testing.T) {
	g := NewWithT(t)
	g.Expect(revision.Newest(nil)).To(BeNil())
	history := historyOf(t, contentOf("1"), contentOf("2"))
	g.Expect(revision.Newest(history)).To(BeIdenticalTo(&history[0]))
	g.Expect(history[0].Module).To(Equal(moduleOf("2")))
}

func TestDesiredMarksTheFirst(t *testing.T) {
	g := NewWithT(t)
	asked := revisionOf(t, contentOf("1"))
	object, err := revision.Desired(fd, asked, nil)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(object.Namespace).To(Equal("n"))
	g.Expect(object.Name).To(MatchRegexp("^f-[0-9a-f]{8}$"))
	g.Expect(object.Revision).To(Equal(int64(1)))
	g.Expect(object.Annotations).To(HaveKeyWithValue("wasme.io/revision", asked.Hash))
	g.Expect(ownership.Of(object, fd)).To(Equal(ownership.Ours))
}

func TestDesiredReportsAContentThatIsNoJSON(t *testing.T) {
	g := NewWithT(t)
	asked := revisionOf(t, contentOf("1"))
	asked.Filter.Config = &wasmev1.Configuration{Raw: []byte(`{`)}
	object, err := revision.Desired(fd, asked, nil)
	g.Expect(err).To(MatchError(HavePrefix("encoding the revision: ")))
	g.Expect(object).To(BeNil())
}

func TestDesiredIs(t *testing.T) {
	history := historyOf(t, contentOf("1"), contentOf("2"))
	for _, row := range []struct {
		name    string
		content revision.Content
		number  int64
		// known is the place of the same content in the history; -1 for none.
		known int
	}{
		{"a new one for a new content", contentOf("3"), 3, -1},
		{"the newest while that is asked for", contentOf("2"), 2, 0},
		{"an older one, which becomes the newest", contentOf("1"), 3, 1},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := NewWithT(t)
			for i := range history {
				history[i].Object.ResourceVersion = "kept"
			}
			object, err := revision.Desired(fd, revisionOf(t, row.content), history)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(object.Revision).To(Equal(row.number))
			if row.known < 0 {
				g.Expect(object.ResourceVersion).To(BeEmpty())
				g.Expect([]string{history[0].Object.Name, history[1].Object.Name}).NotTo(ContainElement(object.Name))
				return
			}
			want := history[row.known].Object.DeepCopy()
			want.Revision = row.number
			g.Expect(object).To(Equal(want))
			g.Expect(object).NotTo(BeIdenticalTo(history[row.known].Object), "the cache's object stays as it is")
			g.Expect([]int64{history[0].Object.Revision, history[1].Object.Revision}).To(Equal([]int64{2, 1}))
		})
	}
}

func TestDesiredTellsContentsApartThatAreTheSameToProxies(t *testing.T) {
	g := NewWithT(t)
	byTag, byLatest := contentOf("1"), contentOf("1")
	byLatest.Filter.Image = "registry/f:latest"
	history := historyOf(t, byTag, byLatest)
	g.Expect(history[0].Hash).To(Equal(history[1].Hash))
	g.Expect(history[0].Object.Name).NotTo(Equal(history[1].Object.Name))
	g.Expect(history[0].Object.Revision).To(Equal(int64(2)))
}

func TestObsolete(t *testing.T) {
	same := contentOf("1") // to proxies the same as the first
	same.Filter.Image = "registry/f:same"
	for _, row := range []struct {
		name     string
		contents []revision.Content
		// held are the digits of the modules that outputs hold, obsolete the images.
		held, obsolete []string
	}{
		{"none of a short history", []revision.Content{contentOf("1"), contentOf("2"), contentOf("3")}, nil, nil},
		{"those before the last three", []revision.Content{contentOf("1"), contentOf("2"), contentOf("3"), contentOf("4"), contentOf("5")}, nil, []string{"registry/f:v2", "registry/f:v1"}},
		{"none that an output holds", []revision.Content{contentOf("1"), contentOf("2"), contentOf("3"), contentOf("4"), contentOf("5")}, []string{"1", "5"}, []string{"registry/f:v2"}},
		{"the older of two that are the same to proxies", []revision.Content{contentOf("1"), same, contentOf("3"), contentOf("4"), contentOf("5")}, []string{"1"}, []string{"registry/f:v1"}},
		{"one whose content is held by a recent one", []revision.Content{contentOf("1"), contentOf("3"), contentOf("4"), same}, []string{"1"}, []string{"registry/f:v1"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := NewWithT(t)
			held := sets.New[string]()
			for _, digit := range row.held {
				held.Insert(revisionOf(t, contentOf(digit)).Hash)
			}
			before := held.Clone()
			var images []string
			for _, known := range revision.Obsolete(historyOf(t, row.contents...), held) {
				images = append(images, known.Filter.Image)
			}
			g.Expect(images).To(Equal(row.obsolete))
			g.Expect(held).To(Equal(before), "what outputs hold stays as it is")
		})
	}
}

func TestSource(t *testing.T) {
	for _, row := range []struct {
		name   string
		filter wasmev1.FilterSpec
		want   string
	}{
		{"an image", wasmev1.FilterSpec{Image: "registry/f:v1"}, "registry/f:v1"},
		{"a URL", wasmev1.FilterSpec{URL: "https://web/f.wasm"}, "https://web/f.wasm"},
		{"a ConfigMap", wasmev1.FilterSpec{ConfigMap: &wasmev1.ConfigMapKey{Name: "c", Key: "k"}}, "configmap/c/k"},
		{"nothing", wasmev1.FilterSpec{}, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			if got := revision.Source(row.filter); got != row.want {
				t.Errorf("got %q, want %q", got, row.want)
			}
		})
	}
}

func TestPinned(t *testing.T) {
	filter := func(image string, policy wasmev1.ImagePullPolicy) wasmev1.FilterSpec {
		return wasmev1.FilterSpec{Image: image, ImagePullPolicy: policy, ImagePullOptions: &wasmev1.ImagePullOptions{PullSecret: "new"}}
	}
	content := func(image, digit string) revision.Content {
		content := contentOf(digit)
		content.Filter.Image = image
		return content
	}
	url := content("", "3")
	url.Filter.URL, url.Filter.SHA256, url.Module.ManifestDigest = "https://web/f.wasm", strings.Repeat("3", 64), ""
	const latest = "example.com/f:latest"
	for _, row := range []struct {
		name     string
		contents []revision.Content
		asked    wasmev1.FilterSpec
		// want is the digit of the digest; empty when the tag is looked up.
		want string
	}{
		{"nothing without a history", nil, filter(latest, wasmev1.PullIfNotPresent), ""},
		{"the newest of the image", []revision.Content{content(latest, "1"), content(latest, "2"), contentOf("4"), url}, filter(latest, wasmev1.PullIfNotPresent), "2"},
		{"nothing of another tag", []revision.Content{content("example.com/f:v1", "1")}, filter(latest, wasmev1.PullIfNotPresent), ""},
		{"nothing with Always", []revision.Content{content(latest, "1")}, filter(latest, wasmev1.PullAlways), ""},
		{"nothing by default", []revision.Content{content(latest, "1")}, filter(latest, ""), ""},
		{"nothing of what is no reference", nil, filter("No Image", wasmev1.PullIfNotPresent), ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			want := row.asked.Image
			if row.want != "" {
				want = "example.com/f@sha256:" + strings.Repeat(row.want, 64)
			}
			if got := revision.Pinned(historyOf(t, row.contents...), row.asked); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

func TestAPolicyMakesNoOtherRevision(t *testing.T) {
	g := NewWithT(t)
	pinned := contentOf("1")
	pinned.Filter.ImagePullPolicy = wasmev1.PullIfNotPresent
	g.Expect(revisionOf(t, pinned)).To(Equal(revisionOf(t, contentOf("1"))))
}

func TestResolvedBefore(t *testing.T) {
	image := func(digit string, change func(*revision.Content)) revision.Content {
		content := contentOf(digit)
		content.Filter.Image = "registry/f:latest"
		if change != nil {
			change(&content)
		}
		return content
	}
	url := func(digest string) revision.Content {
		content := contentOf("3")
		content.Filter.Image, content.Filter.URL, content.Filter.SHA256 = "", "https://web/f.wasm", digest
		return content
	}
	secret := func(c *revision.Content) { c.Filter.ImagePullOptions = &wasmev1.ImagePullOptions{PullSecret: "s"} }
	digest := func(c *revision.Content) { c.Filter.SHA256 = strings.Repeat("1", 64) }
	pulled := func(c *revision.Content) { c.Distribution = wasmev1.DistributionRegistry }
	digest3 := moduleOf("3").SHA256
	for _, row := range []struct {
		name         string
		contents     []revision.Content
		asked        wasmev1.FilterSpec
		distribution wasmev1.Distribution
		unusable     string
		// want is the digit of the module; empty for none.
		want string
	}{
		{"none in no history", nil, image("1", nil).Filter, "", "", ""},
		{"the newest of the source", []revision.Content{image("1", nil), image("2", nil), contentOf("4")}, image("1", nil).Filter, "", "", "2"},
		{"none of another image", []revision.Content{contentOf("1")}, contentOf("2").Filter, "", "", ""},
		{"none with other pull options", []revision.Content{image("1", secret)}, image("1", nil).Filter, "", "", ""},
		{"one with the same pull options", []revision.Content{image("1", secret)}, image("1", secret).Filter, "", "", "1"},
		{"an image without its digest", []revision.Content{image("1", digest)}, image("1", nil).Filter, "", "", "1"},
		{"an older one whose module is usable", []revision.Content{image("1", nil), image("2", nil)}, image("1", nil).Filter, "", "2", "1"},
		{"a URL of that digest", []revision.Content{url(digest3)}, url(digest3).Filter, "", "", "3"},
		{"no URL of another digest", []revision.Content{url(digest3)}, url("0").Filter, "", "", ""},
		{"only one that proxies pulled where they are to", []revision.Content{image("1", pulled), image("2", nil)}, image("1", nil).Filter, wasmev1.DistributionRegistry, "", "1"},
		{"none that the operator served where proxies are to pull", []revision.Content{image("2", nil)}, image("1", nil).Filter, wasmev1.DistributionRegistry, "", ""},
		{"one that proxies pulled where the operator serves", []revision.Content{image("1", pulled)}, image("1", nil).Filter, wasmev1.DistributionServed, "", "1"},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := NewWithT(t)
			history := historyOf(t, row.contents...)
			usable := func(module wasmev1.ModuleStatus) bool { return row.unusable == "" || module.SHA256[:1] != row.unusable }
			found := revision.ResolvedBefore(history, row.asked, row.distribution, usable)
			if row.want == "" {
				g.Expect(found).To(BeNil())
				return
			}
			g.Expect(found).NotTo(BeNil())
			g.Expect(found.Module.SHA256[:1]).To(Equal(row.want))
			places := 0
			for i := range history {
				if found == &history[i] {
					places++
				}
			}
			g.Expect(places).To(Equal(1), "it is part of the history")
		})
	}
}
