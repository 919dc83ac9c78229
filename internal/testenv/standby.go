package testenv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// Standby starts a hot standby of the server on a port of its own. It follows
// the server until either is closed, and answers queries from the start.
func (p *Postgres) Standby(ctx context.Context) (*Postgres, error) {
	dir, err := os.MkdirTemp("", "ffstream-pg-")
	if err != nil {
		return nil, fmt.Errorf("make directory for standby: %w", err)
	}
	s := &Postgres{BinDir: p.BinDir, dir: dir, attr: p.attr}
	if err := s.copyFrom(ctx, p); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	if err := s.Start(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (p *Postgres) copyFrom(ctx context.Context, primary *Postgres) error {
	cred := p.attr.Credential
	if cred != nil {
		if err := os.Chown(p.dir, int(cred.Uid), int(cred.Gid)); err != nil {
			return fmt.Errorf("hand directory to standby: %w", err)
		}
	}
	cmd := exec.CommandContext(ctx, filepath.Join(p.BinDir, "pg_basebackup"), "-d", primary.URL("postgres"), "-D", p.data(), "-R", "-X", "stream", "-c", "fast", "--no-sync")
	cmd.SysProcAttr, cmd.Dir = &syscall.SysProcAttr{Credential: cred}, p.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("run pg_basebackup: %w: %s", err, bytes.TrimSpace(out))
	}
	port, err := freePort()
	if err != nil {
		return err
	}
	p.Port = port
	// Of settings that are given twice the last one counts.
	return appendFile(filepath.Join(p.data(), "postgresql.conf"), fmt.Appendf(nil, "port = %d\nunix_socket_directories = '%s'\n", port, p.dir))
}
