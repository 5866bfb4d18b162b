package moduletest

import (
	"archive/tar"
	"bytes"
	"fmt"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// TarFile is a regular file of an archive.
type TarFile struct {
	header  tar.Header
	content []byte
}

// File returns a regular file for Archive.
func File(name string, content []byte) TarFile {
	return TarFile{tar.Header{Name: name, Mode: 0o644, Size: int64(len(content)), Typeflag: tar.TypeReg}, content}
}

// Archive returns a tar archive of entries: TarFiles, and tar.Headers without content.
func Archive(entries ...any) []byte {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, entry := range entries {
		switch entry := entry.(type) {
		case TarFile:
			must(w.WriteHeader(&entry.header))
			_, err := w.Write(entry.content)
			must(err)
		case tar.Header:
			must(w.WriteHeader(&entry))
		default:
			panic(fmt.Sprintf("%T is no entry of an archive", entry))
		}
	}
	must(w.Close())
	return out.Bytes()
}

// Header returns the block of one tar header.
func Header(h tar.Header) []byte {
	var out bytes.Buffer
	must(tar.NewWriter(&out).WriteHeader(&h))
	return out.Bytes()
}

// Gzip returns content packed with gzip.
func Gzip(content []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, err := w.Write(content)
	must(err)
	must(w.Close())
	return out.Bytes()
}

// Zstd returns content packed with zstd.
func Zstd(content []byte) []byte {
	w, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	must(err)
	return w.EncodeAll(content, nil)
}

// ZstdWindow returns a zstd stream that asks for a window of that size.
func ZstdWindow(size int) []byte {
	var out bytes.Buffer
	w, err := zstd.NewWriter(&out, zstd.WithWindowSize(size), zstd.WithEncoderConcurrency(1))
	must(err)
	for range 3 {
		_, err = w.Write(bytes.Repeat([]byte("text"), 1<<18))
		must(err)
		must(w.Flush())
	}
	must(w.Close())
	return out.Bytes()
}

// Bomb returns first, packed, and then content, packed, a thousand times: gzip and
// zstd streams may consist of repeated members.
func Bomb(pack func([]byte) []byte, first, content []byte) []byte {
	return append(pack(first), bytes.Repeat(pack(content), 1000)...)
}

// RuntimeConfig returns a runtime configuration as wasme writes it.
func RuntimeConfig(rootIDs ...string) []byte {
	return fmt.Appendf(nil, `{"type":"envoy_proxy","abiVersions":["v0"],"config":{"rootIds":["%s"]}}`, strings.Join(rootIDs, `","`))
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
