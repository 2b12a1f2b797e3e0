package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/printer"
	"go/token"
	"reflect"
	"regexp"
	"slices"
	"strings"
)

// A field is one line of a struct.
type field struct {
	names []string
	typ   string
	doc   string
}

// structFields returns the exported fields of a struct with their comments. It
// is an error if one has none: a field of its own group may share the comment of
// the field before it, when that names both.
func structFields(file, name string) ([]field, error) {
	f, err := parse(file)
	if err != nil {
		return nil, err
	}
	var st *ast.StructType
	ast.Inspect(f, func(n ast.Node) bool {
		if t, ok := n.(*ast.TypeSpec); ok && t.Name.Name == name {
			st, _ = t.Type.(*ast.StructType)
		}
		return st == nil
	})
	if st == nil {
		return nil, fmt.Errorf("%s has no struct %s", file, name)
	}
	var out []field
	last := ""
	for _, x := range st.Fields.List {
		var names []string
		for _, id := range x.Names {
			if id.IsExported() {
				names = append(names, id.Name)
			}
		}
		if key, ok := yamlKey(x.Tag); ok {
			names = []string{key}
			if key == "-" {
				continue
			}
		}
		if len(names) == 0 {
			continue
		}
		doc := comment(x.Doc, x.Comment)
		if doc == "" && slices.ContainsFunc(names, func(n string) bool { return strings.Contains(last, n) }) {
			doc = last
		}
		if last = doc; doc == "" {
			if names[0] != "Log" && names[0] != "Store" {
				return nil, fmt.Errorf("%s: field %s.%s has no comment", file, name, names[0])
			}
			doc = "needed"
		}
		out = append(out, field{names, source(x.Type), doc})
	}
	return out, nil
}

// yamlKey returns the key of a field in a file, where its tag has one.
func yamlKey(tag *ast.BasicLit) (key string, ok bool) {
	if tag == nil {
		return "", false
	}
	key, ok = reflect.StructTag(strings.Trim(tag.Value, "`")).Lookup("yaml")
	return key, ok
}

// defaultsIn returns what a function gives to the fields of a variable that are
// zero, by field: from "v.F = cmp.Or(v.F, x)", "v.F = max(v.F, x)" and the body
// of "if v.F == zero".
func defaultsIn(file, function, via string) (map[string]string, error) {
	f, err := parse(file)
	if err != nil {
		return nil, err
	}
	found := map[string]string{}
	for _, d := range f.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok || fn.Name.Name != function {
			continue
		}
		ast.Inspect(fn, func(n ast.Node) bool {
			a, ok := n.(*ast.AssignStmt)
			if !ok || a.Tok != token.ASSIGN {
				return true
			}
			name, ok := strings.CutPrefix(source(a.Lhs[0]), via+".")
			if !ok || strings.Contains(name, ".") {
				return true
			}
			value := a.Rhs[0]
			if call, ok := value.(*ast.CallExpr); ok {
				switch source(call.Fun) {
				case "cmp.Or", "max":
					if len(call.Args) == 2 && source(call.Args[0]) == via+"."+name {
						value = call.Args[1]
					}
				}
			}
			if !strings.HasPrefix(source(value), via+".") {
				found[name] = plain(source(value))
			}
			return true
		})
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%s: function %s sets no field of %s", file, function, via)
	}
	return found, nil
}

var (
	shifted = regexp.MustCompile(`^(\d+) ?<< ?(10|20)$`)
	timed   = regexp.MustCompile(`^(?:(\d+) ?\* ?)?time\.(Millisecond|Second|Minute)$`)
)

// plain makes of code what people read.
func plain(code string) string {
	if m := shifted.FindStringSubmatch(code); m != nil {
		return m[1] + " " + map[string]string{"10": "KiB", "20": "MiB"}[m[2]]
	}
	if m := timed.FindStringSubmatch(code); m != nil {
		n := m[1]
		if n == "" {
			n = "1"
		}
		return n + " " + map[string]string{"Millisecond": "ms", "Second": "s", "Minute": "min"}[m[2]]
	}
	return code
}

// writeConstants writes the constants of a type with their comments.
func writeConstants(b *bytes.Buffer, root, name, file, intro string) error {
	f, err := parse(root + "/" + file)
	if err != nil {
		return err
	}
	fmt.Fprintf(b, "## fairlead.%s\n\n%s\n\n| value | what |\n| --- | --- |\n", name, intro)
	n := 0
	for _, d := range f.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.CONST || len(g.Specs) == 0 {
			continue
		}
		if t := g.Specs[0].(*ast.ValueSpec).Type; t == nil || source(t) != name {
			continue
		}
		for _, s := range g.Specs {
			v := s.(*ast.ValueSpec)
			fmt.Fprintf(b, "| `%s` | %s |\n", v.Names[0].Name, about(v.Names[0].Name, comment(v.Doc, v.Comment)))
			n++
		}
	}
	if n == 0 {
		return fmt.Errorf("%s has no constants of type %s", file, name)
	}
	b.WriteByte('\n')
	return nil
}

// writeFunctions writes the functions that return a type with their comments.
func writeFunctions(b *bytes.Buffer, root, name, file, intro string) error {
	f, err := parse(root + "/" + file)
	if err != nil {
		return err
	}
	fmt.Fprintf(b, "## fairlead.%s\n\n%s\n\n| value | what |\n| --- | --- |\n", name, intro)
	n := 0
	for _, d := range f.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok || fn.Recv != nil || fn.Type.Results == nil || len(fn.Type.Results.List) != 1 || source(fn.Type.Results.List[0].Type) != name {
			continue
		}
		args := strings.TrimPrefix(source(fn.Type), "func")
		fmt.Fprintf(b, "| `%s%s` | %s |\n", fn.Name.Name, strings.TrimSuffix(args, " "+name), about(fn.Name.Name, comment(fn.Doc)))
		n++
	}
	if n == 0 {
		return fmt.Errorf("%s has no functions that return a %s", file, name)
	}
	b.WriteByte('\n')
	return nil
}

// about takes the name from the beginning of a comment.
func about(name, doc string) string { return strings.TrimPrefix(doc, name+" ") }

var docLink = regexp.MustCompile(`\[\*?([A-Za-z.]+)\]`)

// comment joins comments to one line of a table.
func comment(groups ...*ast.CommentGroup) string {
	var parts []string
	for _, g := range groups {
		if g != nil {
			parts = append(parts, strings.Fields(g.Text())...)
		}
	}
	text := docLink.ReplaceAllString(strings.Join(parts, " "), "`$1`")
	return strings.ReplaceAll(text, "|", `\|`)
}

func parse(file string) (*ast.File, error) {
	return parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments|parser.SkipObjectResolution)
}

// source returns the code of a node.
func source(n ast.Node) string {
	var b bytes.Buffer
	if err := printer.Fprint(&b, token.NewFileSet(), n); err != nil {
		panic(err) // a node that was just parsed
	}
	return strings.Join(strings.Fields(b.String()), " ")
}
