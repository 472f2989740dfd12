package transfer

import "errors"

// Sentinel errors; compare with errors.Is.
var (
	// ErrBusy reports that a migration, an export or a move of the schema is at work, or that something was defined anew meanwhile.
	ErrBusy = errors.New("somebody is at work on the schema")
	// ErrNotEmpty reports a target that is not an empty schema.
	ErrNotEmpty = errors.New("the schema is not empty")
	// ErrDiffers reports that rows at the target are not those of the source, or of the file.
	ErrDiffers = errors.New("the copy differs")
	// ErrHeld reports that open transactions kept the last step of a move from beginning. The tenant is where it was.
	ErrHeld = errors.New("open transactions do not end")
	// ErrUnsettled reports that it is not known whether the move was recorded. The tenant is not served until Abort or Finish has run.
	ErrUnsettled = errors.New("it is not known whether the move was recorded")
	// ErrLeftover reports that the source has the traces of another move: it was broken off, or its old copy was not dropped.
	ErrLeftover = errors.New("another move has left something behind")
	// ErrFile reports a file that is no export, or that was cut or changed.
	ErrFile = errors.New("not a good export")
)
