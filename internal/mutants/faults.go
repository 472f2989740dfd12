package main

// mutants are the faults, each a mistake that somebody has made in a library like this one, or might make in this one.
var mutants = []mutant{
	// The scope.
	{"the path is set for the session", "scope.go", "set_config('search_path', $1, true)", "set_config('search_path', $1, false)"},
	{"the role is set for the session", "scope.go", "set_config('role', $3, true)\"", "set_config('role', $3, false)\""},
	{"a tenant's setting is set for the session", "scope.go", "set_config($%d, $%d, true) IS NULL", "set_config($%d, $%d, false) IS NULL"},
	{"a transaction's path is set for the session", "scope.go", "set_config('search_path', '%s', true), \"+", "set_config('search_path', '%s', false), \"+"},
	{"a transaction's role is set for the session", "scope.go", "set_config('role', '%s', true)\", schema, path", "set_config('role', '%s', false)\", schema, path"},
	{"a missing schema is not noticed", "scope.go", "[]byte(path), []byte(schema),", "[]byte(path), []byte(\"pg_catalog\"),"},
	{"a transaction does not notice a missing schema", "scope.go", "'%s'::pg_catalog.regnamespace, pg_catalog.set_config", "'%s', pg_catalog.set_config"},
	{"a setting may be one of the scope", "scope.go", "case slices.Contains(", "case false && slices.Contains("},
	{"no role is taken", "scope.go", "set_config('role', $3, true)\"", "set_config('leasehold.role', $3, true)\""},
	{"temporary tables come first", "scope.go", `path += ", pg_temp"`, `path = "pg_temp, " + path`},
	{"temporary tables are implicit", "scope.go", `path += ", pg_temp"`, ``},
	{"public is on the path", "scope.go", `path += ", pg_temp"`, `path += ", public, pg_temp"`},
	{"names are not checked", "scope.go", "if err := t.Placement.Validate(); err != nil {", "if err := t.Placement.Validate(); err != nil && false {"},
	{"a scope is kept when its tenant moves", "db.go", "if ok && old.tenant == t {", "if ok {"},
	{"the scope comes after the query", "flight.go", "	f.sendBind(name, sc.args, nil, nil)\n	f.put(executeAll.Encode(s.out))\n	return nil", "	return nil"},
	{"the scope's error is not read", "flight.go", "	if err := f.readScope(); err != nil {", "	if err := f.readScope(); err != nil && f.over && false {"},
	{"the scope is left out in one flight of many", "flight.go", "	if sc == nil {\n		return nil\n	}\n	name := sc.name", "	if sc == nil || s.names == 3 {\n		f.scope = nil\n		return nil\n	}\n	name := sc.name"},

	// Whose call it is.
	{"the last tenant stays when there is none", "db.go", "	case h.bound == nil && err != nil:\n		return nil, err", "	case h.bound == nil && err != nil:\n		for s := range h.e.scopes.Values() {\n			return s, nil\n		}\n		return nil, err"},
	{"a bound handle takes any context", "db.go", "t.ID != h.bound.ID:", "t.ID != h.bound.ID && false:"},
	{"a transaction takes any context", "tx.go", "t.ID != tx.scope.tenant.ID", "t.ID != tx.scope.tenant.ID && false"},

	// Statements and their types.
	{"statements are keyed by SQL alone", "call.go", "statementKey{r.scope, q.sql}", "statementKey{nil, q.sql}"},
	{"a batch's statements are keyed by SQL alone", "batch.go", "statementKey{r.scope, q.sql}", "statementKey{nil, q.sql}"},
	{"another tenant's description is not checked", "call.go", "if desc != nil && !sure && r.lease", "if false && desc != nil && !sure && r.lease"},
	{"a batch's borrowed descriptions are not checked", "batch.go", "if len(checks) > 0 && r.lease", "if false && len(checks) > 0 && r.lease"},
	{"a check does not look at the types", "flight.go", "THEN 1 ELSE 0 END\n", "THEN 1 ELSE 1 END\n"},
	{"a check that fails ends the transaction", "call.go", "r.flight.check(r.tx != nil,", "r.flight.check(false,"},
	{"a transaction is not returned to the state before the check", "call.go", "back := r.flight.uncheck(r.ctx, r.lease.session); back != nil", "back := error(nil); back != nil"},
	{"a borrowed description counts as sure", "call.go", "return c.lease.e.shared.get(sql), false", "return c.lease.e.shared.get(sql), true"},
	{"parameter types are left to the server", "flight.go", "oids = sh.desc.sd.ParamOIDs", "oids = nil"},
	{"columns are remembered from an older description", "flight.go", "			sh.named.fields = f.usual(sh.fields)", "			sh.named.fields = f.usual(sh.desc.sd.Fields)"},
	{"a name is used with another description than its own", "flight.go", "st.name != \"\" && st.desc == desc", "st.name != \"\""},
	{"results are asked for as another tenant's description says", "call.go", "	case careful:", "	case careful && false:"},
	{"a parameter has the type of another tenant", "description.go", "d.sd.ParamOIDs[i] = builtIn(oid)", "d.sd.ParamOIDs[i] = oid"},
	{"a fraction is cut off", "call.go", "v.Float() != math.Trunc(v.Float())", "v.Float() < math.Inf(-1)"},
	{"a stale description is kept", "call.go", "		c.scope.own.remove(sql)\n", ""},
	{"a statement is sent again in a transaction", "call.go", "	case r.tx == nil:\n		return r.flight.unfit", "	case true:\n		return r.flight.unfit"},
	{"names are used again", "session.go", "	s.names++\n", "	s.names = s.names%2 + 1\n"},
	{"names are never closed", "session.go", "			s.unneeded = append(s.unneeded, st.name)", ""},
	{"names are used through a pooler", "flight.go", "	if f.pooled || desc == nil || !sure {", "	if desc == nil || !sure {"},
	{"the scope has a name through a pooler", "flight.go", "	if pooled {\n		name = \"\"\n	}", ""},

	// The end of a call.
	{"the error of the commit is dropped", "rows.go", "	if err := r.flight.land(); r.err == nil {\n		r.err = err\n	}", "	_ = r.flight.land()"},
	{"a connection is given back before its rows are read", "call.go", "	handedOver = true\n	if err != nil {\n		return nil, r.end(", "	handedOver = true\n	if r.tx == nil {\n		r.lease.release(r.ctx)\n	}\n	if err != nil {\n		return nil, r.end("},
	{"a transaction's connection is given back at a savepoint", "tx.go", "	if tx.outer == nil {\n		defer tx.lease.release(ctx)\n	}", "	defer tx.lease.release(ctx)"},
	{"a broken flight's connection is used again", "wire.go", "	w.s.abort()\n", ""},
	{"statements that end the scope are let through", "guard.go", "	case c == refused:", "	case c == refused && false:"},
	{"a batch's last result does not wait for the commit", "rows.go", "r.index == len(r.batch.shipments)-1", "false"},
	{"a savepoint that was not rolled back is kept", "tx.go", "err != nil && tx.outer != nil && !errors.As(err, &pgErr)", "err != nil && tx.outer != nil && false && errors.As(err, &pgErr)"},
	{"a procedure may commit", "guard.go", "	case \"call\", \"do\":", "	case \"nothing\":"},
	{"settings of the session are let through", "guard.go", "sessionState.MatchString(localSettings.ReplaceAllString(sql, \"\"))", "false"},
	{"an argument's panic keeps the connection", "call.go", "if !*handedOver && c.tx == nil {", "if !*handedOver && c.tx == nil && false {"},
	{"a callback's panic keeps the connection", "batch.go", "	defer func() { err = r.finish() }() // also when a callback panics\n	for r.err == nil && r.next < len(r.shipments) {\n		r.runNext()\n	}\n	return nil", "	for r.err == nil && r.next < len(r.shipments) {\n		r.runNext()\n	}\n	return r.finish()"},

	{"everything is written before anything is read", "wire.go", "	if len(out) < backgroundWrite {", "	if len(out) >= 0 {"},

	// The lanes.
	{"a tenant has no share", "queue.go", "len(t.queue) == 0 && t.held < p.share(t)", "len(t.queue) == 0"},
	{"a tenant may have all sessions", "pins.go", "held: make(chan struct{}, p.each)", "held: make(chan struct{}, cap(p.all))"},
	{"calls are served in the order in which they came", "queue.go", "		ts.putLast(t)\n", ""},
	{"a connection may know any number of tenants", "lane.go", "case len(s.tenants) > p.cfg.MaxTenantsPerConn:", "case len(s.tenants) > p.cfg.MaxTenantsPerConn && false:"},
	{"a free connection of another login will do", "lane.go", "s.login != t.login || !anyhow", "!anyhow"},
	{"a connection goes to the tenant of another login", "lane.go", "		if s.login != t.login {\n			w := t.queue[0]", "		if s.login != t.login && false {\n			w := t.queue[0]"},
	{"brief calls take the whole share", "lane.go", "if t.pace < p.brief {", "if false {"},
	{"connections are exchanged with every call", "lane.go", "now.Sub(p.switched) < switchAfter", "false"},
	{"a call that gave up keeps what it was granted", "queue.go", "			p.release(g.session, w.load, true)\n", ""},
	{"a connection is given back in any state", "lease.go", "ctx.Err() == nil && l.idle())", "ctx.Err() == nil || true)"},
	{"calls that wait are forgotten when the handle is closed", "queue.go", "			w.granted <- grant{err: ErrClosed}\n", "			_ = w\n"},

	// Databases of tenants' own, and clusters.
	{"a connection serves any database", "databases.go", "		if s.door != t.door {", "		if s.door.Cluster != t.door.Cluster {"},
	{"a database's name is left out of the door", "server.go", "		d.Database = p.Database\n", "		d.Database, d.Login = \"\", \"\"\n"},
	{"a tenant that moved keeps its pool", "db.go", "loadKey{t.id, t.door}", "loadKey{t.id, door{}}"},
	{"the budget is not counted", "databases.go", "	if p.open < p.cfg.MaxDatabaseConns && p.slots.left() {", "	if p.slots.left() {"},
	{"a server without a slot is an error at once", "server.go", "	s.none = time.Now().Add(fullFor)\n	return true", "	return false"},
	{"each call opens a connection", "databases.go", "len(t.queue) == 0 || t.opening || t.open", "len(t.queue) == 0 || t.open"},
	{"the database used last makes room", "databases.go", "		oldest := p.idle[0]\n		p.idle = slices.Delete(p.idle, 0, 1)", "		oldest := p.idle[len(p.idle)-1]\n		p.idle = p.idle[:len(p.idle)-1]"},
	{"who waits never gets a busy tenant's connection", "databases.go", "if mine == nil || time.Since(s.since) >= tenure {", "if mine == nil {"},
	{"idle databases stay open", "databases.go", "now.Sub(s.idleSince) > p.cfg.MaxDatabaseIdleTime", "false"},
	{"a password that was changed is not asked for again", "dial.go", "pgErr.Code == codeInvalidPassword && !e.isHome(d)", "false && pgErr.Code == codeInvalidPassword && !e.isHome(d)"},
	{"an outage never ends", "server.go", "	case err == nil:\n		o.err = nil\n", "	case err == nil:\n"},
	{"a server that is away is not told from a faulty login", "server.go", "return fmt.Errorf(\"connect: %w: %w\", ErrUnavailable, err)", "return fmt.Errorf(\"connect: %w\", err)"},
	{"all clusters are one", "server.go", "	if sv := e.servers[cluster]; sv != nil {", "	cluster = e.cfg.Cluster\n	if sv := e.servers[cluster]; sv != nil {"},

	// Sessions of one's own.
	{"a session is not closed", "pinned.go", "	s.lease.e.working.Go(s.lease.close)\n", ""},
	{"a session takes any context", "pinned.go", "t.ID != s.scope.tenant.ID", "t.ID != s.scope.tenant.ID && false"},
	{"a session is opened behind a pooler", "pinned.go", "if sv.pooled.Load() {", "if sv.pooled.Load() && false {"},
	{"what lives in a session is let through", "guard.go", "case c == inSession && !pinned:", "case c == inSession && !pinned && false:"},
	{"temporary tables are let through", "guard.go", "case temporary.MatchString(", "case false && temporary.MatchString("},

	// The login.
	{"a login with rights is accepted", "dial.go", "	case mighty:", "	case mighty && false:"},
	{"the base path is left as it is", "dial.go", "pg_catalog.set_config('search_path', '', false), ", ""},
	{"values come in the form that the login has set", "dial.go", "pg_catalog.set_config('datestyle', 'ISO', false)", "1"},
}
