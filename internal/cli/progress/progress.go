// Package progress shows on a terminal how far a transfer is, and nothing where there is
// no terminal.
package progress

import (
	"io"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// Bar is a progress bar.
type Bar struct {
	bar *progressbar.ProgressBar
}

// Start shows a bar with that name where out is a terminal. End takes it away.
func Start(out io.Writer, name string) *Bar {
	file, _ := out.(*os.File)
	visible := file != nil && term.IsTerminal(int(file.Fd()))
	return &Bar{
		bar: progressbar.NewOptions64(-1,
			progressbar.OptionSetWriter(out), progressbar.OptionSetVisibility(visible),
			progressbar.OptionSetDescription(name), progressbar.OptionShowBytes(true),
			progressbar.OptionClearOnFinish(), progressbar.OptionFullWidth()),
	}
}

// Updates returns the channel on which a push tells how far it is; the push closes it.
func (b *Bar) Updates() chan v1.Update {
	updates := make(chan v1.Update)
	go func() {
		for update := range updates {
			b.bar.ChangeMax64(update.Total)
			_ = b.bar.Set64(update.Complete) // only shown
		}
	}()
	return updates
}

// Image returns an image whose layers count when they are read.
func (b *Bar) Image(of v1.Image) v1.Image { return &watchedImage{of, b} }

type watchedImage struct {
	v1.Image
	bar *Bar
}

// Layers implements v1.Image.
func (w *watchedImage) Layers() ([]v1.Layer, error) {
	layers, err := w.Image.Layers()
	for i, layer := range layers {
		layers[i] = &watchedLayer{layer, w.bar}
	}
	return layers, err
}

type watchedLayer struct {
	v1.Layer
	bar *Bar
}

// Compressed implements v1.Layer.
func (w *watchedLayer) Compressed() (io.ReadCloser, error) {
	content, err := w.Layer.Compressed()
	if err != nil {
		return nil, err
	}
	if size, err := w.Size(); err == nil {
		w.bar.bar.AddMax64(size)
	}
	return &watchedContent{content, w.bar}, nil
}

type watchedContent struct {
	io.ReadCloser
	bar *Bar
}

// Read implements io.Reader.
func (w *watchedContent) Read(p []byte) (int, error) {
	n, err := w.ReadCloser.Read(p)
	_ = w.bar.bar.Add(n) // only shown
	return n, err
}

// End takes the bar away.
func (b *Bar) End() {
	_ = b.bar.Finish() // only shown
}
