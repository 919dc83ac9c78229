package main
type readCmd struct{}
func (readCmd) Run() error { return nil }
