// Package scram makes password verifiers, so that a password never travels to the server in the clear: not in the text of
// CREATE ROLE, not in the server's log, not in pg_stat_statements.
//
// It guarantees that PostgreSQL stores what Verifier returns as it is, and that a client which knows the password can log
// in by SCRAM-SHA-256 with it. It does not judge how good a password is.
//
//	verifier, err := scram.Verifier(password)
//	if err != nil {
//		return err
//	}
//	_, err = conn.Exec(ctx, "CREATE ROLE "+role+" LOGIN PASSWORD '"+verifier+"'")
package scram

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
)

// ErrPassword is what Verifier returns for a password it does not take.
var ErrPassword = errors.New("scram: a password must be 1 to 1024 printable ASCII characters")

const (
	iterations = 4096 // PostgreSQL's own number; it costs a login this many rounds
	saltLen    = 16
	maxLen     = 1024
)

// Verifier returns the SCRAM-SHA-256 verifier of password, in the form that PostgreSQL keeps in pg_authid, with a fresh
// random salt. It holds only letters, digits and the characters $:+/= and so needs no escaping inside a quoted literal.
//
// A password must be made of printable ASCII, for which SASLprep changes nothing; any other is ErrPassword. Verifier takes
// about a millisecond, and is safe for concurrent use.
func Verifier(password string) (string, error) {
	salt := make([]byte, saltLen)
	rand.Read(salt)
	return verifier(password, salt)
}

func verifier(password string, salt []byte) (string, error) {
	if password == "" || len(password) > maxLen {
		return "", ErrPassword
	}
	for i := range len(password) {
		if password[i] < ' ' || password[i] > '~' {
			return "", ErrPassword
		}
	}
	salted, err := pbkdf2.Key(sha256.New, password, salt, iterations, sha256.Size)
	if err != nil {
		return "", fmt.Errorf("scram: %w", err)
	}
	stored := sha256.Sum256(sign(salted, "Client Key"))
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", iterations, b64(salt), b64(stored[:]), b64(sign(salted, "Server Key"))), nil
}

func sign(key []byte, text string) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}
