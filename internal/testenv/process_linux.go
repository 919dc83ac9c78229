package testenv

import "syscall"

// child is a process in a group of its own, so that a terminal's Ctrl-C is not
// for it, which the kernel ends with last when the thread that started it ends.
func child(cred *syscall.Credential, last syscall.Signal) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: cred, Pdeathsig: last, Setpgid: true}
}
