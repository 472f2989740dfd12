package app

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
)

const (
	defaultPageSize = 50
	maxPageSize     = 100
)

// list is one page of a list. NextCursor is nil on the last page.
type list[T any] struct {
	Items      []T     `json:"items"`
	NextCursor *string `json:"next_cursor"`
}

// listing says which page of a list is asked for.
type listing struct {
	after cursor // zero: from the start
	size  int    // items on the page
}

// cursor is the place in a list behind its last item. Clients get it encoded and are not to look inside.
type cursor struct {
	ID   int64  `json:"i"`
	Name string `json:"n,omitempty"`
}

func (c cursor) encode() string {
	text, _ := json.Marshal(c) // a number and a string always encode
	return base64.RawURLEncoding.EncodeToString(text)
}

func decodeCursor(s string) (cursor, bool) {
	text, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return cursor{}, false
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	var c cursor
	if err := decoder.Decode(&c); err != nil || c.ID <= 0 || !storable(c.Name) {
		return cursor{}, false
	}
	return c, true
}

// parseListing reads cursor and limit from a query string.
func parseListing(query url.Values) (listing, error) {
	l := listing{size: defaultPageSize}
	fields := fieldErrors{}
	if s := query.Get("cursor"); s != "" {
		var ok bool
		if l.after, ok = decodeCursor(s); !ok {
			fields.add("cursor", "is not one that a list returned")
		}
	}
	if s := query.Get("limit"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > maxPageSize {
			fields.add("limit", fmt.Sprintf("must be a whole number from 1 to %d", maxPageSize))
		}
		l.size = n
	}
	return l, fields.orNil()
}

// fetch is how many rows to ask the database for: one more than the page holds tells whether there is another page.
func (l listing) fetch() int32 { return int32(l.size) + 1 }

// paged cuts the extra row off and makes the cursor behind the last item.
func paged[T any](l listing, items []T, place func(T) cursor) list[T] {
	if len(items) <= l.size {
		return list[T]{Items: items}
	}
	items = items[:l.size]
	next := place(items[l.size-1]).encode()
	return list[T]{Items: items, NextCursor: &next}
}
