package ffstream

// ReadEvent and ScanEvent are the two ways in which ParseEvent reads a body.
var ReadEvent = readEvent

func ScanEvent(body []byte) (e Event, ok bool) {
	ok = scanEvent(body, &e)
	return e, ok
}
