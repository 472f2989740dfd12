package pgdump

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"

	"github.com/jackc/pgx/v5"
)

// Write has pg_dump write to out what the options ask for, in UTF-8, and returns the major version of the server. The options say
// neither how to connect nor where to write: pg_dump gets a session of ours, as [Schema] describes. Conn is copied, not changed.
//
// The error is ErrNoProgram, that of connecting, that of the context, or what pg_dump said. What was written before is of no use then.
func Write(ctx context.Context, conn *pgx.ConnConfig, out io.Writer, options ...string) (major int, err error) {
	session, err := pgx.ConnectConfig(ctx, sessionConfig(conn))
	if err != nil {
		return 0, err
	}
	if err := session.QueryRow(ctx, `select current_setting('server_version_num')::integer / 10000`).Scan(&major); err != nil {
		return 0, errors.Join(err, closeConn(ctx, session))
	}
	program, err := find(ctx, programName, "", major)
	if err != nil {
		return 0, errors.Join(err, closeConn(ctx, session))
	}
	return major, ended(ctx, through(ctx, program, session, out, options...))
}

// Script has pg_restore turn an archive in pg_dump's custom format, from a server of the given major version, into SQL. It connects to
// nothing. The options say what part of the archive is wanted. The archive need not be read to its end.
//
// The error is ErrNoProgram, that of the context, that of reading or writing, or what pg_restore said.
func Script(ctx context.Context, archive io.Reader, major int, out io.Writer, options ...string) error {
	program, err := find(ctx, "pg_restore", "", major)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, program, append([]string{"--file=-", "--format=custom"}, options...)...)
	cmd.Env = environment()
	cmd.Stdin = archive
	return ended(ctx, run(cmd, out))
}

// ended puts the context's error before that of a program that was killed because the context has ended.
func ended(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("%w: %w", contextError(ctx), err)
	}
	return err
}

// through has a pg_dump work through the connection, which is used up.
func through(ctx context.Context, program string, conn *pgx.Conn, out io.Writer, options ...string) error {
	relay, err := newRelay(ctx, conn.PgConn())
	if err != nil {
		return errors.Join(err, closeConn(ctx, conn))
	}
	cmd := exec.CommandContext(ctx, program, append([]string{"--encoding=UTF8", "--no-password"}, options...)...)
	cmd.Env = append(environment(), "PGHOST="+relay.dir, "PGPORT="+relayPort,
		"PGUSER="+conn.Config().User, "PGDATABASE="+conn.Config().Database)
	err = run(cmd, out)
	if closeErr := relay.close(ctx, err == nil); err == nil {
		err = closeErr
	}
	return err
}

// run runs a program to its end.
func run(cmd *exec.Cmd, out io.Writer) error {
	var stderr bytes.Buffer
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = out, &stderr
	cmd.WaitDelay = closeTimeout
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w%s", cmd.Path, err, said(stderr.String()))
	}
	return nil
}
