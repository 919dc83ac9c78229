// Package docs holds the descriptions of the stream for machines. Within v1 they
// grow and lose nothing.
package docs

import _ "embed" // of the documents

// EventSchema returns the JSON Schema (2020-12) of a message's body.
func EventSchema() string { return eventSchema }

// AsyncAPI returns the AsyncAPI 3 document of the stream.
func AsyncAPI() string { return asyncAPI }

//go:embed event.v1.schema.json
var eventSchema string

//go:embed asyncapi.v1.json
var asyncAPI string
