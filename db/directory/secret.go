package directory

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"fmt"

	"github.com/leasehold-go/leasehold/db/tenant"
)

// A sealed secret is a version byte, the fingerprint of the key, and what AES-256-GCM makes with a random nonce in front.
const (
	sealVersion    = 1
	fingerprintLen = 8
	sealHeaderLen  = 1 + fingerprintLen
)

// What keys are derived for.
const (
	purposeSeal        = "leasehold sealed secrets, version 1"
	purposeFingerprint = "leasehold fingerprint of a secret key, version 1"
)

// sealer encrypts what the registry keeps secret. Each secret is bound to its owner: it cannot be opened as somebody else's. A
// sealer is safe for concurrent use.
type sealer struct {
	keys []sealingKey // the first one seals; each may open
}

type sealingKey struct {
	fingerprint [fingerprintLen]byte
	aead        cipher.AEAD
}

// newSealer returns a sealer that seals with the first key and opens with each.
func newSealer(secretKeys ...[]byte) (*sealer, error) {
	s := &sealer{}
	for _, secret := range secretKeys {
		key, err := newSealingKey(secret)
		if err != nil {
			return nil, fmt.Errorf("directory: derive a key: %w", err)
		}
		s.keys = append(s.keys, key)
	}
	return s, nil
}

func newSealingKey(secret []byte) (key sealingKey, err error) {
	fingerprint, err := hkdf.Key(sha256.New, secret, nil, purposeFingerprint, fingerprintLen)
	if err != nil {
		return key, err
	}
	derived, err := hkdf.Key(sha256.New, secret, nil, purposeSeal, 32)
	if err != nil {
		return key, err
	}
	block, err := aes.NewCipher(derived)
	if err != nil {
		return key, err
	}
	copy(key.fingerprint[:], fingerprint)
	key.aead, err = cipher.NewGCMWithRandomNonce(block)
	return key, err
}

// seal encrypts a secret for its owner. The same secret gives another text each time.
func (s *sealer) seal(owner string, secret []byte) ([]byte, error) {
	if len(s.keys) == 0 {
		return nil, errNoSecretKey
	}
	key := s.keys[0]
	sealed := append([]byte{sealVersion}, key.fingerprint[:]...)
	return key.aead.Seal(sealed, nil, secret, []byte(owner)), nil
}

// open decrypts what was sealed for the owner. The error is ErrSecretKey if none of the keys made it.
func (s *sealer) open(owner string, sealed []byte) ([]byte, error) {
	if len(sealed) < sealHeaderLen || sealed[0] != sealVersion {
		return nil, fmt.Errorf("directory: the secret of %s is not in a form that this program knows", owner)
	}
	for _, key := range s.keys {
		if key.made(sealed) {
			secret, err := key.aead.Open(nil, nil, sealed[sealHeaderLen:], []byte(owner))
			if err != nil {
				return nil, fmt.Errorf("directory: the secret of %s was changed, or belongs to somebody else", owner)
			}
			return secret, nil
		}
	}
	if len(s.keys) == 0 {
		return nil, errNoSecretKey
	}
	return nil, fmt.Errorf("%w: the secret of %s was sealed with another one", ErrSecretKey, owner)
}

// reseal returns what is sealed already, sealed with the first key, and whether that is something else. Nothing stays nothing.
func (s *sealer) reseal(owner string, sealed []byte) (fresh []byte, changed bool, err error) {
	if sealed == nil || len(s.keys) > 0 && s.keys[0].made(sealed) {
		return sealed, false, nil
	}
	secret, err := s.open(owner, sealed)
	if err != nil {
		return nil, false, err
	}
	fresh, err = s.seal(owner, secret)
	return fresh, err == nil, err
}

// made reports whether a secret says that it was sealed with the key.
func (k sealingKey) made(sealed []byte) bool {
	return len(sealed) >= sealHeaderLen && sealed[0] == sealVersion && string(sealed[1:sealHeaderLen]) == string(k.fingerprint[:])
}

var errNoSecretKey = fmt.Errorf("%w: none was given", ErrSecretKey)

// Owners of sealed secrets.
func ownerOfPassword(id tenant.ID) string { return "tenant " + id.String() }
func ownerOfURL(cluster string) string    { return "cluster " + cluster }
