// Package bench measures the built binary beside other readers of the same log,
// on the same servers in the same run. It prints figures and asserts none but
// the number of events: a run that stored the wrong number is void. make bench
// runs it.
package bench
