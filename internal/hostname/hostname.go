// Package hostname reads DNS names as they stand in URLs and in settings.
package hostname

import "strings"

// The limits of RFC 1035, in bytes, for a name without its root dot.
const (
	MaxLen      = 253
	maxLabelLen = 63
)

// Canonical returns the DNS name in lower case and without its root dot; or the reason why it is none, which completes the sentence
// "The host …". It does not allocate when the name is lower-case.
func Canonical(name string) (canonical, reason string) {
	name = strings.TrimSuffix(name, ".")
	if len(name) > MaxLen {
		return "", "is too long"
	}
	upper, start := false, 0
	for i := 0; i <= len(name); i++ {
		if i == len(name) || name[i] == '.' {
			switch label := name[start:i]; {
			case label == "":
				return "", "has an empty label"
			case len(label) > maxLabelLen:
				return "", "has a label that is too long"
			case label[0] == '-', label[len(label)-1] == '-':
				return "", "has a label that begins or ends with a hyphen"
			}
			start = i + 1
			continue
		}
		switch c := name[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-':
		case 'A' <= c && c <= 'Z':
			upper = true
		default:
			return "", "holds a character that host names do not have"
		}
	}
	if upper {
		name = strings.ToLower(name)
	}
	return name, ""
}

// EndsInNumber reports whether resolvers and browsers read the name as an IPv4 address, in one of its many spellings.
func EndsInNumber(name string) bool {
	return strings.Trim(name[strings.LastIndexByte(name, '.')+1:], "0123456789") == ""
}

// IsUnder reports whether the name is the domain or a name below it. Both are canonical.
func IsUnder(name, domain string) bool {
	head, found := strings.CutSuffix(name, domain)
	return found && (head == "" || head[len(head)-1] == '.')
}
