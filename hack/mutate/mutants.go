package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// mutant is a file in which one piece of text is replaced.
type mutant struct {
	path  string
	text  []byte
	place token.Position
	// end is the offset of the end of the piece that starts at place.
	end         int
	replacement string
}

// String is the mutant's place, and what became of what.
func (m mutant) String() string {
	path := m.path
	if here, err := os.Getwd(); err == nil {
		if relative, err := filepath.Rel(here, path); err == nil {
			path = relative
		}
	}
	was := oneLine(string(m.text[m.place.Offset:m.end]))
	if m.replacement == "" {
		return fmt.Sprintf("%s:%d: removed: %s", path, m.place.Line, was)
	}
	return fmt.Sprintf("%s:%d: %s => %s", path, m.place.Line, was, oneLine(m.replacement))
}

func oneLine(text string) string {
	const longest = 100
	text = strings.Join(strings.Fields(text), " ")
	if runes := []rune(text); len(runes) > longest {
		return string(runes[:longest]) + "…"
	}
	return text
}

// mutated is the text of the file with the replacement.
func (m mutant) mutated() []byte {
	return slices.Concat(m.text[:m.place.Offset], []byte(m.replacement), m.text[m.end:])
}

// mutator collects the mutants of one file.
type mutator struct {
	path    string
	text    []byte
	file    *token.File
	mutants []mutant
}

// fileMutants returns the mutants of a file; none of one that is generated.
func fileMutants(path string, text []byte) ([]mutant, error) {
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, path, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	if ast.IsGenerated(file) {
		return nil, nil
	}
	m := &mutator{path: path, text: text, file: files.File(file.FileStart)}
	var functions []*ast.FuncType
	ast.PreorderStack(file, nil, func(node ast.Node, stack []ast.Node) bool {
		functions = functions[:0]
		for _, outer := range stack {
			if function := functionType(outer); function != nil {
				functions = append(functions, function)
			}
		}
		m.visit(node, functions)
		return true
	})
	return m.mutants, nil
}

func functionType(node ast.Node) *ast.FuncType {
	switch node := node.(type) {
	case *ast.FuncDecl:
		return node.Type
	case *ast.FuncLit:
		return node.Type
	}
	return nil
}

// visit adds the mutants of a node; functions are those around it.
func (m *mutator) visit(node ast.Node, functions []*ast.FuncType) {
	switch node := node.(type) {
	case *ast.BinaryExpr:
		m.visitBinary(node)
	case *ast.UnaryExpr:
		m.visitUnary(node)
	case *ast.IfStmt:
		m.condition(node.Cond)
	case *ast.ForStmt:
		if node.Cond != nil {
			m.insteadOf(node.Cond, "false && ("+m.source(node.Cond)+")")
		}
	case *ast.SwitchStmt:
		m.visitSwitch(node)
	case *ast.BlockStmt:
		m.statements(node.List)
	case *ast.CaseClause:
		m.statements(node.Body)
	case *ast.CommClause:
		m.statements(node.Body)
	case *ast.CompositeLit:
		m.visitLiteral(node)
	case *ast.ReturnStmt:
		if len(functions) > 0 {
			m.visitReturn(node, functions[len(functions)-1])
		}
	case *ast.Ident:
		m.visitIdentifier(node)
	}
}

// comparisons are the operators of comparisons, each with the one that differs
// from it where both sides are equal.
var comparisons = map[token.Token]token.Token{
	token.LSS: token.LEQ, token.LEQ: token.LSS, token.GTR: token.GEQ, token.GEQ: token.GTR,
	token.EQL: token.ILLEGAL, token.NEQ: token.ILLEGAL,
}

// arithmetic are operators with another in their place.
var arithmetic = map[token.Token]token.Token{
	token.ADD: token.SUB, token.SUB: token.ADD, token.MUL: token.QUO, token.QUO: token.MUL, token.REM: token.MUL,
	token.AND: token.OR, token.OR: token.AND, token.XOR: token.AND, token.SHL: token.SHR, token.SHR: token.SHL,
}

func (m *mutator) visitBinary(node *ast.BinaryExpr) {
	if node.Op == token.LAND || node.Op == token.LOR {
		m.condition(node.X)
		m.condition(node.Y)
		return
	}
	operator := len(node.Op.String())
	if boundary, found := comparisons[node.Op]; found {
		m.always(node)
		if boundary != token.ILLEGAL {
			m.replace(node.OpPos, node.OpPos+token.Pos(operator), boundary.String())
		}
	}
	if other, found := arithmetic[node.Op]; found {
		m.replace(node.OpPos, node.OpPos+token.Pos(operator), other.String())
	}
}

func (m *mutator) visitUnary(node *ast.UnaryExpr) {
	switch node.Op {
	case token.NOT:
		m.condition(node.X)
	case token.SUB:
		m.insteadOf(node, m.source(node.X))
	}
}

// visitSwitch has each condition of a switch without a tag always or never hold,
// and leaves out each case of one with a tag.
func (m *mutator) visitSwitch(node *ast.SwitchStmt) {
	for _, statement := range node.Body.List {
		clause, ok := statement.(*ast.CaseClause)
		switch {
		case !ok || clause.List == nil:
		case node.Tag != nil:
			m.insteadOf(clause, "")
		default:
			for _, condition := range clause.List {
				m.condition(condition)
			}
		}
	}
}

// condition has a condition always and never hold, unless visit comes to its
// parts, or to itself as a comparison.
func (m *mutator) condition(node ast.Expr) {
	switch node := node.(type) {
	case *ast.ParenExpr:
		m.condition(node.X)
	case *ast.BinaryExpr:
	case *ast.UnaryExpr:
		if node.Op != token.NOT {
			m.always(node)
		}
	default:
		m.always(node)
	}
}

// always keeps the condition in the text, so that what it uses stays in use.
func (m *mutator) always(node ast.Expr) {
	text := m.source(node)
	m.insteadOf(node, "(true || ("+text+"))")
	m.insteadOf(node, "(false && ("+text+"))")
}

// statements leaves out each statement that can be left out.
func (m *mutator) statements(list []ast.Stmt) {
	for _, statement := range list {
		switch statement := statement.(type) {
		case *ast.AssignStmt:
			m.visitAssignment(statement)
		case *ast.IfStmt:
			if assignment, ok := statement.Init.(*ast.AssignStmt); ok {
				m.visitAssignment(assignment)
			}
		case *ast.ExprStmt, *ast.IncDecStmt, *ast.DeferStmt, *ast.GoStmt, *ast.SendStmt, *ast.BranchStmt:
			m.insteadOf(statement, "")
		}
	}
}

// visitAssignment throws the values away, or has the last one replace the sum.
func (m *mutator) visitAssignment(node *ast.AssignStmt) {
	switch node.Tok {
	case token.DEFINE:
	case token.ASSIGN:
		blanks := strings.TrimSuffix(strings.Repeat("_, ", len(node.Lhs)), ", ")
		if m.source(node.Lhs[0]) != "_" {
			m.replace(node.Pos(), node.TokPos, blanks+" ")
		}
	default:
		m.insteadOf(node, "")
		m.replace(node.TokPos, node.TokPos+token.Pos(len(node.Tok.String())), "=")
	}
}

// visitLiteral leaves out each element of a literal with keys.
func (m *mutator) visitLiteral(node *ast.CompositeLit) {
	for _, element := range node.Elts {
		if _, ok := element.(*ast.KeyValueExpr); !ok {
			continue
		}
		end := m.offset(element.End())
		if rest := strings.TrimLeft(string(m.text[end:]), " \t\n"); strings.HasPrefix(rest, ",") {
			end = len(m.text) - len(rest) + 1
		}
		m.add(m.offset(element.Pos()), end, "")
	}
}

// visitReturn swallows an error, and has a function that answers yes or no
// always give one answer.
func (m *mutator) visitReturn(node *ast.ReturnStmt, function *ast.FuncType) {
	if function.Results == nil || len(node.Results) != function.Results.NumFields() || len(node.Results) == 0 {
		return
	}
	last := node.Results[len(node.Results)-1]
	switch typeName, _ := function.Results.List[len(function.Results.List)-1].Type.(*ast.Ident); {
	case typeName == nil:
	case typeName.Name == "error" && m.source(last) != "nil":
		m.insteadOf(last, "nil")
	case typeName.Name == "bool":
		if _, isName := last.(*ast.Ident); !isName {
			m.condition(last)
		}
	}
}

func (m *mutator) visitIdentifier(node *ast.Ident) {
	switch node.Name {
	case "true":
		m.insteadOf(node, "false")
	case "false":
		m.insteadOf(node, "true")
	}
}

func (m *mutator) source(node ast.Node) string {
	return string(m.text[m.offset(node.Pos()):m.offset(node.End())])
}

func (m *mutator) offset(pos token.Pos) int {
	return m.file.Offset(pos)
}

func (m *mutator) insteadOf(node ast.Node, replacement string) {
	m.replace(node.Pos(), node.End(), replacement)
}

func (m *mutator) replace(from, to token.Pos, replacement string) {
	m.add(m.offset(from), m.offset(to), replacement)
}

func (m *mutator) add(from, to int, replacement string) {
	m.mutants = append(m.mutants, mutant{
		path: m.path, text: m.text, replacement: replacement,
		place: m.file.Position(m.file.Pos(from)), end: to,
	})
}
