package module

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

// The preamble of a core module and of a component, and the numbers of the
// export section, as in the WebAssembly core specification (5.5, binary
// modules) and the component model's binary format.
var (
	corePreamble      = []byte("\x00asm\x01\x00\x00\x00")
	componentPreamble = []byte("\x00asm\x0d\x00\x01\x00")
)

// section is a kind of section: its id, and what a module has there.
type section struct {
	id   byte
	what string
}

var (
	importSection = section{2, "imports"}
	exportSection = section{7, "exports"}
	codeSection   = section{10, "code"}
)

// customSection is the id of the sections that may be anywhere, any number of times.
const customSection = 0

// sectionOrder are the ids of all other sections, in the only order that a module may
// have them in, each at most once (5.5.17). Engines turn other modules down.
const sectionOrder = "\x01\x02\x03\x04\x05\x0d\x06\x07\x08\x09\x0c\x0a\x0b"

const (
	exportedFunc = 0
	maxExports   = 100_000
	maxName      = 64 << 10
)

// abiPrefix begins the name of the function by which a module says which
// version of the proxy-wasm ABI it speaks: proxy_abi_version_0_2_1.
const abiPrefix = "proxy_abi_version_"

// knownABIs are the versions that Envoy's host knows.
var knownABIs = []string{"0.1.0", "0.2.0", "0.2.1"}

// Inspect checks that r holds a Wasm module of size bytes that is built for
// proxy-wasm, and returns the ABI versions that it exports. It reads the
// sections' headers and the export section, nothing else: whether the rest is
// valid shows when the module runs. The error is an *Error with the reason
// InvalidModule, unless the file cannot be read.
func Inspect(r io.ReaderAt, size int64) ([]string, error) {
	versions, err := readABIs(r, size)
	slices.Sort(versions)
	return slices.Compact(versions), err
}

// readABIs returns the ABI versions that a module exports, in the order of its exports.
func readABIs(r io.ReaderAt, size int64) ([]string, error) {
	var names []string
	err := readSection(r, size, exportSection, func(content *bufio.Reader) (err error) {
		names, err = exportedFuncs(content)
		return err
	})
	if err != nil {
		return nil, err
	}
	return abiVersions(names)
}

// HasPreamble reports whether r begins as a core module does.
func HasPreamble(r io.ReaderAt) bool { return checkPreamble(r) == nil }

func checkPreamble(r io.ReaderAt) error {
	head := make([]byte, len(corePreamble))
	n, err := r.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("reading the module: %w", err)
	}
	switch head = head[:n]; {
	case bytes.Equal(head, corePreamble):
		return nil
	case bytes.Equal(head, componentPreamble):
		return Terminal(wasmev1.ReasonInvalidModule, "the module is a component (component model), which proxies do not run: build it as a core module for proxy-wasm")
	case bytes.HasPrefix(head, corePreamble[:4]):
		return Terminal(wasmev1.ReasonInvalidModule, "the module is Wasm of an unknown version: build it as version 1")
	}
	return Terminal(wasmev1.ReasonInvalidModule, "the content is not a Wasm module: it does not begin with \\0asm")
}

// readSection has read the content of a section, all of it, if the module has that
// section. An engine that takes the same bytes for something else would not end at the
// same place. The error is as that of Inspect.
func readSection(r io.ReaderAt, size int64, wanted section, read func(*bufio.Reader) error) error {
	if err := checkPreamble(r); err != nil {
		return err
	}
	found, err := findSection(io.NewSectionReader(r, int64(len(corePreamble)), size-int64(len(corePreamble))), wanted.id)
	if err != nil {
		return unreadable("sections", err)
	}
	if found == nil {
		return nil
	}
	content := bufio.NewReader(found)
	if err = read(content); err == nil {
		err = atEnd(content)
	}
	if err != nil {
		return unreadable(wanted.what, err)
	}
	return nil
}

// unreadable tells a module that is broken from one whose file cannot be read.
func unreadable(what string, err error) error {
	if _, file := errors.AsType[*fs.PathError](err); file {
		return fmt.Errorf("reading the module: %w", err)
	}
	return Terminal(wasmev1.ReasonInvalidModule, "reading the module's %s: %v: build the module again", what, err)
}

// maxSections is far more than compilers write, custom ones included.
const maxSections = 10_000

// findSection returns the content of the section with that id; nil when there is none.
func findSection(r *io.SectionReader, id byte) (*io.SectionReader, error) {
	var found *io.SectionReader
	var offset int64
	last := -1
	for count := 0; offset < r.Size(); count++ {
		if count == maxSections {
			return nil, errors.New("there are too many")
		}
		head := bufio.NewReaderSize(io.NewSectionReader(r, offset, 1+binary.MaxVarintLen32), 16)
		got, err := head.ReadByte()
		if err != nil {
			return nil, err
		}
		size, width, err := readU32(head)
		if err != nil {
			return nil, err
		}
		if last, err = follows(last, got); err != nil {
			return nil, err
		}
		start := offset + 1 + int64(width)
		if int64(size) > r.Size()-start {
			return nil, errors.New("a section is longer than the module")
		}
		if got == id {
			found = io.NewSectionReader(r, start, int64(size))
		}
		offset = start + int64(size)
	}
	return found, nil
}

// follows returns the place of a section in the order, which is behind the last one.
func follows(last int, id byte) (int, error) {
	if id == customSection {
		return last, nil
	}
	place := strings.IndexByte(sectionOrder, id)
	if place <= last {
		return 0, fmt.Errorf("section %d is unknown, repeated or out of order", id)
	}
	return place, nil
}

// atEnd returns an error unless all has been read.
func atEnd(r *bufio.Reader) error {
	_, err := r.ReadByte()
	switch {
	case errors.Is(err, io.EOF):
		return nil
	case err == nil:
		return errors.New("there are bytes left behind them")
	}
	return err
}

// exportedFuncs returns the names of the exported ABI functions in an export section.
func exportedFuncs(r *bufio.Reader) ([]string, error) {
	count, _, err := readU32(r)
	if err != nil {
		return nil, err
	}
	if count > maxExports {
		return nil, errors.New("too many exports")
	}
	var names []string
	for range count {
		name, kind, err := readExport(r)
		if err != nil {
			return nil, err
		}
		if kind == exportedFunc && strings.HasPrefix(name, abiPrefix) {
			names = append(names, name)
		}
	}
	return names, nil
}

// readExport reads one export: its name, its kind, and its index, which is dropped.
func readExport(r *bufio.Reader) (string, byte, error) {
	name, err := readName(r)
	if err != nil {
		return "", 0, err
	}
	kind, err := r.ReadByte()
	if err != nil {
		return "", 0, err
	}
	_, _, err = readU32(r)
	return name, kind, err
}

// readName reads the name of an export or an import.
func readName(r *bufio.Reader) (string, error) {
	length, _, err := readU32(r)
	if err != nil {
		return "", err
	}
	if length > maxName {
		return "", errors.New("a name is too long")
	}
	name := make([]byte, length)
	_, err = io.ReadFull(r, name)
	return string(name), err
}

// readU32 reads an unsigned LEB128 number of at most 32 bits and says how many
// bytes it took.
func readU32(r io.ByteReader) (uint32, int, error) {
	var value uint64
	for width := range binary.MaxVarintLen32 {
		b, err := r.ReadByte()
		if err != nil {
			return 0, 0, err
		}
		value |= uint64(b&0x7f) << (7 * width)
		if b < 0x80 {
			if value > 1<<32-1 {
				break
			}
			return uint32(value), width + 1, nil
		}
	}
	return 0, 0, errors.New("a number is longer than 32 bits")
}

// abiVersions returns the versions in the names of ABI functions.
func abiVersions(names []string) ([]string, error) {
	var versions []string
	for _, name := range names {
		version := strings.ReplaceAll(strings.TrimPrefix(name, abiPrefix), "_", ".")
		if slices.Contains(knownABIs, version) {
			versions = append(versions, version)
		}
	}
	if len(versions) == 0 {
		return nil, Terminal(wasmev1.ReasonInvalidModule, "the module exports no %s* that proxies know (%s): build it for proxy-wasm",
			abiPrefix, strings.Join(knownABIs, ", "))
	}
	return versions, nil
}

// FirstABI returns the version of the first ABI function that a module exports: proxies
// take that one where there are several. The error is as that of Inspect.
func FirstABI(wasm []byte) (string, error) {
	r := bytes.NewReader(wasm)
	versions, err := readABIs(r, r.Size())
	if err != nil {
		return "", err
	}
	return versions[0], nil
}

// CodeSizes returns the number of a module's functions and the bytes of the largest
// one's body. The error is an *Error with the reason InvalidModule.
func CodeSizes(wasm []byte) (functions int, largest int64, err error) {
	err = readSection(bytes.NewReader(wasm), int64(len(wasm)), codeSection, func(r *bufio.Reader) error {
		count, _, err := readU32(r)
		if err != nil {
			return err
		}
		for range count {
			size, _, err := readU32(r)
			if err != nil {
				return err
			}
			if _, err := r.Discard(int(size)); err != nil {
				return err
			}
			largest = max(largest, int64(size))
		}
		functions = int(count)
		return nil
	})
	return functions, largest, err
}
