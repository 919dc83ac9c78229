package testenv

import (
	"time"

	"go.uber.org/goleak"
)

// Leaks is an error that shows the goroutines which do not end. What ends by itself has
// a minute for it: nats.go gives the removal of a consumer ten seconds, the server a
// mirror as many to set itself up, and pgx closes a connection whose query was cancelled
// in the background.
func Leaks() error {
	err := goleak.Find()
	for began := time.Now(); err != nil && time.Since(began) < time.Minute; { // each takes half a second
		err = goleak.Find()
	}
	return err
}
