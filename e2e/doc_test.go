// Package e2e runs the built binary against real servers and holds the stream
// against what a second, independent reading of the log says it must be.
package e2e
