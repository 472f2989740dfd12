package tenantdb

import "container/list"

// lru is a map of bounded size that forgets what was used longest ago. It is not safe for concurrent use.
type lru[K comparable, V any] struct {
	size    int
	entries map[K]*list.Element
	order   *list.List // front: used last
	evicted func(K, V) // may be nil
}

type lruEntry[K comparable, V any] struct {
	key   K
	value V
}

func newLRU[K comparable, V any](size int, evicted func(K, V)) *lru[K, V] {
	return &lru[K, V]{size: size, entries: make(map[K]*list.Element), order: list.New(), evicted: evicted}
}

func (l *lru[K, V]) get(key K) (value V, ok bool) {
	el, ok := l.entries[key]
	if !ok {
		return value, false
	}
	l.order.MoveToFront(el)
	return el.Value.(*lruEntry[K, V]).value, true
}

func (l *lru[K, V]) put(key K, value V) {
	if el, ok := l.entries[key]; ok {
		el.Value.(*lruEntry[K, V]).value = value // a value that is replaced is not evicted
		l.order.MoveToFront(el)
		return
	}
	l.entries[key] = l.order.PushFront(&lruEntry[K, V]{key, value})
	if l.order.Len() > l.size {
		l.drop(l.order.Back())
	}
}

func (l *lru[K, V]) remove(key K) {
	if el, ok := l.entries[key]; ok {
		l.drop(el)
	}
}

// drop takes el out and says so to evicted.
func (l *lru[K, V]) drop(el *list.Element) {
	entry := el.Value.(*lruEntry[K, V])
	l.order.Remove(el)
	delete(l.entries, entry.key)
	if l.evicted != nil {
		l.evicted(entry.key, entry.value)
	}
}
