package cli

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/leasehold-go/leasehold/internal/config"
)

// atLeastOne returns the number that was given, or 0 if none was.
func atLeastOne(setting string, n *int) (int, error) {
	switch {
	case n == nil:
		return 0, nil
	case *n < 1:
		return 0, &config.Error{Setting: setting, Err: fmt.Errorf("is %d", *n), Hint: "write 1 or more, or leave it out"}
	}
	return *n, nil
}

// duration is a time to wait, which nobody can mean to be none.
type duration time.Duration

// UnmarshalText reads it.
func (d *duration) UnmarshalText(text []byte) error {
	if n, err := strconv.ParseFloat(string(text), 64); err == nil && n > 0 {
		return fmt.Errorf("%s has no unit: write %ss, %sms or %sm", text, text, text, text)
	}
	v, err := time.ParseDuration(string(text))
	switch {
	case err != nil:
		return fmt.Errorf("%q is no duration: write it as 5s, 500ms or 1m", text)
	case v <= 0:
		return errors.New("must be more than nothing: write it as 5s, 500ms or 1m")
	}
	*d = duration(v)
	return nil
}
