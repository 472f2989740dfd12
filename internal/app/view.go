package app

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/leasehold-go/leasehold/db/tenant"
)

//go:embed templates static
var files embed.FS

// pageSet holds the parsed pages and the static files. It is immutable.
type pageSet struct {
	templates map[string]*template.Template
	// version is part of every static file's URL, so that browsers may keep what they have until it changes.
	version string
}

// page is what the layout needs, and the data of the page in it.
type page struct {
	Title   string
	Company string // empty on the apex
	Section string // which entry of the navigation is the present one
	Notice  string // good news after a redirect
	Alert   string // why what was asked for was not done
	Data    any
}

func loadPages() (*pageSet, error) {
	ps := &pageSet{templates: map[string]*template.Template{}}
	var err error
	if ps.version, err = hashStatic(); err != nil {
		return nil, err
	}
	layout, err := template.New("layout.html").Funcs(template.FuncMap{
		"static": func(name string) string { return "/static/" + ps.version + "/" + name },
		"money":  formatMoney,
		"date":   formatDate,
		"field":  newField,
		"cell":   newCell,
		"add":    func(a, b int) int { return a + b },
	}).ParseFS(files, "templates/layout.html")
	if err != nil {
		return nil, fmt.Errorf("app: parse the layout: %w", err)
	}
	names, err := fs.Glob(files, "templates/*.html")
	if err != nil {
		return nil, fmt.Errorf("app: list the pages: %w", err)
	}
	for _, name := range names {
		if name == "templates/layout.html" {
			continue
		}
		t, err := template.Must(layout.Clone()).ParseFS(files, name)
		if err != nil {
			return nil, fmt.Errorf("app: parse %s: %w", name, err)
		}
		ps.templates[strings.TrimSuffix(path.Base(name), ".html")] = t
	}
	return ps, nil
}

// hashStatic returns a short name for the present content of the static files.
func hashStatic() (string, error) {
	hash := sha256.New()
	err := fs.WalkDir(files, "static", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := files.ReadFile(name)
		if err != nil {
			return err
		}
		hash.Write(content)
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("app: read the static files: %w", err)
	}
	return hex.EncodeToString(hash.Sum(nil))[:12], nil
}

// serveStatic serves /static/<version>/<file>.
func (ps *pageSet) serveStatic(w http.ResponseWriter, r *http.Request) error {
	name, found := strings.CutPrefix(r.URL.Path, "/static/"+ps.version+"/")
	if !found || !fs.ValidPath(name) {
		return errNotFound
	}
	if info, err := fs.Stat(files, "static/"+name); err != nil || info.IsDir() {
		return errNotFound
	}
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	http.ServeFileFS(w, r, files, "static/"+name)
	return nil
}

// render writes a page. The company's name is taken from the request's tenant.
func (a *app) render(w http.ResponseWriter, r *http.Request, status int, name string, p page) error {
	if t, err := tenant.FromContext(r.Context()); err == nil {
		p.Company = t.Company
	}
	var body bytes.Buffer // a page that fails half-way is not shown
	if err := a.pages.templates[name].Execute(&body, p); err != nil {
		return fmt.Errorf("render the page %q: %w", name, err)
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(body.Bytes()) // an error here means that the client is gone
	return nil
}

// errorPage shows a problem to a person.
func (a *app) errorPage(w http.ResponseWriter, r *http.Request, p problem) {
	err := a.render(w, r, p.Status, "error", page{Title: p.Title, Data: p})
	if err != nil {
		a.log.ErrorContext(r.Context(), "error page", "error", err)
		http.Error(w, p.Title, p.Status)
	}
}

// form is what was typed into a form, and what is wrong with it.
type form struct {
	Values map[string]string
	Errors map[string]string
}

// field is one labelled input of a form.
type field struct {
	Name, Label, Value, Error string
	Type, Hint, Autocomplete  string
	Optional                  bool
}

// newField makes a field for the template "field". The options are "type=…", "hint=…", "autocomplete=…" and "optional".
func newField(f form, name, label string, options ...string) field {
	v := field{Name: name, Label: label, Value: f.Values[name], Error: f.Errors[name], Type: "text"}
	for _, option := range options {
		key, value, _ := strings.Cut(option, "=")
		switch key {
		case "type":
			v.Type = value
		case "hint":
			v.Hint = value
		case "autocomplete":
			v.Autocomplete = value
		case "optional":
			v.Optional = true
		}
	}
	return v
}

// cell is one labelled input of a form's line; the lines share its name, not its ID.
type cell struct {
	ID, Name, Label, Value, Error string
	Decimal                       bool
}

func newCell(line int, name, label, value, message string) cell {
	return cell{fmt.Sprintf("%s-%d", name, line+1), name, label, value, message, name != "description"}
}

// formatDate shows a day to people: 31 Jan 2026; nothing for none.
func formatDate(d pgtype.Date) string {
	if !d.Valid {
		return ""
	}
	return d.Time.Format("2 Jan 2006")
}

// isoDate is a day as date inputs take it.
func isoDate(d pgtype.Date) string {
	if !d.Valid {
		return ""
	}
	return d.Time.Format(time.DateOnly)
}

// notices are the good news that a redirect can carry in ?done=…, so that a link can show no text of its own.
var notices = map[string]string{
	"created": "The draft is saved.",
	"issued":  "The invoice is issued.",
	"voided":  "The invoice is void.",
	"paid":    "The payment is recorded.",
	"saved":   "The customer is saved.",
	"deleted": "The customer is deleted.",
}

func noticeOf(r *http.Request) string { return notices[r.URL.Query().Get("done")] }

// redirect sends the browser on after a form, to a path of the same host.
func redirect(w http.ResponseWriter, r *http.Request, format string, args ...any) error {
	http.Redirect(w, r, fmt.Sprintf(format, args...), http.StatusSeeOther)
	return nil
}
