// Package schema has the messages of test files; make generate generates them from
// suite.proto.
package schema
