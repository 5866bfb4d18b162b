package suite

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/wasme-io/wasme-operator/internal/preflight/suite/schema"
)

// maxExpanded is the size of a YAML file with its aliases replaced. A value can be half
// as long again as it is written ("\L"), so that it never bounds a file without aliases.
const maxExpanded = 2 * MaxFileBytes

// nodeSize is the least that a node takes in a file, without its value: "{},".
const nodeSize = 3

// decodeYAML decodes YAML. Keys are the names of fields, enum values are names or
// numbers, and bytes are text.
func decodeYAML(content []byte) (*schema.TestSuite, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	message := &schema.TestSuite{}
	var document, rest yaml.Node
	switch err := decoder.Decode(&document); {
	case errors.Is(err, io.EOF):
		return message, nil
	case err != nil:
		return nil, fmt.Errorf("%s: correct the YAML", strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if err := decoder.Decode(&rest); !errors.Is(err, io.EOF) {
		return nil, errors.New("the file has more than one YAML document: use one")
	}
	root := document.Content[0]
	if isNull(root) {
		return message, nil
	}
	return message, new(converter).message(root, message.ProtoReflect())
}

// converter turns YAML nodes into messages.
type converter struct {
	expanded int
}

// visit returns the node that an alias stands for.
func (c *converter) visit(node *yaml.Node) (*yaml.Node, error) {
	target := node
	if node.Kind == yaml.AliasNode {
		target = node.Alias
	}
	if c.expanded += nodeSize + len(target.Value); c.expanded > maxExpanded {
		return nil, at(node, "the aliases make the file larger than %d bytes: use fewer", maxExpanded)
	}
	return target, nil
}

func (c *converter) message(node *yaml.Node, message protoreflect.Message) error {
	target, err := c.visit(node)
	if err != nil {
		return err
	}
	if target.Kind != yaml.MappingNode {
		return at(node, "%s is not a mapping: write some of its fields, such as %q", message.Descriptor().Name(), message.Descriptor().Fields().Get(0).Name()+":")
	}
	seen := map[protoreflect.FieldNumber]bool{}
	for i := 0; i < len(target.Content); i += 2 {
		key, value := target.Content[i], target.Content[i+1]
		field := message.Descriptor().Fields().ByName(protoreflect.Name(key.Value))
		if field == nil {
			return at(key, "%s has no field %s: its fields are %s", message.Descriptor().Name(), quote(key.Value), names(message.Descriptor().Fields()))
		}
		if seen[field.Number()] {
			return at(key, "%s is there twice: remove one", key.Value)
		}
		seen[field.Number()] = true
		if err := c.field(key, value, message, field); err != nil {
			return err
		}
	}
	return nil
}

func (c *converter) field(key, value *yaml.Node, message protoreflect.Message, field protoreflect.FieldDescriptor) error {
	if choice := field.ContainingOneof(); choice != nil {
		if other := message.WhichOneof(choice); other != nil {
			return at(key, "%s and %s exclude each other: remove one", other.Name(), field.Name())
		}
	}
	switch {
	case field.IsList():
		return c.list(value, message.Mutable(field).List(), field)
	case field.Message() != nil:
		return c.message(value, message.Mutable(field).Message())
	}
	scalar, err := c.scalar(value, field)
	if err == nil {
		message.Set(field, scalar)
	}
	return err
}

// list appends to a repeated field; all of them have messages.
func (c *converter) list(node *yaml.Node, list protoreflect.List, field protoreflect.FieldDescriptor) error {
	target, err := c.visit(node)
	if err != nil {
		return err
	}
	if target.Kind != yaml.SequenceNode {
		return at(node, "%s is not a sequence: begin each entry with a dash", field.Name())
	}
	for _, entry := range target.Content {
		if err := c.message(entry, list.AppendMutable().Message()); err != nil {
			return err
		}
	}
	return nil
}

func (c *converter) scalar(node *yaml.Node, field protoreflect.FieldDescriptor) (protoreflect.Value, error) {
	target, err := c.visit(node)
	if err != nil {
		return protoreflect.Value{}, err
	}
	if target.Kind != yaml.ScalarNode || isNull(target) {
		return protoreflect.Value{}, at(node, `%s has no value: write one, "" for an empty text`, field.Name())
	}
	value, ok := scalarOf(target.Value, field)
	if !ok {
		return protoreflect.Value{}, at(node, "%s cannot be %s: write %s", field.Name(), quote(target.Value), wanted(field))
	}
	return value, nil
}

// scalarOf returns the value of a field from its text, and whether it has that form.
func scalarOf(text string, field protoreflect.FieldDescriptor) (protoreflect.Value, bool) {
	switch field.Kind() {
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte(text)), true
	case protoreflect.BoolKind:
		value, known := booleans[strings.ToLower(text)]
		return protoreflect.ValueOfBool(value), known
	case protoreflect.Int32Kind:
		n, err := strconv.ParseInt(text, 0, 32)
		return protoreflect.ValueOfInt32(int32(n)), err == nil
	case protoreflect.Int64Kind:
		n, err := strconv.ParseInt(text, 0, 64)
		return protoreflect.ValueOfInt64(n), err == nil
	case protoreflect.Uint32Kind:
		n, err := strconv.ParseUint(text, 0, 32)
		return protoreflect.ValueOfUint32(uint32(n)), err == nil
	case protoreflect.Uint64Kind:
		n, err := strconv.ParseUint(text, 0, 64)
		return protoreflect.ValueOfUint64(n), err == nil
	case protoreflect.EnumKind:
		return enumOf(text, field.Enum().Values())
	}
	return protoreflect.ValueOfString(text), true
}

// booleans are what yaml-cpp takes for one.
var booleans = map[string]bool{
	"true": true, "yes": true, "on": true, "y": true,
	"false": false, "no": false, "off": false, "n": false,
}

func enumOf(text string, values protoreflect.EnumValueDescriptors) (protoreflect.Value, bool) {
	value := values.ByName(protoreflect.Name(text))
	if n, err := strconv.ParseInt(text, 0, 32); err == nil {
		value = values.ByNumber(protoreflect.EnumNumber(n))
	}
	if value == nil {
		return protoreflect.Value{}, false
	}
	return protoreflect.ValueOfEnum(value.Number()), true
}

// wanted returns what a field of this kind takes.
func wanted(field protoreflect.FieldDescriptor) string {
	switch field.Kind() {
	case protoreflect.BoolKind:
		return "true or false"
	case protoreflect.EnumKind:
		return "one of " + names(field.Enum().Values())
	}
	return "a number of type " + field.Kind().String()
}

// names returns the names of fields or of values.
func names[D protoreflect.Descriptor](list interface {
	Len() int
	Get(i int) D
}) string {
	var all []string
	for i := range list.Len() {
		all = append(all, string(list.Get(i).Name()))
	}
	return strings.Join(all, ", ")
}

func isNull(node *yaml.Node) bool {
	return node.Kind == yaml.ScalarNode && node.ShortTag() == "!!null"
}

func at(node *yaml.Node, format string, args ...any) error {
	return fmt.Errorf("line %d: "+format, append([]any{node.Line}, args...)...)
}
