//go:build !linux

package testenv

import "syscall"

// child is a process in a group of its own, so that a terminal's Ctrl-C is not
// for it. No kernel but Linux's ends it with the one that started it: killed, this
// process leaves it behind.
func child(cred *syscall.Credential, _ syscall.Signal) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: cred, Setpgid: true}
}
