// SPDX-License-Identifier: Apache-2.0

package archtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

// Every exported name says what it promises: declarations, methods, and the fields of types that take more than a line.
func TestExportedNamesHaveComments(t *testing.T) {
	const root = "../.."
	set := token.NewFileSet()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "testdata" || d.Name() == ".git" || d.Name() == "dist" || d.Name() == "bin") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(set, path, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, d := range f.Decls {
			for _, name := range bare(set, d) {
				t.Errorf("%s: %s has no comment", set.Position(name.Pos()), name.Name)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// bare lists the exported names of a declaration that nothing is said of.
func bare(set *token.FileSet, d ast.Decl) (names []*ast.Ident) {
	missing := func(said *ast.CommentGroup, all ...*ast.Ident) {
		for _, name := range all {
			if name.IsExported() && said == nil {
				names = append(names, name)
			}
		}
	}
	first := func(groups ...*ast.CommentGroup) *ast.CommentGroup {
		for _, g := range groups {
			if g != nil {
				return g
			}
		}
		return nil
	}
	switch d := d.(type) {
	case *ast.FuncDecl:
		if d.Recv == nil || receiver(d.Recv.List[0].Type).IsExported() {
			missing(d.Doc, d.Name)
		}
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch s := spec.(type) {
			case *ast.ValueSpec:
				missing(first(s.Doc, s.Comment, d.Doc), s.Names...)
			case *ast.TypeSpec:
				missing(first(s.Doc, s.Comment, d.Doc), s.Name)
				if st, ok := s.Type.(*ast.StructType); ok && s.Name.IsExported() && set.Position(st.Pos()).Line != set.Position(st.End()).Line {
					for _, field := range st.Fields.List {
						missing(first(field.Doc, field.Comment), field.Names...)
					}
				}
			}
		}
	}
	return names
}

// receiver is the type that a method belongs to.
func receiver(e ast.Expr) *ast.Ident {
	switch e := e.(type) {
	case *ast.StarExpr:
		return receiver(e.X)
	case *ast.IndexExpr:
		return receiver(e.X)
	case *ast.Ident:
		return e
	}
	return ast.NewIdent("_")
}
