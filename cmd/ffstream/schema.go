package main

import (
	"io"

	"github.com/ffstream/ffstream/docs"
)

// schemaCmd prints what describes the stream to a machine.
type schemaCmd struct {
	Document string `arg:"" optional:"" help:"event: JSON Schema of a message's body; asyncapi: AsyncAPI 3 of the stream, which refers to the former as event.v1.schema.json beside it." default:"event" enum:"event,asyncapi"`
}

// Run prints one document.
func (c *schemaCmd) Run(term terminal) error {
	text := docs.EventSchema()
	if c.Document == "asyncapi" {
		text = docs.AsyncAPI()
	}
	_, err := io.WriteString(term.out, text)
	return err
}
